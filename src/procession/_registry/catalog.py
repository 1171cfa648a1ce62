"""Decides which distribution provides a start method, without loading any backend.

    built-in > first-party distribution > third party

Built-in names resolve without reading metadata, and so work in frozen applications too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from procession._registry.builtin import BUILT_IN
from procession._registry.packaging import is_distribution_name, normalize
from procession.exceptions import AmbiguousBackendError, UnknownBackendError

if TYPE_CHECKING:
    from procession._registry.entry_points import Claim, Scan

CORE = "procession"

FIRST_PARTY = {
    "xla": "procession-xla",
    "mpi": "procession-mpi",
    "slurm": "procession-slurm",
    "ray": "procession-ray",
    "dask": "procession-dask",
}
"""Names that are reserved for these distributions of the project."""

ALLOW_LIST = "PROCESSION_PLUGINS"
"""The environment variable that names the distributions that may provide plugins."""


class Candidate(NamedTuple):
    """A provider of a start method; ``status`` is empty if it may be used."""

    name: str
    origin: str
    target: str
    distribution: str = ""
    version: str = ""
    status: str = ""
    reason: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """Return the provider as error messages name it: the distribution and version, or the origin."""
        return " ".join(filter(None, (self.distribution, self.version))) or self.origin


def find_candidate(name: str, *, registered: Iterable[str] = ()) -> Candidate:
    """Return the one candidate for a name or ``distribution:name``.

    ``registered`` are further names that an error may suggest.

    Raises:
        UnknownBackendError: there is no candidate.
        AmbiguousBackendError: there are several candidates.
    """
    distribution, colon, method = name.rpartition(":")
    if method in BUILT_IN and distribution == (CORE if colon else ""):
        return _built_in(method)
    found = _look_up(method, distribution) if distribution or not colon else []
    if not found:
        raise _unknown(name, registered)
    if len(found) > 1:
        pairs = tuple((each.distribution, each.target) for each in found)
        raise AmbiguousBackendError(name, candidates=pairs)
    return found[0]


def list_candidates() -> list[Candidate]:
    """Return all candidates, including those that cannot be used."""
    plugins = _classify(_scan_everything())
    return [*(add_version(_built_in(name)) for name in BUILT_IN), *plugins]


def add_version(candidate: Candidate) -> Candidate:
    """Return the candidate; if it is built in, with the core's version, which resolving does not read."""
    if candidate.origin != "built-in":
        return candidate
    from procession._registry.entry_points import scans

    return candidate._replace(version=next((each.version for each in next(scans(CORE)).claims), ""))


def _built_in(name: str) -> Candidate:
    return Candidate(name, "built-in", BUILT_IN[name], CORE)


def _look_up(method: str, distribution: str) -> list[Candidate]:
    """Read the one distribution if it is known, else all of them; read again if that finds nothing."""
    from procession._registry.entry_points import scans

    allowed = read_allow_list()
    if allowed is not None and not allowed:
        return []
    for scan in scans(normalize(distribution) or FIRST_PARTY.get(method, "")):
        found = [each for each in _classify(scan, by_name=not distribution) if each.name == method]
        usable = [each for each in found if each.status in ("", "ambiguous")]
        if usable:
            return usable
    return []


def _scan_everything() -> Scan:
    from procession._registry.entry_points import Scan, scans

    return Scan() if read_allow_list() == frozenset() else next(scans())


def read_allow_list() -> frozenset[str] | None:
    """Return the distributions that may provide plugins; None means all.

    Raises:
        ValueError: PROCESSION_PLUGINS is neither a list of distribution names nor "none".
    """
    text = os.environ.get(ALLOW_LIST)
    if text is None:
        return None
    if text.strip().lower() == "none":
        return frozenset()
    names = [part.strip() for part in text.split(",")]
    wrong = [name for name in names if not is_distribution_name(name) or name.lower() == "none"]
    if wrong:
        raise ValueError(
            f"{ALLOW_LIST}={text!r} must be distribution names separated by commas, or 'none': "
            f"{wrong[0]!r} is not a distribution name"
        )
    return frozenset(map(normalize, names))


