"""The launcher's side of forkservers: one server for each configuration, kept for the next launch."""

from __future__ import annotations

import errno
import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from procession._cleanup.helpers import end_at_exit
from procession._forkserver.configuration import Configuration
from procession._forkserver.handles import ServedLaunch, ServedProcess
from procession._launch.death_pipes import death_pipes
from procession._launch.spec import list_arguments
from procession._launch.starting import abort_start
from procession._linux import fds, messages
from procession._linux.credentials import can_adopt, find_excess
from procession._python import unpatched
from procession._python.defer_signals import defer_sigint
from procession._python.fd_numbers import above_streams
from procession._python.interpreter import (
    compose_command,
    doubt_interpreter,
    start_interpreter,
)
from procession._python.locks import await_readable, held, owns
from procession._rank.identity import name_process
from procession._supervise.channel import SocketChannel
from procession._supervise.process import RankProcess
from procession.exceptions import note_on
from procession.protocol import Launch, Started

if TYPE_CHECKING:
    from procession._linux.credentials import Settings

_END_PATIENCE = 0.5  # seconds for a server to end by itself
_PATIENCE_OF_RANK = 0.2  # in a rank: one that failed has hardly more
_CLOSE_PATIENCE = 5.0  # seconds for a thread that waits for a server which is to be closed

MOST_IDLE = 4
"""Servers without a launch that are kept; the one used longest ago goes first."""


class UnusableError(Exception):
    """Raised where a launch needs another server than the one it has waited for."""


