"""`Failure`: how one rank failed, for exceptions, logs and callers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Failure(NamedTuple):
    """How one rank failed.

    ``kind`` is ``raised``, ``exited`` (with an exit code, or by a signal) or ``lost`` (the connection to the
    rank is gone and its exit code unknown).  ``time`` is when it failed, in this process's
    `time.monotonic_ns`; for a rank on another host it is that host's clock, corrected by the offset.
    ``collateral`` is true for a rank that the launcher stopped, ``reported`` for one that reported its end
    itself: it raised, or called `sys.exit`.  ``stacks`` are the Python stacks of a rank that still ran
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
        """Return one line: the rank, and how it failed."""
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
        """Rebuild the exception object that the rank raised; return None if that is not possible.

        This unpickles data that the rank sent: call it only for ranks whose code you trust.
        """
        if self.pickled is None:
            return None
        from procession._python.unpickle import load

        try:
            value = load(self.pickled)
        except Exception:
            return None
        return value if isinstance(value, BaseException) else None

    @property
    def torch_message(self) -> str:
        """The message of torch's exception for this failure, followed by what torch does not report."""
        if self.kind == "raised":
            message = f"\n\n-- Process {self.rank:d} terminated with the following error:\n{self.traceback}"
            return message + (f"host: {self.host}\n" if self.host else "")
        if self.kind == "lost":
            ending = f"was lost: {self.message}"
        elif self.signal_name:
            ending = f"terminated with signal {self.signal_name}"
        else:
            ending = f"terminated with exit code {self.exit_code:d}"
        if self.kind == "exited" and self.message:
            ending += f": {self.message}"
        where = f"\nhost: {self.host}" if self.host else ""
        return f"process {self.rank:d} {ending}{where}"

    def list_notes(self, others: Sequence[Failure]) -> list[str]:
        """Return the notes for the exception of this root cause; ``others`` are the other failures."""
        notes = [self.evidence] if self.evidence else []
        own = [one for one in others if not one.collateral]
        if own:
            notes.append("other ranks that failed:\n" + "\n".join(f"  {one}" for one in own))
        stopped = sorted(one.rank for one in others if one.collateral)
        if stopped:
            notes.append(f"then stopped: rank {', '.join(map(str, stopped))}")
        notes += [f"rank {one.rank}: {one.message}" for one in others if one.kind == "lost"]
        return notes
