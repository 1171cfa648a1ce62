"""The forkserver's server: a clean interpreter that imports what ranks need, and forks them.

It has one thread, which never waits for the caller to read.  One request forks all ranks of a launch.  The
server reaps them and sends their exit codes, signals their groups on demand, and kills a launch's ranks when
the caller closes the launch socket.  It learns of a rank's end from a pidfd, which works whatever the modules
that it has imported do to signals.  See `client` for what travels between caller, server and ranks.
"""

from __future__ import annotations

import _socket as socket  # constants and types, without the module's own
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from procession._cleanup import cgroups, marks
from procession._cleanup.children import collect_child, signal_group, terminate_child
from procession._forkserver.requests import assign_shared, unpack_descriptors
from procession._launch.death_pipes import choose
from procession._launch.forking import Child, fork_each
from procession._linux import credentials, fds, messages
from procession._linux.syscalls import pidfd_wait_status
from procession._python import unpatched
from procession._python.imported import get_if_imported
from procession._rank import after_fork, bootstrap, life, parent_death
from procession._rank.fork_signals import Inheritance
from procession._rank.report import describe

if TYPE_CHECKING:
    from procession._forkserver.requests import (
        ConfiguredMessage,
        ConfigureMessage,
        FailedMessage,
        StartedMessage,
        StartMessage,
    )
    from procession._linux.credentials import Settings


def main(control: int, death_pipe: int) -> None:
    """Serve one caller until it closes its end of the control socket; both arguments are descriptors."""
    fds.fill_streams()
    fds.keep(parent_death.arm(death_pipe))
    sock = fds.as_socket(fds.keep(control))
    Server(sock).serve()
    sock.detach()  # otherwise -X dev warns that it was not closed


class ServedLaunch:
    """The living ranks of one launch, by pid, and the launch socket to their caller."""

    def __init__(self, sock: socket.socket, mark: int) -> None:
        self.sock = sock
        self.mark = mark
        self.ranks: dict[int, int] = {}
        self.unsent: list[bytes] = []

    def note_end(self, pid: int, code: int) -> None:
        """Queue a rank's exit code for `send_ends`."""
        record = self.ranks.pop(pid).to_bytes(messages.NUMBER, "big")
        self.unsent.append(record + code.to_bytes(messages.NUMBER, "big", signed=True))

    def send_ends(self) -> bool:
        """Send as many exit codes as the socket takes now; return whether some are left."""
        try:
            while self.unsent:
                self.sock.send(self.unsent[0], messages.NO_SIGNAL | socket.MSG_DONTWAIT)
                self.unsent.pop(0)
        except BlockingIOError:
            return True
        except OSError:  # the caller has closed its end
            self.unsent.clear()
        return False

    def send_failure(self, error: OSError, rank: int) -> None:
        """Send the reason why the ranks could not be started."""
        reply: FailedMessage = {"errno": error.errno, "strerror": error.strerror, "rank": rank}
        try:
            messages.send(self.sock, reply)
        except OSError:  # the caller has closed its end, which may have caused this very error
            pass

    def signal(self, index: int, number: int) -> None:
        """Signal a rank's group, unless the rank has ended."""
        for pid, one in self.ranks.items():
            if one == index:
                _signal(pid, number)

    def kill(self) -> None:
        """Kill all ranks."""
        for pid in self.ranks:
            _signal(pid, signal.SIGKILL)


