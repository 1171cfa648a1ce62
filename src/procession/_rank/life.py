"""A rank's life, in the same order under every start method.

1. Wait until the caller can supervise this process (`wait_for_go`); arm the parent-death signal.
2. Lead a process group, offer stacks, hold the exit barrier, unblock signals, take on an identity.
3. Adopt the caller's surroundings if bootstrapped, call the backend's entry, load fn and args.
4. Call fn, flush its output, and report how it ended, in one frame up the channel.
5. Wait at the exit barrier if fn succeeded, run exit handlers, flush, exit with the status.

A portable rank skips step 1.  Every rank pays for what this module imports: no registry, no metadata reader,
no typing_extensions, and no multiprocessing unless fn brings it in.
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
"""Seconds that a rank may spend on exit handlers and flushing after it has reported a failure."""

_system = sys.modules[os.name]  # its functions stay original where those of `os` are patched

current: tuple[int, RankSpec] | None = None
"""The rank that this process is, and its spec; None in a process that is not a rank."""

mask: Any = None
"""The signals to block once this rank can report what they do; None if it was not forked."""

loading: bool = False
"""Whether this process loads fn and args, which imports their modules: a launch in there would never end."""

early_threads: frozenset[int] = frozenset()
"""Threads that such an import started and that still run: a launch in them would never end either."""

_on_leave: Callable[[bool], object] | None = None  # what the entry returned; called once


def live(
    spec: RankSpec, rank: int, reporter: Reporter, death_pipe: int, load: Load
) -> tuple[int, bool]:
    """Run one rank up to its report and the exit barrier; return its exit status and whether it succeeded.

    ``death_pipe`` is the read end of the caller's death pipe (-1: none); ``load`` returns fn and args.
    """
    status, succeeded = _live(spec, rank, reporter, death_pipe, load)
    if succeeded:
        if spec["exit_barrier"]:
            from procession._rank.exit_barrier import await_others

            await_others()
        _call_leave(succeeded)
    return status, succeeded


def _live(
    spec: RankSpec, rank: int, reporter: Reporter, death_pipe: int, load: Load
) -> tuple[int, bool]:
    global current
    try:
        sentinel = parent_death.arm(death_pipe) if death_pipe >= 0 else -1
        reporter.lift()
        lead_group()
        stacks.offer()
        if spec["exit_barrier"]:
            from procession._rank.exit_barrier import hold

            hold(spec["exit_barrier"])
        current = rank, spec
        _set_mask()
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


def _set_mask() -> None:
    """Block what a rank blocks.  An executed one has its caller's mask, and admits what asks it to end."""
    signal = __import__("_signal")  # without the enums of `signal`
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def _note_loading(*, ended: bool = False) -> None:
    """Record that loading fn and args begins, or has ended."""
    global loading, early_threads
    loading, early_threads = not ended, frozenset()
    threading = sys.modules.get("threading")
    if ended and threading is not None and threading.active_count() > 1:
        idents = {thread.ident for thread in threading.enumerate()}
        early_threads = frozenset(idents - {threading.get_ident()})


def wait_for_go(channel: int) -> bool:
    """Wait until the caller can supervise this process; return False if it closes the channel instead."""
    data: bytes = _system.read(channel, 1)
    return data == wire.BEGIN


def enter(spec: RankSpec, rank: int) -> None:
    """Start coverage if the rank is measured; call the backend's entry, and keep its result for the end."""
    global _on_leave
    if spec["coverage"] is not None:
        from procession._rank import coverage

        coverage.start(spec["coverage"])
    if spec["entry"] is not None:
        where, argument = spec["entry"]
        module, _, function = where.partition(":")
        _on_leave = getattr(__import__(module, fromlist=[function]), function)(rank, argument)


def _stop_measuring() -> None:
    """Save coverage's data before the failure is reported, because the rank's time is limited after that."""
    coverage: Any = sys.modules.get("procession._rank.coverage")
    if coverage is not None:
        coverage.stop()


def _call_leave(succeeded: bool) -> None:
    global _on_leave
    call, _on_leave = _on_leave, None
    if call is not None:
        call(succeeded)


def lead_group() -> None:
    """Make this process the leader of a new group, so that what it starts ends with it."""
    try:
        identity.outer_group = os.getpgid(0)
        os.setpgid(0, 0)
    except (OSError, AttributeError):  # it already leads a session; Windows has no groups
        return
    _keep_going_in_background()


def _keep_going_in_background() -> None:
    """Keep the terminal from stopping this rank, whose group is not in the terminal's foreground.

    Output and settings then work; reading from the terminal is an error (termios(3), setpgid(2)).
    """
    module = __import__("_signal")  # without the enums of `signal`
    for number in (module.SIGTTIN, module.SIGTTOU):
        if module.getsignal(number) == module.SIG_DFL:
            module.signal(number, module.SIG_IGN)


def del_own_frame(error: BaseException) -> None:
    """Remove this module's frame from a traceback that goes on below it: users look for their own frames."""
    if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
        error.__traceback__ = error.__traceback__.tb_next


def leave(status: int, succeeded: bool) -> NoReturn:
    """End a rank whose interpreter must not finalise itself: a forked one, or one that failed.

    Run exit handlers and flush streams.  After a failure the time for that is limited: the caller already
    knows all it needs, and a handler may wait for ranks that will not come.
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
    """Do what an interpreter does at its end: wait for non-daemon threads, run `atexit` handlers, flush."""
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
    """Flush standard output and error, if they exist; return whether both can be flushed.

    Raises:
        OSError: output was lost.
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
        except Exception:  # the stream is an object of the user's, or was detached
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
    if not hasattr(signal, "setitimer"):  # Windows: the caller ends a rank that does not exit
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the default action needs no interpreter
    signal.setitimer(signal.ITIMER_REAL, EXIT_BOUND)
