"""The caller's side of its reaper: starts it with the first launch, and names each launch to it."""

from __future__ import annotations

import _socket as socket  # constants and types, without the module's own
import os
import signal

from procession._cleanup import marks
from procession._cleanup.helpers import end_at_exit
from procession._cleanup.reaper import BEGUN, FINISHED
from procession._linux import fds
from procession._linux.messages import NO_SIGNAL
from procession._linux.procstat import read_birth
from procession._linux.syscalls import pidfd_open, pidfd_send_signal
from procession._python import unpatched
from procession._python.defer_signals import defer_sigint
from procession._python.interpreter import SOURCE, find_executable, missing_interpreter
from procession._python.log import debug, warn

_CODE = (
    f"import sys; sys.path.append({SOURCE!r}); from procession._cleanup.reaper import main; main()"
)

_PATIENCE = 1.0  # seconds for a reaper that is behind, for example because it is starting

_END_PATIENCE = 3.0  # seconds for a reaper to end

_line: tuple[int, int, int, int] | None = None  # descriptor, its inode, our pid, the reaper's pid
_born = ""  # when the reaper started: number and start time together name one process
_live: set[int] = set()  # the marks of launches that have not finished


def announce(mark: int) -> None:
    """Make the reaper end what carries this mark if this process dies before `withdraw`."""
    with defer_sigint(), fds.LOCK:  # an interrupt between two lines could close the socket
        if _line is not None and _line[2] != os.getpid():
            _live.clear()  # this is a fork: those launches are its parent's
        _live.add(mark)
        if not _tell(BEGUN, mark):
            _replace()


def withdraw(mark: int) -> None:
    """Tell the reaper that a launch has finished: it leaves what is left of the launch alone."""
    with defer_sigint(), fds.LOCK:
        if mark in _live:
            _live.discard(mark)
            _tell(FINISHED, mark)


def end() -> None:
    """End and reap this process's reaper, which first ends what is left of unfinished launches."""
    global _line
    with fds.LOCK:
        if _live and _line is not None and _is_connected(*_line[:3]):
            line, _line = _line, None
            fds.drop(line[0])  # the reaper now ends all marked processes, then itself
            _kill(line[3], _born, _END_PATIENCE)
        else:
            _forget_reaper()


def _tell(what: bytes, mark: int) -> bool:
    """Send a record; return whether there is a reaper to read it."""
    if _line is None or not _is_connected(*_line[:3]):
        return False
    sock = fds.borrow(_line[0])
    try:
        if not unpatched.is_ready(_line[0], _PATIENCE, unpatched.POLLOUT):
            return False
        sock.send(what + mark.to_bytes(8, "big"), NO_SIGNAL | socket.MSG_DONTWAIT)
    except OSError:  # it was killed
        return False
    finally:
        sock.detach()
    return True


def _is_connected(fd: int, inode: int, pid: int) -> bool:
    """Return whether the socket is this process's own, and was not closed by its number."""
    try:
        return pid == os.getpid() and os.fstat(fd).st_ino == inode
    except OSError:
        return False


def _replace() -> None:
    """Start a reaper in place of one that does not answer, and name the unfinished launches to it."""
    _forget_reaper()
    if missing_interpreter():  # `procession backends` explains it
        return
    try:
        _start()
    except OSError as error:
        warn(
            "cannot start a reaper (%s): processes that ranks start will outlive this one if it is killed",
            error,
        )
        return
    for mark in _live:
        _tell(BEGUN, mark)


def _start() -> None:
    global _line, _born
    ours, theirs = fds.open_channel_pair()
    try:
        nothing = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0)
        pid = unpatched.posix_spawnp(
            find_executable(),
            [find_executable(), "-I", "-S", "-c", _CODE],
            # it needs no other variables, and keeps these if the caller later removes its own
            {name: value for name, value in os.environ.items() if name.startswith("LD_")},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0), nothing, (os.POSIX_SPAWN_DUP2, 1, 2)],
            setpgroup=0,
        )
    except BaseException:
        unpatched.close(ours)
        raise
    finally:
        unpatched.close(theirs)
    marks.spare(pid)  # if this process is a rank, its end ends what it started, except the reaper
    end_at_exit(end)
    _born = read_birth(pid)
    _line = fds.keep(ours), os.fstat(ours).st_ino, os.getpid(), pid
    debug("reaper %d started", pid)


def _forget_reaper() -> None:
    """Forget the reaper; if it is this process's, kill and reap it before it ends the launches it knows."""
    global _line
    line, _line = _line, None
    if line is None or line[2] != os.getpid():
        return
    _kill(line[3], _born)
    if _is_connected(*line[:3]):
        fds.drop(line[0])


def _kill(pid: int, born: str, patience: float = 0) -> None:
    """Kill and reap a reaper, if its number is still its own; first give it ``patience`` seconds to end."""
    try:
        pidfd = pidfd_open(pid)
    except OSError:  # it was reaped elsewhere
        return
    try:
        if read_birth(pid) == born:  # read now that the pidfd holds the process
            if not _has_ended(pidfd, patience):
                pidfd_send_signal(pidfd, signal.SIGKILL)
                _has_ended(pidfd, _END_PATIENCE)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except OSError:
        pass
    finally:
        unpatched.close(pidfd)


def _has_ended(pidfd: int, patience: float) -> bool:
    return unpatched.is_ready(pidfd, patience)
