"""How a rank failed, as the exceptions of a launch tell it."""

from __future__ import annotations

from typing import NamedTuple


class Failure(NamedTuple):
    """How one rank failed.

    ``kind`` is ``raised``, ``exited`` (by an exit code or a signal) or ``lost`` (contact with the
    rank is gone and its exit code unknown).  ``time`` is when it failed, as this process's
    `time.monotonic_ns`; for a rank on another host, by that host's clock, corrected by what the two differ.
    ``collateral`` is true for a rank that the launcher itself stopped, ``reported`` for one that told of its
    end itself: it raised, or called `sys.exit`.  ``stacks`` are the Python stacks of a rank that still ran
    when the launch's deadline passed.
    """

    rank: int
    kind: str
    pid: int | None = None
    host: str | None = None
    exit_code: int | None = None
    signal_name: str | None = None
    type_name: str = ""
    message: str = ""
    traceback: str = ""
    evidence: str = ""
    stacks: str = ""
    time: int = 0
    collateral: bool = False
    reported: bool = False
    pickled: bytes | None = None

    def __repr__(self) -> str:
        fields = zip(self._fields, self, strict=True)
        shown = (f"{name}={value!r}" for name, value in fields if name != "pickled")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __str__(self) -> str:
        """Return one line: the rank, and what became of it."""
        where = f" on {self.host}" if self.host else ""
        line = f"rank {self.rank} (pid {self.pid}{where}) {self._what()}"
        if self.evidence:
            line += f"; {self.evidence}"
        return line

    def _what(self) -> str:
        if self.kind == "raised":
            return f"raised {self.type_name}: {self.message}" if self.message else self.type_name
        if self.kind == "lost":
            return "was lost: its exit code is unknown"
        if self.signal_name:
            return f"was ended by {self.signal_name}"
        return f"exited with code {self.exit_code}"

    def load_exception(self) -> BaseException | None:
        """Rebuild the exception object that the rank raised; None where that cannot be done.

        This unpickles data that the rank sent: do it only for ranks whose code you trust.
        """
        if self.pickled is None:
            return None
        from procession._python.unpickle import load

        try:
            value = load(self.pickled)
        except Exception:
            return None
        return value if isinstance(value, BaseException) else None
