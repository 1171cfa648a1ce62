"""A rank's life: guard, environment, identity, payload, fn, report, exit.  Every start method lives it.

What this module imports, every rank pays for: no registry, no metadata reader, no typing_extensions, and
no multiprocessing unless fn brings it in.
"""

from __future__ import annotations

import os
import sys

from procession._rank import identity, parent_death, stacks, wire
from procession._rank.report import describe, write_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from procession._rank.report import Reporter
    from procession._rank.spec import RankSpec

    Load = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]

EXIT_BOUND = 0.3
"""Seconds that a rank which has reported a failure may spend on its exit handlers and flushing."""

_system = sys.modules[os.name]  # whose functions stay, whatever replaces those of `os`

current: tuple[int, RankSpec] | None = None
"""The rank that this process is, and its orders; None in a process that is no rank."""

mask: Any = None
"""The signals to block from when this rank can report what they do; None where it was not forked."""

loading: bool = False
"""Whether this process loads fn and args, which imports their modules: to start ranks now would never end."""

early_threads: frozenset[int] = frozenset()
"""Threads that such an import started and that still run: what they start would never end either."""

_take_leave: Callable[[bool], object] | None = None  # what `enter` was given, to be called once


def live(
    spec: RankSpec, rank: int, reporter: Reporter, guard_fd: int, load: Load
) -> tuple[int, bool]:
    """Live one rank's life up to its report; return its exit status and whether it succeeded.

    ``guard_fd`` is the read end of the launcher's death pipe (-1: none); ``load`` returns fn and args.
    """
    status, succeeded = _live(spec, rank, reporter, guard_fd, load)
    if succeeded:
        if spec["exit_barrier"]:
            from procession._rank.exit_barrier import await_others

            await_others()
        _call_leave(succeeded)
    return status, succeeded


def _live(
    spec: RankSpec, rank: int, reporter: Reporter, guard_fd: int, load: Load
) -> tuple[int, bool]:
    global current
    try:
        sentinel = parent_death.arm(guard_fd) if guard_fd >= 0 else -1
        reporter.lift()
        lead_group()
        stacks.offer()
        if spec["exit_barrier"]:
            from procession._rank.exit_barrier import hold

            hold(spec["exit_barrier"])
        current = rank, spec
        if mask is not None:
            signal = __import__("_signal")
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if spec["context"]:
            identity.assume(spec, rank, sentinel)
        _note_loading()
        fn, args = load()
        _note_loading(ended=True)
        reporter.prepare(wanted=spec["wants_results"])
        value = fn(rank, *args)
        flush_streams()
        reporter.returned(value, wanted=spec["wants_results"])
    except SystemExit as error:
        _stop_measuring()
        status = reporter.exited(error)
        return status, status == 0
    except BaseException as error:
        del_own_frame(error)
        _stop_measuring()
        reporter.raised(error)
        if spec["prints_errors"]:  # as multiprocessing's processes do
            name = identity.name_process(spec["context"], spec["identity"], rank)
            write_error(f"Process {name}:\n{describe(error)}")
        return 1, False
    return 0, True


def _note_loading(*, ended: bool = False) -> None:
    """Note that fn and args are being loaded, or have been."""
    global loading, early_threads
    loading, early_threads = not ended, frozenset()
    threading = sys.modules.get("threading")
    if ended and threading is not None and threading.active_count() > 1:
        idents = {thread.ident for thread in threading.enumerate()}
        early_threads = frozenset(idents - {threading.get_ident()})


def wait_for_go(channel: int) -> bool:
    """Wait until the launcher has hold of this process; return whether it ever will."""
    data: bytes = _system.read(channel, 1)
    return data == wire.BEGIN


def enter(spec: RankSpec, rank: int) -> None:
    """Call what the backend has each rank call first, if it does; keep what that returns for the end."""
    global _take_leave
    if spec["coverage"] is not None:
        from procession._rank import coverage

        coverage.start(spec["coverage"])
    if spec["entry"] is not None:
        where, argument = spec["entry"]
        module, _, function = where.partition(":")
        _take_leave = getattr(__import__(module, fromlist=[function]), function)(rank, argument)


def _stop_measuring() -> None:
    """Have coverage's data saved before the failure is reported: then a rank's time is bounded."""
    coverage: Any = sys.modules.get("procession._rank.coverage")
    if coverage is not None:
        coverage.stop()


def _call_leave(succeeded: bool) -> None:
    global _take_leave
    call, _take_leave = _take_leave, None
    if call is not None:
        call(succeeded)


def lead_group() -> None:
    """Make this process the leader of a group of its own, so that all it starts ends with it."""
    try:
        identity.outer_group = os.getpgid(0)
        os.setpgid(0, 0)
    except (OSError, AttributeError):  # it leads a session already; Windows has no groups
        return
    _keep_going_in_background()


def _keep_going_in_background() -> None:
    """Have a terminal not stop this rank, whose group is not the one in its foreground.

    Output and settings then work; to read from the terminal is an error (termios(3), setpgid(2)).
    """
    module = __import__("_signal")  # without the enums of `signal`
    for number in (module.SIGTTIN, module.SIGTTOU):
        if module.getsignal(number) == module.SIG_DFL:
            module.signal(number, module.SIG_IGN)


def del_own_frame(error: BaseException) -> None:
    """Take this module's frame off a traceback that goes on below it: users want theirs."""
    if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
        error.__traceback__ = error.__traceback__.tb_next


def leave(status: int, succeeded: bool) -> NoReturn:
    """End a rank whose interpreter must not finalise itself: a forked one, or one that failed.

    Exit handlers run and streams are flushed.  After a failure the time for that is bounded: the
    launcher knows all it needs, and a handler may wait for ranks that will not come.
    """
    try:
        if not succeeded:
            _bound_exit()
            _call_leave(succeeded)
        run_exit_handlers()
        identity.end_tracker()
    except BaseException as error:
        write_error(describe(error))
    finally:
        os._exit(status)


def run_exit_handlers() -> None:
    """Wait for non-daemon threads, run `atexit` handlers, flush: what an interpreter's end does."""
    import atexit

    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()
    finally:
        try:
            atexit._run_exitfuncs()
        finally:
            flush_streams()


def flush_streams() -> bool:
    """Flush standard output and error, where they are; return whether both can be flushed.

    Raises:
        OSError: what was written is lost.
    """
    works = True
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name, None)
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except OSError as error:
            if isinstance(error, ValueError):  # io.UnsupportedOperation
                works = False
            else:
                raise
        except Exception:  # it is an object of the user's, or was detached
            works = False
    return works


def change_environment(changes: Mapping[str, str | None]) -> None:
    """Set the variables in ``changes``; remove those whose value is None."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _bound_exit() -> None:
    signal = __import__("_signal")  # without the enums of `signal`
    if not hasattr(signal, "setitimer"):  # Windows: the launcher ends a rank that stays
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action needs no interpreter
    signal.setitimer(signal.ITIMER_REAL, EXIT_BOUND)