class Server:
    """The server's loop: takes requests and commands, reaps ranks, ends launches that the caller closed."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._launches: dict[int, ServedLaunch] = {}  # by the descriptors of their sockets
        self._pidfds: dict[int, tuple[int, ServedLaunch]] = {}  # pid and launch of living ranks
        self._settings: Any = None  # those of the caller when it started this process
        self._poll = unpatched.poll()
        self._poll.register(control, unpatched.POLLIN)

    def serve(self) -> None:
        """Serve until the caller has closed the control socket; then kill the ranks that are left."""
        configuration, _ = messages.receive(self._control)
        self._settings = configuration["settings"]
        if configuration["capabilities"] is not None:
            credentials.shed_excess(configuration["capabilities"])
        messages.send(self._control, preload(configuration))
        while True:
            for fd, events in self._poll.poll():
                if fd == self._control.fileno():
                    if not self._take_request():
                        return
                elif fd in self._pidfds:
                    self._reap(fd)
                elif fd in self._launches:
                    if events & unpatched.POLLOUT:
                        self._send_ends(self._launches[fd])
                    if events & ~unpatched.POLLOUT:
                        self._take_command(fd)

    def _take_request(self) -> bool:
        try:
            request, handed = messages.receive(self._control)
        except EOFError:
            for launch in self._launches.values():
                launch.kill()
                launch.sock.detach()
            return False
        launch = ServedLaunch(fds.as_socket(fds.keep(handed.pop(0))), request["mark"])
        try:
            self._fork_ranks(launch, request, handed)
        finally:
            for fd in handed:
                unpatched.close(fd)
        self._launches[launch.sock.fileno()] = launch
        self._send_ends(launch)
        return True

    def _fork_ranks(self, launch: ServedLaunch, request: StartMessage, handed: list[int]) -> None:
        """Fork all ranks and send their descriptors; if that fails, send the reason and kill them."""
        children: list[Child] = []
        try:
            _replace_environment(request["environment"])
            fork_each(
                request["nprocs"],
                partial(_live, request, handed, self._settings),
                children,
                inheritance=Inheritance(
                    keep_handlers=request["keep_handlers"], caller=request["signals"]
                ),
            )
            replies = [fd for child in children for fd in (child.channel, child.pidfd)]
            self._watch(launch, children)
            started: StartedMessage = {"pids": [child.pid for child in children]}
            messages.send(launch.sock, started, replies)
        except OSError as error:
            self._watch(launch, children)
            launch.kill()
            launch.send_failure(error, len(children))
        finally:
            for child in children:  # the pidfds stay open until the ranks have ended
                fds.drop(child.channel)

    def _watch(self, launch: ServedLaunch, children: list[Child]) -> None:
        """Poll the pidfds of new ranks."""
        for index, child in enumerate(children):
            if child.pidfd not in self._pidfds:
                launch.ranks[child.pid] = index
                self._pidfds[child.pidfd] = child.pid, launch
                self._poll.register(child.pidfd, unpatched.POLLIN)

    def _reap(self, pidfd: int) -> None:
        """Reap a rank that has ended, and send its exit code."""
        pid, launch = self._pidfds[pidfd]
        try:
            code = collect_child(pid, launch.mark)
        except ChildProcessError:  # an imported module reaps children, or ignores SIGCHLD
            status = pidfd_wait_status(pidfd)
            code = messages.UNKNOWN if status is None else os.waitstatus_to_exitcode(status)
        if code is None:
            return
        self._poll.unregister(pidfd)
        del self._pidfds[pidfd]
        fds.drop(pidfd)
        launch.note_end(pid, code)
        if launch.sock.fileno() in self._launches:
            self._send_ends(launch)

    def _send_ends(self, launch: ServedLaunch) -> None:
        """Send exit codes now, and those that do not fit once the socket takes more."""
        more = launch.send_ends()
        self._poll.register(launch.sock, unpatched.POLLIN | (unpatched.POLLOUT if more else 0))

    def _take_command(self, fd: int) -> None:
        """Send the signal that the caller asks for; if it has closed its end, kill the launch's ranks."""
        launch = self._launches[fd]
        try:
            data = launch.sock.recv(messages.NUMBER + 1)
        except OSError:
            data = b""
        if len(data) == messages.NUMBER + 1:
            launch.signal(int.from_bytes(data[: messages.NUMBER], "big"), data[messages.NUMBER])
            return
        launch.kill()
        self._poll.unregister(fd)
        del self._launches[fd]
        launch.sock.detach()
        fds.drop(fd)


def preload(configuration: ConfigureMessage) -> ConfiguredMessage:
    """Import the configured modules; return the imports that failed and the threads that run since."""
    sys.path[:] = configuration["sys_path"]
    sys.argv[:] = configuration["argv"]
    if configuration["locations"]:
        from procession._rank import locations

        locations.use(configuration["locations"])
    life.loading = True  # for good: nothing in this process may start ranks
    failed: list[tuple[str, str, str]] = []
    if configuration["main"] is not None:
        try:
            bootstrap.import_main(*configuration["main"])
        except BaseException as error:
            failed.append(("__main__", describe(error), _refusal_in(error)))
    for name in configuration["preload"]:
        try:
            __import__(name)
        except BaseException as error:
            failed.append((name, describe(error), _refusal_in(error)))
    after_fork.import_for_ranks()
    return {"failed": failed, "threads": _find_threads()}


def _find_threads() -> list[str]:
    """Return the names of all threads but the main one."""
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    return [t.name for t in threading.enumerate() if t is not threading.main_thread()]


def _refusal_in(error: BaseException) -> str:
    """Return the message of an import that was refused because it starts ranks; "" for other errors."""
    kind = get_if_imported("procession._launch.checks", "ImportingError")
    return str(error) if kind is not None and isinstance(error, kind) else ""


def _live(
    request: StartMessage, handed: list[int], settings: Settings, index: int, channel: int
) -> tuple[int, bool]:
    """Run a rank in a process just forked."""
    marks.put(0, request["mark"])
    cgroups.join(request["cgroup"], 0)
    file, pipes, streams, rest = unpack_descriptors(handed, request)
    death_pipe = choose(pipes, index) if len(pipes) > 1 else pipes[0]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        unpatched.close(stream)
    if request["settings"] != settings:
        credentials.adopt(request["settings"], settings)
    after_fork.cut_off(None)  # its standard input is the null device already
    life.change_environment(request["changes"][index])
    if not life.wait_for_go(channel):  # the caller is gone before this rank has begun
        return 1, False
    # read in each rank, not once in the server: a bad payload must not end the server
    payload = bootstrap.Payload(file)
    assign_shared(payload.spec, rest)
    return bootstrap.live(payload, index, channel, death_pipe)


def _replace_environment(environment: dict[str, str]) -> None:
    """Replace the environment by the caller's at the time of the launch."""
    for name in [name for name in os.environ if name not in environment]:
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _signal(pid: int, number: int) -> None:
    """Signal a child that is not reaped yet, and its group; the pid is therefore still its own."""
    if number == signal.SIGTERM:
        terminate_child(pid)
    elif not signal_group(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
