"""The launcher's side of its reaper: started with the first launch, and told of each."""

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
from procession._python.log import warn

_CODE = (
    f"import sys; sys.path.append({SOURCE!r}); from procession._cleanup.reaper import main; main()"
)

_PATIENCE = 1.0  # seconds for a reaper that is behind, which its start can make it

_END_PATIENCE = 3.0  # seconds for a reaper to end

_line: tuple[int, int, int, int] | None = None  # descriptor, its inode, our pid, the reaper's
_born = ""  # when the reaper was: a process of its number that was born then is no other
_live: set[int] = set()  # the marks of launches that have not finished


def announce(mark: int) -> None:
    """Have the reaper end what carries this mark if this process dies before `withdraw`."""
    with defer_sigint(), fds.LOCK:  # an interrupt between two lines could close the line itself
        if _line is not None and _line[2] != os.getpid():
            _live.clear()  # this is a fork: those launches are another's
        _live.add(mark)
        if not _tell(BEGUN, mark):
            _replace()


def withdraw(mark: int) -> None:
    """Tell the reaper that a launch has finished: what is left of it stays."""
    with defer_sigint(), fds.LOCK:
        if mark in _live:
            _live.discard(mark)
            _tell(FINISHED, mark)


def end() -> None:
    """End and reap this process's reaper; first, what is left of launches that have not finished."""
    global _line
    with fds.LOCK:
        if _live and _line is not None and _stands(*_line[:3]):
            line, _line = _line, None
            fds.drop(line[0])  # the reaper now ends what it was told of, and itself
            _kill(line[3], _born, _END_PATIENCE)
        else:
            _let_go()


def _tell(what: bytes, mark: int) -> bool:
    """Send a record; tell whether there is a reaper to read it."""
    if _line is None or not _stands(*_line[:3]):
        return False
    sock = fds.as_socket(_line[0])
    try:
        if not unpatched.is_ready(_line[0], _PATIENCE, unpatched.POLLOUT):
            return False
        sock.send(what + mark.to_bytes(8, "big"), NO_SIGNAL | socket.MSG_DONTWAIT)
    except OSError:  # it was killed
        return False
    finally:
        sock.detach()
    return True


def _stands(fd: int, inode: int, pid: int) -> bool:
    """Whether the line is this process's own, and was not closed by its number."""
    try:
        return pid == os.getpid() and os.fstat(fd).st_ino == inode
    except OSError:
        return False


def _replace() -> None:
    """Start a reaper in the place of one that does not answer, and tell it what that one knew."""
    _let_go()
    if missing_interpreter():  # `procession backends` says what that means
        return
    try:
        _start()
    except OSError as error:
        warn(
            "cannot start a reaper (%s): what ranks start will outlive this process if it is killed",
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
            # it needs nothing else, and outlives what the launcher may take out of its own
            {name: value for name, value in os.environ.items() if name.startswith("LD_")},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0), nothing, (os.POSIX_SPAWN_DUP2, 1, 2)],
            setpgroup=0,
        )
    except BaseException:
        unpatched.close(ours)
        raise
    finally:
        unpatched.close(theirs)
    marks.spare(pid)  # this process may be a rank: what it has started ends with it, but for this
    end_at_exit(end)
    _born = read_birth(pid)
    _line = fds.keep(ours), os.fstat(ours).st_ino, os.getpid(), pid


def _let_go() -> None:
    """Forget a reaper; if it is this process's, end and reap it, lest it end what it was told of."""
    global _line
    line, _line = _line, None
    if line is None or line[2] != os.getpid():
        return
    _kill(line[3], _born)
    if _stands(*line[:3]):
        fds.drop(line[0])


def _kill(pid: int, born: str, patience: float = 0) -> None:
    """Kill and reap a reaper, if that is who has its number still; it may end by itself before."""
    try:
        pidfd = pidfd_open(pid)
    except OSError:  # somebody else has reaped it
        return
    try:
        if read_birth(pid) == born:  # asked now that the number cannot become another's unnoticed
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
