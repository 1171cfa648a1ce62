"""The seam between the core and its backends: what a backend is given, and what it gives back.

Nothing in this module runs anything.  A backend needs to subclass nothing: any object with the attributes
of `Backend` is one.  The small Protocols whose names begin with ``Supports`` describe what a process may
have besides; the core looks for each of their attributes and does without those that are missing.  See
``docs/how-to/write-a-backend.md``.  What holds values is a named tuple: ``launch.replace(nprocs=2)``
returns a changed copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self

PROTOCOL_VERSION = 1
"""The version of this protocol.  A backend of version N or N-1 is accepted."""

Sentinel = Any
"""What `multiprocessing.connection.wait` accepts; readable once the rank's process has ended."""


class Signals(NamedTuple):
    """What signals mean for one launch.

    Attributes:
        forward: signals, SIGUSR1 or SIGUSR2, that are passed on to all ranks when the caller gets them
            while it waits.  Their ranks need handlers: the default action of both ends a process.
        keep_handlers: forked ranks keep the caller's handlers of SIGTERM, SIGINT, SIGHUP and SIGCHLD.
            Otherwise they start with the actions of a fresh process.  Handlers of an event loop are
            never kept.
    """

    forward: tuple[int, ...] = ()
    keep_handlers: bool = False


class Launch(NamedTuple):
    """One call of `start_processes`, validated and frozen.

    ``environments`` holds one mapping a rank; a value of None removes that variable.  Times are in
    seconds; ``timeout`` is the total deadline and ``grace_period`` the caller's own, both or None.
    ``keep_daemons`` spares what ranks start in sessions of their own.  With ``supervise`` a thread of the
    caller waits for the ranks.  With ``prints_errors`` a rank writes its traceback to standard error
    as well, since nobody may ever ask for its report.  Messages call the launch ``name``.  Without
    ``fail_fast`` the others go on when a rank fails.  With ``rendezvous`` ranks find each other by
    RANK, WORLD_SIZE, MASTER_ADDR and the like, which for local ranks are in ``environments``.
    ``identity`` is multiprocessing's for the process of rank 0; its last number counts on by rank.

    ``entry`` and ``exit_barrier`` are for a backend that has another one start its ranks.  ``entry`` is
    ``("module:function", argument)``: each rank calls ``function(rank, argument)``, once its environment is
    in force and before it imports the main module or unpickles anything; what that returns, if not None,
    is called with whether the rank succeeded, once it has reported.  ``argument`` is what `marshal` can
    write.  With ``exit_barrier`` a rank whose function has returned stays until all have (or have
    ended otherwise).
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    nprocs: int
    start_method: str
    daemon: bool = False
    environments: tuple[Mapping[str, str | None], ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})
    grace_period: float | None = None
    timeout: float | None = None
    allow_early_exit: bool = False
    wants_results: bool = True
    keep_daemons: bool = False
    entry: tuple[str, Any] | None = None
    exit_barrier: bool = False
    signals: Signals = Signals()
    supervise: bool = False
    prints_errors: bool = False
    name: str = ""
    fail_fast: bool = True
    rendezvous: bool = False
    identity: tuple[int, ...] = (1,)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Raises:
            TypeError, ValueError: there is no such field.
        """
        return self._replace(**changes)


class Report(NamedTuple):
    """What a rank told about itself before its process ended.

    ``kind`` is ``returned``, ``raised``, ``exited`` (`sys.exit` with a failure) or ``unreadable`` (something
    came that cannot be read).  ``time`` is the rank's own `time.monotonic_ns`, 0 if unknown.  ``result``
    is the pickled return value of a rank that returned, None where there is none; ``exception`` the
    pickled exception of one that raised.  ``text`` is the traceback, the argument of `sys.exit`, why
    there is no result, or why the report cannot be read.
    """

    kind: str
    time: int = 0
    type_name: str = ""
    message: str = ""
    text: str = ""
    result: bytes | memoryview | None = None
    exception: bytes | None = None


class Process(Protocol):
    """A rank's process as its launcher sees it: a `multiprocessing.Process` is one.

    It may also have what `SupportsSignal`, `SupportsStacks`, `SupportsRelease`, `SupportsHost` and
    `SupportsDescendants` describe.  The core looks for each attribute where it needs it.
    """

    @property
    def pid(self) -> int | None:
        """Process id on the rank's host."""

    @property
    def exitcode(self) -> int | None:
        """None while the process is alive (or if nobody can know); -N if signal N ended it."""

    def is_alive(self) -> bool:
        """Whether the process has not ended yet.  Never blocks."""
        ...

    def join(self, timeout: float | None = None) -> None:
        """Wait until the process has ended, for at most ``timeout`` seconds."""

    def terminate(self) -> None:
        """Ask the process, and what it started, to end (SIGTERM, then SIGCONT).  Never blocks."""

    def kill(self) -> None:
        """End the process and what it started (SIGKILL).  Never blocks."""


class SupportsSignal(Protocol):
    """A `Process` that can be sent any signal.

    Without it Ctrl-C reaches the rank as SIGTERM, and `Signals.forward` does not reach it at all.
    """

    def send_signal(self, number: int) -> None:
        """Send a signal to the process.  Never blocks; does nothing once the process has ended."""


