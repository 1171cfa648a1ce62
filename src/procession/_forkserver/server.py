"""The forkserver's server: a clean interpreter that has imported what ranks need, and forks them.

It has one thread, which never waits for a launcher to read.  It forks all ranks of a launch on one
request, tells their exit statuses, signals their groups when asked, and kills a launch's ranks when the
launcher lets go of the launch's socket.  It learns of ends from pidfds, and so whatever the modules it
has imported do to signals.
"""

from __future__ import annotations

import _socket as socket  # constants and types, without the module's own
import os
import signal
import sys
from functools import partial
from typing import Any

from procession._cleanup import cgroups, marks
from procession._cleanup.children import collect_child, signal_group, terminate_child
from procession._launch.death_pipes import choose
from procession._launch.forking import Forked, fork_each
from procession._linux import credentials, fds, messages
from procession._linux.syscalls import pidfd_wait_status
from procession._python import unpatched
from procession._python.imported import get_if_imported
from procession._rank import after_fork, bootstrap, life, parent_death
from procession._rank.fork_signals import Inheritance
from procession._rank.report import describe


def main(control: int, guard_fd: int) -> None:
    """Serve one launcher until it closes its end of the control socket."""
    fds.fill_streams()
    fds.keep(parent_death.arm(guard_fd))
    sock = fds.as_socket(fds.keep(control))
    Server(sock).serve()
    sock.detach()  # or -X dev warns of it