def _classify(scan: Scan, *, by_name: bool = True) -> list[Candidate]:
    """Return a candidate with a status for every claim; ``by_name``: the caller named no distribution."""
    allowed = read_allow_list()
    judged = [_judge(claim, allowed, by_name=by_name) for claim in scan.claims if _is_plugin(claim)]
    by_method: dict[str, dict[str, Candidate]] = {}
    for each in judged:
        if not each.status:
            by_method.setdefault(each.name, {}).setdefault(each.target, each)
    return [_compare(each, by_method.get(each.name, {})) for each in judged]


def _is_plugin(claim: Claim) -> bool:
    return claim.distribution != CORE or claim.method not in BUILT_IN


def _judge(claim: Claim, allowed: frozenset[str] | None, *, by_name: bool) -> Candidate:
    ours = claim.distribution in FIRST_PARTY.values()
    candidate = Candidate(
        claim.method,
        "first-party" if ours else "third-party",
        claim.target,
        claim.distribution,
        claim.version,
    )
    status, reason, hint = _objection(claim, allowed)
    if by_name and not status:
        status, reason, hint = _precedence(claim)
    return candidate._replace(status=status, reason=reason, hint=hint)


def _objection(claim: Claim, allowed: frozenset[str] | None) -> tuple[str, str, str]:
    if claim.shadowed:
        return "shadowed", f"another version of {claim.distribution} comes first on sys.path", ""
    if allowed is not None and claim.distribution not in allowed:
        hint = f"add {claim.distribution} to {ALLOW_LIST}"
        return "not allowed", f"{ALLOW_LIST} does not list {claim.distribution}", hint
    if claim.problem:
        return "broken", claim.problem, f"reinstall {claim.distribution}"
    return "", "", ""


def _precedence(claim: Claim) -> tuple[str, str, str]:
    owner = CORE if claim.method in BUILT_IN else FIRST_PARTY.get(claim.method)
    if owner in (None, claim.distribution):
        return "", "", ""
    hint = f"use '{claim.distribution}:{claim.method}'"
    return "shadowed", f"the name is reserved for {owner}", hint


def _compare(candidate: Candidate, rivals: dict[str, Candidate]) -> Candidate:
    if candidate.status:
        return candidate
    first = rivals[candidate.target]
    if first is not candidate:
        reason = f"{first.distribution} provides the same target"
        return candidate._replace(status="shadowed", reason=reason)
    if len(rivals) == 1:
        return candidate
    others = ", ".join(each.distribution for each in rivals.values() if each is not candidate)
    hint = f"use '{candidate.distribution}:{candidate.name}'"
    return candidate._replace(status="ambiguous", reason=f"also provided by {others}", hint=hint)


def _unknown(name: str, registered: Iterable[str]) -> UnknownBackendError:
    from difflib import get_close_matches

    scan = _scan_everything()
    found = _classify(scan)
    usable = {each.name for each in found if each.status in ("", "ambiguous")}
    known = tuple(sorted({*BUILT_IN, *registered, *usable}))
    close = get_close_matches(name, {*known, *FIRST_PARTY}, n=1)
    installed = {claim.distribution for claim in scan.claims}
    installed.update(defect.distribution for defect in scan.defects)
    owner = FIRST_PARTY.get(name) or FIRST_PARTY.get(close[0] if close else "")
    can_tell = owner not in installed and read_allow_list() != frozenset()
    return UnknownBackendError(
        name,
        known=known,
        suggestion=close[0] if close and close[0] != name else None,
        install=owner if can_tell else None,
        broken=tuple((each.distribution, each.reason) for each in scan.defects if each.relevant),
        because=_because(name, found),
    )


def _because(name: str, found: Iterable[Candidate]) -> str:
    if read_allow_list() == frozenset():
        return f"{ALLOW_LIST} is 'none', which disables plugins"
    method = name.rpartition(":")[2]
    return ". ".join(
        f"{each.distribution} provides it, but {each.reason}" + (each.hint and f" ({each.hint})")
        for each in found
        if each.name == method and each.status in ("shadowed", "not allowed")
    )
