"""Parses the text formats of packaging standards: names of distributions, and entry_points.txt."""

from __future__ import annotations

import re

GROUP = "procession.start_methods"
"""The group of entry points under which distributions provide start methods."""

_NAME = re.compile(r"[A-Z0-9]([A-Z0-9._-]*[A-Z0-9])?", re.IGNORECASE)  # PEP 508


def normalize(distribution: str) -> str:
    """Return a distribution's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def is_distribution_name(text: str) -> bool:
    """Tell whether a distribution may have this name."""
    return _NAME.fullmatch(text) is not None


def parse_entry_points(text: str) -> tuple[dict[str, str], str]:
    """Return the entry points of `GROUP`, and the first problem anywhere in the file ("" if none)."""
    group, problem = "", ""
    pairs: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            problem = problem or f"entry_points.txt line {number} has no '=': {line[:60]!r}"
        elif group == GROUP and pairs.setdefault(name, value) != value:
            problem = problem or f"entry_points.txt line {number} claims {name!r} a second time"
    return pairs, problem