class ServedLaunch:
    """The ranks of one launch that are alive, by pid, and the socket to their launcher."""

    def __init__(self, sock: socket.socket, mark: int) -> None:
        self.sock = sock
        self.mark = mark
        self.ranks: dict[int, int] = {}
        self.untold: list[bytes] = []

    def note_end(self, pid: int, code: int) -> None:
        """Note a rank's exit code, to be told."""
        record = self.ranks.pop(pid).to_bytes(messages.NUMBER, "big")
        self.untold.append(record + code.to_bytes(messages.NUMBER, "big", signed=True))

    def tell(self) -> bool:
        """Tell the launcher what it has room for; return whether there is more."""
        try:
            while self.untold:
                self.sock.send(self.untold[0], messages.NO_SIGNAL | socket.MSG_DONTWAIT)
                self.untold.pop(0)
        except BlockingIOError:
            return True
        except OSError:  # it has let go
            self.untold.clear()
        return False

    def tell_failure(self, error: OSError, rank: int) -> None:
        """Tell the launcher why its ranks could not be started."""
        reply = {"errno": error.errno, "strerror": error.strerror, "rank": rank}
        try:
            messages.send(self.sock, reply)
        except OSError:  # it has let go: that may be the very error
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
    """Waits for requests, for the ends of ranks, and for launchers that let go."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._launches: dict[int, ServedLaunch] = {}  # by the descriptor of their sockets
        self._pidfds: dict[int, tuple[int, ServedLaunch]] = {}  # of ranks that are alive
        self._settings: Any = None  # the launcher's when it started this process
        self._poll = unpatched.poll()
        self._poll.register(control, unpatched.POLLIN)

    def serve(self) -> None:
        """Serve until the launcher is gone; then kill what is left."""
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
                        self._tell(self._launches[fd])
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
        self._tell(launch)
        return True

    def _fork_ranks(self, launch: ServedLaunch, request: dict[str, Any], handed: list[int]) -> None:
        """Fork all ranks, or tell why not and leave none."""
        made: list[Forked] = []
        try:
            _replace_environment(request["environment"])
            fork_each(
                request["nprocs"],
                partial(_live, request, handed, self._settings),
                made,
                inheritance=Inheritance(
                    keep_handlers=request["keep_handlers"], caller=request["signals"]
                ),
            )
            replies = [fd for one in made for fd in (one.channel, one.pidfd)]
            self._watch(launch, made)
            messages.send(launch.sock, {"pids": [one.pid for one in made]}, replies)
        except OSError as error:
            self._watch(launch, made)
            launch.kill()
            launch.tell_failure(error, len(made))
        finally:
            for one in made:  # its pidfds are needed until the ranks have ended
                fds.drop(one.channel)

    def _watch(self, launch: ServedLaunch, made: list[Forked]) -> None:
        """Have the ends of ranks noticed."""
        for index, one in enumerate(made):
            if one.pidfd not in self._pidfds:
                launch.ranks[one.pid] = index
                self._pidfds[one.pidfd] = one.pid, launch
                self._poll.register(one.pidfd, unpatched.POLLIN)

    def _reap(self, pidfd: int) -> None:
        """Reap a rank that has ended, and tell its launcher."""
        pid, launch = self._pidfds[pidfd]
        try:
            code = collect_child(pid, launch.mark)
        except ChildProcessError:  # a module that was imported reaps, or ignores SIGCHLD
            status = pidfd_wait_status(pidfd)
            code = messages.UNKNOWN if status is None else os.waitstatus_to_exitcode(status)
        if code is None:
            return
        self._poll.unregister(pidfd)
        del self._pidfds[pidfd]
        fds.drop(pidfd)
        launch.note_end(pid, code)
        if launch.sock.fileno() in self._launches:
            self._tell(launch)

    def _tell(self, launch: ServedLaunch) -> None:
        """Tell a launcher what has ended, now and when it has room."""
        more = launch.tell()
        self._poll.register(launch.sock, unpatched.POLLIN | (unpatched.POLLOUT if more else 0))

    def _take_command(self, fd: int) -> None:
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


def preload(configuration: dict[str, Any]) -> dict[str, Any]:
    """Import what the configuration names; return which imports failed, and what threads they left."""
    sys.path[:] = configuration["sys_path"]
    sys.argv[:] = configuration["argv"]
    if configuration["locations"]:
        from procession._rank import locations

        locations.use(configuration["locations"])
    life.loading = True  # for good: nothing in this process is to start ranks
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
    """Return the names of the threads that run beside this one."""
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    return [t.name for t in threading.enumerate() if t is not threading.main_thread()]


def _refusal_in(error: BaseException) -> str:
    """Return why an import was not to go on: it started ranks; "" if it failed for another reason."""
    kind = get_if_imported("procession._launch.checks", "ImportingError")
    return str(error) if kind is not None and isinstance(error, kind) else ""


def _live(
    request: dict[str, Any], handed: list[int], settings: Any, index: int, channel: int
) -> tuple[int, bool]:
    """Live a rank's life in a process just forked."""
    marks.put(0, request["mark"])
    cgroups.join(request["cgroup"], 0)
    file, *rest = handed
    pipes = [rest.pop(0) for _ in range(request["death_pipes"])]
    death_pipe = choose(pipes, index) if len(pipes) > 1 else pipes[0]
    for number in (0, 1, 2):
        stream = rest.pop(0)
        os.dup2(stream, number)
        unpatched.close(stream)
    if request["settings"] != settings:
        credentials.adopt(request["settings"], settings)
    after_fork.cut_off(None)  # its input is nothing already
    life.change_environment(request["changes"][index])
    if not life.wait_for_go(channel):  # the launcher is gone, and this rank never was
        return 1, False
    payload = bootstrap.Payload(
        file
    )  # read here, not once in the server, which nothing in it may end
    payload.spec["tracker"] = rest.pop() if payload.spec["tracker"] >= 0 else -1
    payload.spec["exit_barrier"] = [rest.pop(0) for _ in payload.spec["exit_barrier"]]
    payload.spec["fds"] = rest
    return bootstrap.live(payload, index, channel, death_pipe)


def _replace_environment(environment: dict[str, str]) -> None:
    """Make the environment the launcher's at the time of the launch, not of the server's start."""
    for name in [name for name in os.environ if name not in environment]:
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _signal(pid: int, number: int) -> None:
    """Signal a child and its group; it is not reaped, so that the number is its own."""
    if number == signal.SIGTERM:
        terminate_child(pid)
    elif not signal_group(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