class Server:
    """The server of one configuration: a process that is started when it is needed, and again if it died."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._launches: set[object] = set()  # that are being started, or have not finished
        self._variables: list[str] = []  # that it was started with, and that were not empty
        self.process: RankProcess | None = None
        self._settings: Settings | None = None
        self._fd = -1
        self._ready = False
        self._lock = threading.RLock()
        self.is_usable: bool = True  # not where a request was cut short, or was not answered

    @property
    def serving(self) -> int:
        """The number of launches that are being started, or have not finished."""
        return len(self._launches)

    def fits(self, request: dict[str, Any]) -> bool:
        """Whether it can take a request whose ranks are to have these settings and variables.

        Under /proc all see the variables that a process was started with (proc_pid_environ(5)).
        """
        if not self.is_usable or self.is_held_below:
            return False
        if self._settings is None:
            return True
        return can_adopt(request["settings"], self._settings) and all(
            map(request["environment"].get, self._variables)
        )

    def hold(self) -> Callable[[], None]:
        """Count one more launch, until what this returns is called."""
        use = object()
        self._launches.add(use)
        return lambda: self._launches.discard(use)

    @property
    def is_held_below(self) -> bool:
        """Whether this thread uses the server already: this call comes from a signal handler."""
        return owns(self._lock)

    def start(
        self, launch: Launch, request: dict[str, Any], handed: list[int], until: float
    ) -> Started:
        """Have all ranks of a launch forked.

        Raises:
            ChildProcessError: the server ended, perhaps because of what it imports.
            OSError: the server cannot fork them all; none is left.
            RuntimeError: what the server imports starts ranks.
            TimeoutError: it was not done by ``until`` (`time.monotonic`).
            UnusableError: another launch has left it in the middle of a request.
        """
        with held(self._lock, until):
            if self.process is not None and not self.is_usable:
                raise UnusableError
            if self.process is not None:
                try:
                    return self._ask(launch, request, handed, until)
                except (EOFError, ConnectionError):  # it died since; no rank has begun
                    self._close()
            try:
                self._boot(request["settings"])
                self._configure(request["settings"], until)
                return self._ask(launch, request, handed, until)
            except (EOFError, ConnectionError) as error:
                unread = isinstance(error.__cause__ or error, ConnectionError)
                doubt = f"; {doubt_interpreter()}" if unread and not self._ready else ""
                raise ChildProcessError(self._close() + doubt) from None
            except BaseException:
                if not self._ready:
                    self._close(patience=0)
                raise

    def close(self, patience: float = _END_PATIENCE) -> None:
        """End the server, and with it whatever it still serves."""
        try:
            with held(self._lock, time.monotonic() + _CLOSE_PATIENCE):
                self._close(patience)
        except TimeoutError:  # a thread waits for it, and learns that it is gone
            process = self.process
            if process is not None:
                process.kill()

    def _boot(self, settings: Settings) -> None:
        environment, self._settings = dict(os.environ), settings
        self._variables = [name for name, value in environment.items() if value]
        ours, theirs = fds.open_channel_pair()
        self._fd = fds.keep(ours)
        self.is_usable = True
        end_at_exit(_stop_servers_of_rank, first=True)
        try:
            with death_pipes(1) as pipes, defer_sigint():
                popen = start_interpreter(
                    compose_command("procession._forkserver.server", "main", (theirs, *pipes)),
                    pass_fds=(theirs, *pipes),
                    env=environment,
                    new_session=True,
                )
                popen.returncode = 0  # the RankProcess reaps it
                self.process = RankProcess.of_child(
                    popen.pid, name="procession-forkserver", daemon=True
                )
        finally:
            unpatched.close(theirs)

    def _configure(self, settings: Settings, until: float) -> None:
        message = {
            "sys_path": list(self.configuration.sys_path),
            "argv": list_arguments(),
            "settings": settings,
            "capabilities": find_excess(),
            "main": self.configuration.main,
            "preload": self.configuration.preload,
            "locations": {name: (file, dirs) for name, file, dirs in self.configuration.locations},
        }
        with self._control() as control:
            messages.send(control, message, until=until)
            told, _ = messages.receive(control, until)
        for name, text, refusal in told["failed"]:
            if refusal:
                raise RuntimeError(refusal)
            warnings.warn(f"the forkserver cannot import {name}:\n{text}", RuntimeWarning, 2)
        if told["threads"]:
            names = ", ".join(told["threads"])
            text = "what the forkserver imported left threads running, which fork does not copy"
            warnings.warn(f"{text}: {names}", RuntimeWarning, stacklevel=2)
        self._ready = True

    def _ask(
        self, launch: Launch, request: dict[str, Any], handed: list[int], until: float
    ) -> Started:
        if not fds.is_kept(self._fd):  # somebody has closed it by its number
            raise EOFError
        ours, theirs = map(fds.as_socket, fds.open_channel_pair(messages=True))
        with ours:
            usable, self.is_usable = self.is_usable, False  # it cannot go on from half a request
            with theirs, self._control() as control:
                messages.send(control, request, [theirs.fileno(), *handed], until)
            await_readable(ours, until)
            self.is_usable = usable
            with defer_sigint(until_owned=True):
                return self._take_over(launch, ours, until)

    def _take_over(self, launch: Launch, sock: fds.Socket, until: float) -> Started:
        """Take what the server answers, and let the ranks begin."""
        try:
            reply, replies = messages.receive(sock, until)
        except TimeoutError:
            raise
        except OSError as error:
            note_on(error, f"while taking over the descriptors of {launch.nprocs} ranks")
            raise
        if "errno" in reply:
            failed = OSError(reply["errno"], reply["strerror"])
            note_on(failed, f"while starting rank {reply['rank']} of {launch.nprocs}")
            raise failed
        sock.settimeout(None)
        served = ServedLaunch(sock, self.hold(), self.process)
        started = _make_handles(launch, reply["pids"], replies, served)
        _begin(started)
        return started

    def _control(self) -> fds.Socket:
        """Return the socket to the server, to be closed after use: this object keeps its own."""
        return fds.as_socket(above_streams(os.dup(self._fd)))

    def _close(self, patience: float = _END_PATIENCE) -> str:
        """End the process, which may take so long to end by itself; return how it had ended."""
        fds.drop(self._fd)
        self._ready = False
        process = self.process
        if process is None:
            return "the forkserver did not start"
        process.join(patience)  # if it is ending, its own exit code says more than our signal
        code = process.exitcode
        process.kill()
        process.join(3)
        process.release()
        self.process = None
        return (
            f"the forkserver (pid {process.pid}) ended with exit code {code}: standard error may say "
            "why; it had imported " + (", ".join(self.configuration.preload) or "nothing")
        )


_servers: dict[Configuration, Server] = {}  # in the order of their last use
_retired: set[Server] = set()  # that are not used again, but still serve
_owner = 0
_lock = threading.RLock()  # held for no call that waits


def start_on_server(
    configuration: Configuration, launch: Launch, request: dict[str, Any], handed: list[int]
) -> Started:
    """Start a launch on the configuration's server, which is made if there is none.

    Raises:
        ProcessTimeoutError: the launch's deadline passed before its ranks were there.
    """
    until = messages.NEVER if launch.timeout is None else time.monotonic() + launch.timeout
    while True:
        uses: list[Callable[[], None]] = []
        server: Server | None = None
        try:
            server, done = _choose(configuration, request, uses)
            for one in done:
                one.close()
                _retired.discard(one)
            return server.start(launch, request, handed, until)
        except UnusableError:
            continue
        except TimeoutError as error:
            if server is None or time.monotonic() < until:  # a signal handler has raised it
                raise
            raise _make_timeout(launch, server) from error
        finally:
            for let_go in uses:
                let_go()


def stop_servers(patience: float = _END_PATIENCE) -> None:
    """End all servers of this process, and the ranks that they still serve."""
    _forget_if_forked()
    with _lock:
        servers = [*_servers.values(), *_retired]
        _servers.clear()
        _retired.clear()
    for server in servers:
        server.close(patience)


def _stop_servers_of_rank() -> None:
    stop_servers(_PATIENCE_OF_RANK)


def _choose(
    configuration: Configuration, request: dict[str, Any], uses: list[Callable[[], None]]
) -> tuple[Server, list[Server]]:
    """Return the server to use, and those to end; put in ``uses`` what to call once the launch has started.

    A signal handler may launch in the middle of anything here, or while its thread holds a lock that the user
    of a server waits for.  It gets a server that nobody else uses.
    """
    _forget_if_forked()
    if owns(_lock) or owns(fds.LOCK):
        server = Server(configuration)
        uses.append(server.hold())
        _retired.add(server)
        return server, []
    with defer_sigint(), _lock:
        _retire(configuration, request)
        found: Server | None = _servers.pop(configuration, None)
        server = found or Server(configuration)
        _servers[configuration] = server
        idle = [one for one in _servers.values() if not one.serving and one is not server]
        for one in idle[: max(len(idle) - MOST_IDLE + 1, 0)]:
            _retired.add(one)
            _servers.pop(one.configuration, None)
        uses.append(server.hold())
        return server, [one for one in _retired.copy() if not one.serving]


def _retire(configuration: Configuration, request: dict[str, Any]) -> None:
    """Set aside the servers that must not, or need not, be used again; they end when nothing needs them."""
    for one in list(_servers.values()):
        if one.configuration.rights != configuration.rights or (
            one.configuration == configuration and not one.fits(request)
        ):
            _retired.add(one)
            _servers.pop(one.configuration, None)


def _make_timeout(launch: Launch, server: Server) -> BaseException:
    """Return the exception for a launch whose deadline passed before its ranks were there."""
    from procession._supervise.verdict import make_timeout

    error = make_timeout(launch.timeout or 0, list(range(launch.nprocs)), [], {})
    modules = [*(["__main__"] if server.configuration.main else []), *server.configuration.preload]
    names = ", ".join(modules) or "nothing"
    note_on(error, f"its forkserver had not started the ranks by then; it imports {names}")
    return error


def _forget_if_forked() -> None:
    """Start anew in a fork of the process that has the servers; its lock may be held there."""
    global _owner, _lock, _retired, _servers
    if _owner != os.getpid():
        _owner, _lock, _retired, _servers = os.getpid(), threading.RLock(), set(), {}


def _make_handles(
    launch: Launch, pids: list[int], replies: list[int], served: ServedLaunch
) -> Started:
    """Make handles of what the server sent: for each rank a channel and a pidfd."""
    processes, channels = [], []
    for rank, pid in enumerate(pids):
        channels.append(SocketChannel(above_streams(replies[2 * rank])))
        pidfd = above_streams(replies[2 * rank + 1])
        name = name_process("forkserver", launch.identity, rank)
        process = ServedProcess(
            pid, pidfd, name=name, daemon=launch.daemon, rank=rank, launch=served
        )
        processes.append(process)
    sentinels = [process.sentinel for process in processes]
    return Started(processes, sentinels, channels, on_finish=served.close)


def _begin(started: Started) -> None:
    """Tell each rank to begin: the launcher has hold of all of them."""
    try:
        for channel in started.error_channels:
            if isinstance(channel, SocketChannel):
                channel.begin()
    except BaseException as error:
        abort_start(started)
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ECONNRESET):
            raise EOFError("a rank was gone before it began") from error
        raise
