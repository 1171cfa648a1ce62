"""The rows of the benchmark of a launch: each has a measurement, contestants, a reference and a goal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from programs import make_programs

Request = Mapping[str, Any]
"""A request to a worker (worker.py)."""

Answer: TypeAlias = "dict[str, float]"
"""The answer of a worker: numbers by name."""

GROUP = "procession.start_methods"
METHODS = ("fork", "spawn", "forkserver")
SECONDS = "seconds"
RATIO = "ratio"


@dataclass(frozen=True, slots=True)
class Goal:
    """The largest allowed median of procession's ratio to the reference, or of one of its numbers."""

    most: float
    of: str = RATIO


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    ``number`` is the number of an answer that counts.  ``own`` has changes to the request for single
    contestants.  ``variants`` has requests that are made in turn; those in ``long`` are made with ``--full``
    only.  Contestants in ``slow`` measure in the first `FEW` rounds only.
    """

    name: str
    what: str
    request: Request
    contestants: tuple[str, ...]
    reference: str = ""
    goal: Goal | None = None
    repeat: int = 9
    number: str = SECONDS
    own: Mapping[str, Request] = field(default_factory=dict)
    variants: Mapping[str, Request] = field(default_factory=lambda: {"": {}})
    long: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    cold: bool = False
    heavy: bool = False

    def make_request(self, contestant: str, variant: str) -> dict[str, Any]:
        """Return the request to a contestant's worker."""
        return {**self.request, **self.own.get(contestant, {}), **self.variants[variant]}


FEW = 3
"""Rounds in which a slow contestant measures: torch, where each of its ranks imports it."""

_PEERS = ("procession", "stdlib", "torch")


def _launch(method: str, ranks: int, **more: Any) -> Request:
    return {"measure": "launch", "method": method, "ranks": ranks, **more}


def _make_heavy(name: str, state: str, cold: bool) -> Row:
    return Row(
        name,
        "8 ranks, fn in a main module that takes 0.5 s to import: procession by a forkserver that "
        f"{state}, the others by spawn",
        _launch("spawn", 8, of_main=True),
        _PEERS,
        "stdlib",
        Goal(0.3),
        repeat=5,
        own={"procession": {"method": "forkserver", "cold": cold}},
        slow=("torch",),
        cold=cold,
        heavy=True,
    )


def _make_raise(method: str) -> Row:
    return Row(
        f"raise-{method}",
        f"from a raise in one of 8 ranks to the caller's exception, by {method}",
        {"measure": "raise", "method": method, "ranks": 8},
        ("procession", "torch"),
        goal=Goal(0.005, SECONDS),
        slow=() if method == "fork" else ("torch",),
    )


def _make_scale(method: str) -> Row:
    return Row(
        f"scale-{method}",
        f"what a rank costs among 512 / among 32, by {method}",
        {"measure": "scale", "method": method, "few": 32, "many": 512},
        _PEERS if method == "fork" else _PEERS[:2],
        goal=Goal(1.1, "growth"),
        repeat=3,
        number="growth",
    )


def _make_ranks(method: str) -> Row:
    counts = {"1 rank": {"ranks": 1}}
    counts |= {f"{count} ranks": {"ranks": count} for count in (4, 16, 64, 256, 1024)}
    return Row(
        f"ranks-{method}",
        f"ranks that do nothing, by {method}, by their number",
        _launch(method, 0),
        ("procession",),
        repeat=3 if method == "spawn" else 5,
        variants=counts,
        long=("1024 ranks",) if method == "spawn" else (),
    )


def _make_inside(method: str) -> Row:
    return Row(
        f"inside-{method}",
        f"from the call until all of 16 ranks are inside fn, by {method}",
        {"measure": "enter", "method": method, "ranks": 16},
        _PEERS,
        slow=() if method == "fork" else ("torch",),
    )


def _make_resolve(kind: str, what: str, goal: Goal | None = None, **codes: str) -> Row:
    return Row(
        f"resolve-{kind}",
        f"from the name of a {kind} start method to its backend, in a fresh interpreter; {what}",
        {"measure": "resolve"},
        tuple(codes),
        "bare",
        goal,
        repeat=15,
        own={contestant: {"code": code} for contestant, code in codes.items()},
        variants={f"{count} distributions": {"distributions": count} for count in (50, 200, 800)},
    )


