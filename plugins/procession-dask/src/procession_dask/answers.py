"""Checks what workers answer to `worker.look`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from procession_dask.worker import VERSION

_UNKNOWN = ("ModuleNotFoundError", "ImportError", "AttributeError")
"""The exceptions that Dask's answer names when a worker cannot unpickle a function of ours."""


def find_problem(addresses: Iterable[str], answers: Mapping[str, Any], transport: str) -> str:
    """Return why these workers cannot start agents; an empty string if they can."""
    for address in addresses:
        problem = _find_problem(answers.get(address), transport)
        if problem:
            return f"worker {address} {problem}"
    return ""


def _find_problem(answer: Any, transport: str) -> str:
    if answer is None:
        return "is gone"
    if isinstance(answer, Exception) and any(error in repr(answer) for error in _UNKNOWN):
        return f"lacks procession-dask, or has another version: {answer}; install it in its environment"
    if isinstance(answer, Exception):
        return f"does not answer: {answer!r}"
    if answer["version"] != VERSION:
        theirs, ours = (".".join(map(str, each[-2:])) for each in (answer["version"], VERSION))
        return (
            f"runs Python {theirs}, and this is {ours}, or another version of procession or procession-dask; "
            "it must have the same versions as its caller"
        )
    if transport == "connect" and not answer["reaches"]:
        return (
            f"on {answer['host']} cannot connect to this process; give the option 'advertise', an address of "
            "this machine that it can reach, or leave 'transport' at 'auto'"
        )
    return ""