class SupportsStacks(Protocol):
    """A `Process` whose Python stacks can be read while it runs.

    Without it neither `ProcessContext.dump_stacks` nor a `ProcessTimeoutError` shows this rank's stacks.
    """

    def ask_stacks(self) -> bool:
        """Ask for the stacks; return whether the process can answer.  Never blocks."""
        ...

    def take_stacks(self) -> str | None:
        """Return the stacks as text; None while they are not complete.  Never blocks."""


class SupportsRelease(Protocol):
    """A `Process` that holds something in the caller: a descriptor, a connection.

    Without it that is freed whenever the object is.
    """

    def release(self) -> None:
        """Free what the object holds.

        It is called once, after the process has ended, and never for a process that nothing could end.
        ``pid``, ``exitcode``, ``is_alive`` and ``join`` must still answer afterwards.  What it raises is
        logged.
        """


class SupportsHost(Protocol):
    """A `Process` on another host.  Without ``host`` the core reads /proc for the process's number."""

    host: str | None
    """Where the rank runs, for messages and `Failure.host`; None for this machine."""
    lost: str | None
    """Why contact with the process is gone; None while it is there.  Without it: contact is never lost."""
    evidence: str
    """What its host knows of its end by SIGKILL, such as the kernel's count of out-of-memory kills."""


class SupportsDescendants(Protocol):
    """A `Process` that leads a process group on this machine.

    Without it the core ends what such a rank has started by its launch's mark alone, which is slower.
    """

    leaves_group: bool
    """Whether the process has ended and something that it started may still be in its group."""


class ErrorChannel(Protocol):
    """Carries at most one `Report` from a rank.

    Readable (in the sense of `select`) once the rank has reported, which is before it ends.  An optional
    attribute ``left_unread`` (bool) tells that the rank ended before it had read all that was sent to it.
    """

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        ...

    def receive(self) -> Report | None:
        """Return the report if it is complete, else None; never block.

        Raises:
            EOFError: nothing (more) will come.
            Exception: what came cannot be read.  The rank has then failed.
        """

    def close(self) -> None:
        """Free the caller's end.  May be called twice."""


class Started(NamedTuple):
    """What `Backend.start` returns: three sequences of length ``nprocs``; index = rank.

    Once the last rank has ended and been reaped, ``on_failure`` is called if a rank failed or was
    stopped (it ends what the ranks have started), and ``on_finish`` in any case.  One that an interrupt
    cuts short is called again.
    """

    processes: Sequence[Process]
    sentinels: Sequence[Sentinel]
    error_channels: Sequence[ErrorChannel]
    on_finish: Callable[[], None] | None = None
    on_failure: Callable[[], None] | None = None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Raises:
            TypeError, ValueError: there is no such field.
        """
        return self._replace(**changes)


class Capabilities(NamedTuple):
    """What a backend claims; the conformance kit tests what is claimed and skips the rest by name."""

    remote: bool = False
    """Ranks may run on other hosts."""
    signals: bool = True
    """Ranks can be signalled, and ``exitcode`` tells the signal that ended one."""
    exit_codes: bool = True
    """``exitcode`` is the rank's own."""
    daemon: bool = True
    """``daemon=True`` is honoured: such a rank may start no launches of its own."""
    environment: bool = True
    """``env`` is in force before the rank imports or unpickles anything."""
    by_reference: bool = False
    """``fn`` and ``args`` are handed over unpickled (the rank is a copy of the caller)."""
    descendants: bool = False
    """What ranks start ends with them (from a session of its own, if a rank fails) and with the caller."""
    stacks: bool = False
    """The stacks of a rank can be had while it hangs."""
    exit_barrier: bool = False
    """A rank whose function has returned stays until those of all have, or their ranks have ended."""
    rendezvous: bool = False
    """Ranks get RANK, WORLD_SIZE, MASTER_ADDR and the like unless the caller says ``rendezvous=False``."""
    context: str | None = None
    """The `multiprocessing` context whose queues and locks fit; None where there are none."""

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Raises:
            TypeError, ValueError: there is no such field.
        """
        return self._replace(**changes)


class Availability(NamedTuple):
    """Whether a backend can be used here; if not, why and what to do about it."""

    ok: bool
    reason: str = ""
    hint: str = ""


class Backend(Protocol):
    """Starts the ranks of a launch.  An instance serves any number of launches, from any thread.

    Optional attributes: ``options`` (a collection of the option names that ``start`` understands;
    default: none) and ``default_nprocs(options)`` (what ``nprocs=None`` means).
    """

    @property
    def name(self) -> str:
        """The start method's name."""
        ...

    @property
    def protocol_version(self) -> int:
        """The `PROTOCOL_VERSION` this backend was written for."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What this backend claims."""
        ...

    def availability(self) -> Availability:
        """Tell whether the backend can be used here; local, under 5 ms, imports nothing heavy."""
        ...

    def start(self, launch: Launch) -> Started:
        """Start all ranks or none: on an error nothing is left behind."""
        ...
