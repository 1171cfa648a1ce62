"""Reads the metadata of installed distributions, to find those that provide start methods.

No other module uses `importlib_metadata`.  Distributions are read one by one: a malformed one leads to a
warning that names it, and the scan goes on.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from procession._registry.packaging import (
    GROUP,
    is_distribution_name,
    normalize,
    parse_entry_points,
)


class Claim(NamedTuple):
    """One entry point, in which a distribution claims to provide a start method.

    ``problem`` says why the claim cannot be used although it could be read.  ``shadowed`` is true if another
    version of the same distribution comes first on `sys.path`.
    """

    method: str
    target: str
    distribution: str
    version: str
    path: str
    problem: str = ""
    shadowed: bool = False


class Defect(NamedTuple):
    """A distribution (or a finder of distributions) that could not be read, and the reason.

    ``relevant`` is false if it certainly provides no start method.
    """

    distribution: str
    path: str
    reason: str
    relevant: bool = True


class Scan(NamedTuple):
    """The result of one reading of the installed distributions."""

    claims: tuple[Claim, ...] = ()
    defects: tuple[Defect, ...] = ()


class _Found(NamedTuple):
    """A folder of metadata; ``version`` is empty if the folder's name does not contain it."""

    name: str
    version: str
    path: str
    reader: Any


_memo: tuple[tuple[str, ...], dict[str, Scan]] = ((), {})  # sys.path, by distribution; "": all
_warned: set[Defect] = set()


def refresh() -> None:
    """Forget what was read: the next look-up sees what has been installed since."""
    global _memo
    _memo = ((), {})
    _warned.clear()
    _invalidate()


def scans(distribution: str = "") -> Iterator[Scan]:
    """Yield the remembered scan of one distribution, or of all for "", if there is one; then a new scan."""
    memo = _memo_of_path()
    known = memo.get(distribution) or _excerpt(memo.get(""), distribution)
    if known:
        yield known
        _invalidate()
    scan = _read_all(distribution)
    if scan.claims or not distribution:
        memo.clear()  # the rest may have changed as well
        memo[distribution] = scan
    _warn_of(scan.defects)
    yield scan


def _memo_of_path() -> dict[str, Scan]:
    global _memo
    key, memo = tuple(map(str, sys.path)), _memo
    if memo[0] != key:
        _memo = memo = (key, {})
    return memo[1]


def _excerpt(scan: Scan | None, distribution: str) -> Scan | None:
    claims = [each for each in scan.claims if each.distribution == distribution] if scan else ()
    return Scan(tuple(claims)) if claims else None


def _invalidate() -> None:
    # Finders notice a new folder by a time stamp, too coarse for a folder made a moment ago.
    from importlib import invalidate_caches

    invalidate_caches()


def _warn_of(defects: Iterable[Defect]) -> None:
    for defect in defects:
        if defect not in _warned:
            _warned.add(defect)
            text = f"cannot read the entry points of {defect.distribution} ({defect.path})"
            warnings.warn(f"{text}, which is skipped: {defect.reason}", RuntimeWarning, 2)


def _read_all(distribution: str) -> Scan:
    defects: list[Defect] = []
    claims: list[Claim] = []
    found = [
        each
        for each in _locate(distribution, defects)
        if each.name and distribution in ("", each.name)
    ]
    for each, shadowed in _with_shadows(found):
        own, defect = _read(each, shadowed)
        claims += own
        if defect and not shadowed:
            defects.append(defect)
    claims.sort(key=lambda claim: (claim.method, claim.distribution))
    return Scan(tuple(claims), tuple(defects))


def _locate(distribution: str, defects: list[Defect]) -> Iterator[_Found]:
    """Yield every folder of metadata once; a finder that fails becomes a defect."""
    seen: set[str] = set()
    for finder, context in _finders(distribution, defects):
        try:
            for reader in finder.find_distributions(context):
                found = _describe(reader)
                if found.path not in seen:
                    seen.add(found.path)
                    yield found
        except Exception as error:
            defects.append(Defect("unknown distributions", repr(finder), _in_words(error)))


def _finders(distribution: str, defects: list[Defect]) -> Iterator[tuple[Any, Any]]:
    try:
        from importlib_metadata import DistributionFinder, MetadataPathFinder
    except ImportError as error:  # a frozen application may leave it out
        defects.append(Defect("all distributions", "importlib_metadata", _in_words(error)))
        return
    make_context: Any = DistributionFinder.Context
    wanted = {"name": distribution} if distribution else {}
    for finder in list(sys.meta_path):
        if type(finder) is MetadataPathFinder:
            yield finder, make_context(**wanted, path=_existing_path())
        elif hasattr(finder, "find_distributions"):  # its entries may be no files
            yield finder, make_context(**wanted)


def _existing_path() -> list[Any]:
    """Return `sys.path` without missing files, often Python's archive: they would be tried as zip files."""
    return [each for each in sys.path if not isinstance(each, str) or os.path.exists(each or ".")]


def _describe(reader: Any) -> _Found:
    """Take a distribution's name from its folder: parsing METADATA would take longer than all the rest."""
    path = str(getattr(reader, "_path", "") or reader)
    stem, suffix = os.path.splitext(os.path.basename(path.rstrip("/\\")))
    name, _, rest = stem.partition("-")
    if suffix not in (".dist-info", ".egg-info"):
        name, rest = _field(reader, "Name"), ""
    name = normalize(name) if is_distribution_name(name) else ""
    return _Found(name, rest.partition("-")[0], path, reader)


def _field(reader: Any, key: str) -> str:
    try:
        return str(reader.metadata[key] or "")
    except Exception:
        return ""


def _with_shadows(found: Iterable[_Found]) -> Iterator[tuple[_Found, bool]]:
    by_name: dict[str, list[_Found]] = {}
    for each in found:
        by_name.setdefault(each.name, []).append(each)
    for versions in by_name.values():
        ranked = _rank(versions) if len(versions) > 1 else versions
        yield ranked[0], False
        yield from ((each, True) for each in ranked[1:])


def _rank(versions: list[_Found]) -> list[_Found]:
    """Sort the versions of one distribution: intact ones first, then by `sys.path`, then newest first."""
    folders = [os.path.dirname(each.path) for each in versions]
    newest = sorted(versions, key=lambda each: _as_numbers(each.version), reverse=True)
    return sorted(
        newest,
        key=lambda each: (
            not _field(each.reader, "Name"),
            folders.index(os.path.dirname(each.path)),
        ),
    )


def _as_numbers(version: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"[.+!]", version)]


def _read(found: _Found, shadowed: bool) -> tuple[list[Claim], Defect | None]:
    try:
        text = found.reader.read_text("entry_points.txt") or ""
    except Exception as error:
        return [], Defect(found.name, found.path, _in_words(error))
    pairs, problem = parse_entry_points(text)
    version = found.version or (_field(found.reader, "Version") if pairs else "")
    claims = [
        Claim(method, target, found.name, version, found.path, problem, shadowed)
        for method, target in pairs.items()
    ]
    defect = Defect(found.name, found.path, problem, GROUP in text) if problem else None
    return claims, defect


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