_READ_ALL = "from {} import entry_points; [entry] = entry_points(group='{}', name='third')"
_READ_ONE = (
    "import importlib_metadata as m; entries = m.distribution('procession-xla').entry_points"
)
_SELECT = f"[entry] = entries.select(group='{GROUP}', name='xla')"
_USE = "entry.load()().availability()"

ROWS = [
    Row(
        "fork",
        "64 ranks that do nothing, by fork; bare: fork, _exit, waitpid",
        _launch("fork", 64),
        ("bare", *_PEERS, "mpire"),
        "bare",
        Goal(1.5),
        repeat=15,
    ),
    Row(
        "spawn",
        "16 ranks that do nothing, by spawn; bare: an interpreter that runs nothing, for each",
        _launch("spawn", 16),
        ("bare", *_PEERS, "mpire", "loky"),
        "bare",
        Goal(2.0),
        slow=("torch",),
    ),
    Row(
        "forkserver",
        "32 ranks that do nothing, by a forkserver that is warm; bare: fork, _exit, waitpid",
        _launch("forkserver", 32),
        ("bare", *_PEERS, "mpire"),
        "bare",
        Goal(2.5),
        repeat=15,
        slow=("torch",),
    ),
    Row(
        "script",
        "a whole script, from the shell, that starts 4 ranks of a function of its own by spawn; bare: one "
        "that starts 4 interpreters that run nothing",
        {"measure": "script"},
        ("bare", *_PEERS, "mpire", "loky"),
        "stdlib",
        Goal(1.0),
        own={name: {"code": code} for name, code in make_programs(4).items()},
        slow=("torch",),
    ),
    _make_heavy("heavy", "is started for each launch", cold=True),
    _make_heavy("heavy-warm", "is warm", cold=False),
    Row(
        "array",
        "a numpy array of 512 MiB to 4 ranks, by spawn; bare: one copy of it into a memfd",
        {"measure": "array", "method": "spawn", "ranks": 4, "mib": 512},
        ("bare", *_PEERS),
        "stdlib",
        Goal(0.03),
        repeat=5,
        slow=("torch",),
    ),
    Row(
        "memory",
        "memory that a launch adds while 4 ranks hold an array of 256 MiB and have read it, by spawn, in "
        "sizes of the array (PSS of caller and ranks)",
        {"measure": "memory", "method": "spawn", "ranks": 4, "mib": 256},
        _PEERS,
        goal=Goal(1.1, "sizes of the array"),  # without what empty ranks take
        repeat=3,
        number="sizes",
    ),
    Row(
        "dict",
        "a dict of 2,000,000 integers to 4 ranks, by spawn",
        {"measure": "dict", "method": "spawn", "ranks": 4, "length": 2_000_000},
        _PEERS,
        "stdlib",
        repeat=3,
    ),
    *map(_make_raise, METHODS),
    *map(_make_scale, METHODS),
    *map(_make_ranks, METHODS),
    *map(_make_inside, METHODS),
    Row(
        "fds",
        "descriptors that a caller has open for each of 16 ranks that run",
        {"measure": "descriptors", "ranks": 16},
        _PEERS,
        repeat=3,
        number="descriptors",
        variants={method: {"method": method} for method in METHODS},
    ),
    Row(
        "import",
        "what importing it adds to an interpreter that runs nothing; bare: that interpreter",
        {"measure": "import"},
        ("bare", *_PEERS, "mpire", "loky"),
        goal=Goal(0.005, SECONDS),
        repeat=15,
    ),
    _make_resolve(
        "built-in",
        "bare: its class, imported from its module and asked whether it can be used",
        bare="from procession.backends.spawn import SpawnBackend; SpawnBackend().availability()",
        procession="from procession import get_backend; get_backend('spawn')",
    ),
    _make_resolve(
        "first-party",
        "bare: the entry points of its distribution, by importlib_metadata",
        bare=f"{_READ_ONE}; {_SELECT}; {_USE}",
        procession="from procession import get_backend; get_backend('xla')",
    ),
    _make_resolve(
        "third-party",
        "bare: entry_points() of importlib_metadata, stdlib: of importlib.metadata",
        Goal(1.0),
        bare=f"{_READ_ALL.format('importlib_metadata', GROUP)}; {_USE}",
        procession="from procession import get_backend; get_backend('third')",
        stdlib=f"{_READ_ALL.format('importlib.metadata', GROUP)}; {_USE}",
    ),
]
