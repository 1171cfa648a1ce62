"""The caller's side of forkservers: one server process per configuration, kept for later launches.

                                       control socket, one per server
     +--------+  configuration; a request per launch, with launch socket, payload  +--------+
     |        |  file, death pipe, streams, exit barrier, fds in args, tracker     |        |
     |        | -----------------------------------------------------------------> |        |
     |        | <----------------------------------------------------------------- |        |
     | caller |  once: imports that failed, threads that they left running         | server |
     |        |                                                                    |        |
     |        |                launch socket, one per launch                       |        |
     |        |  signals to send, as (rank, number); closing it kills the ranks    |        |
     |        | -----------------------------------------------------------------> |        |
     |        | <----------------------------------------------------------------- |        |
     |        |  pids, with a channel and a pidfd per rank; later exit codes       +--------+
     |        |                                                                        | forks, reaps
     |        |                 channel, one per rank                                  v
     |        |  go-ahead; again once the payload is filled                        +--------+
     |        | -----------------------------------------------------------------> |  rank  |
     |        | <----------------------------------------------------------------- |        |
     +--------+  the report                                                        +--------+

Ranks read fn and args from the payload file; the server does not.  The server reaps the ranks, the caller
reaps the server.  The caller waits for a rank on its pidfd, and sends SIGKILL directly as well, since the
server may be stopped.  It holds the death pipe's write end: if it dies, the kernel kills server and ranks.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from procession._cleanup.helpers import end_at_exit
from procession._forkserver.configuration import Configuration
from procession._forkserver.handles import LaunchHandle, begin_all, make_handles
from procession._launch.death_pipes import death_pipes
from procession._launch.spec import list_arguments
from procession._linux import fds, messages
from procession._linux.credentials import can_adopt, find_excess
from procession._python import unpatched
from procession._python.clock import monotonic
from procession._python.deadlines import await_readable, held, owns
from procession._python.defer_signals import defer_sigint
from procession._python.fd_numbers import above_streams
from procession._python.interpreter import compose_command, doubt_interpreter, start_interpreter
from procession._python.log import debug
from procession._supervise.process import RankProcess
from procession.exceptions import note_on
from procession.protocol import Launch, Started

if TYPE_CHECKING:
    from procession._forkserver.requests import ConfigureMessage, StartMessage
    from procession._linux.credentials import Settings

_END_PATIENCE = 0.5  # seconds for a server to end by itself
_PATIENCE_OF_RANK = 0.2  # the same in a rank, which has little time after a failure
_CLOSE_PATIENCE = 5.0  # seconds to wait for a thread that uses a server, before closing that server

MOST_IDLE = 4
"""How many servers without a launch are kept; the least recently used one ends first."""


class UnusableError(Exception):
    """Raised when the server that a launch waited for has become unusable, and the launch needs another."""


class ServerHandle:
    """The server of one configuration, started when needed, and again if it died."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self._launches: set[object] = set()  # those being started, and those not finished
        self._variables: list[str] = []  # those that were set, and not empty, at its start
        self.process: RankProcess | None = None
        self._settings: Settings | None = None
        self._fd = -1
        self._ready = False
        self._lock = threading.RLock()
        self.is_usable: bool = True  # until a request is cut short

    @property
    def serving(self) -> int:
        """The number of launches that are being started or have not finished."""
        return len(self._launches)

    def fits(self, request: StartMessage) -> bool:
        """Tell whether the server can take a request: its settings, and its variables, suit the server.

        A variable that the server was started with must still be set.  /proc shows everyone the environment
        that a process was started with (proc_pid_environ(5)).
        """
        if not self.is_usable or self.is_held_below:
            return False
        if self._settings is None:
            return True
        return can_adopt(request["settings"], self._settings) and all(
            map(request["environment"].get, self._variables)
        )

    def hold(self) -> Callable[[], None]:
        """Count one more launch; calling the function that this returns ends that."""
        use = object()
        self._launches.add(use)
        return lambda: self._launches.discard(use)

    @property
    def is_held_below(self) -> bool:
        """Whether this thread already uses the server, so that this call comes from a signal handler."""
        return owns(self._lock)

    def start(
        self, launch: Launch, request: StartMessage, handed: list[int], until: float
    ) -> Started:
        """Have the server fork all ranks of a launch; start the server first if it does not run.

        Raises:
            ChildProcessError: the server ended, perhaps because of what it imports.
            OSError: the server cannot fork all ranks; none is left.
            RuntimeError: a module that the server imports starts ranks.
            TimeoutError: the ranks were not there by ``until`` (`time.monotonic`).
            UnusableError: another launch left the server in the middle of a request.
        """
        with held(self._lock, until):
            if self.process is not None and not self.is_usable:
                raise UnusableError
            if self.process is not None:
                try:
                    return self._request(launch, request, handed, until)
                except (EOFError, ConnectionError):  # it has died since; no rank has begun
                    self._close()
            try:
                self._start_process(request["settings"])
                self._configure(request["settings"], until)
                return self._request(launch, request, handed, until)
            except (EOFError, ConnectionError) as error:
                unread = isinstance(error.__cause__ or error, ConnectionError)
                doubt = f"; {doubt_interpreter()}" if unread and not self._ready else ""
                raise ChildProcessError(self._close() + doubt) from None
            except BaseException:
                if not self._ready:
                    self._close(patience=0)
                raise

    def close(self, patience: float = _END_PATIENCE) -> None:
        """End the server and the ranks that it still serves."""
        try:
            with held(self._lock, monotonic() + _CLOSE_PATIENCE):
                self._close(patience)
        except TimeoutError:  # a thread uses the server, and notices that it is gone
            process = self.process
            if process is not None:
                process.kill()

    def _start_process(self, settings: Settings) -> None:
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
                popen.returncode = 0  # so that Popen leaves reaping to the RankProcess
                self.process = RankProcess.of_child(
                    popen.pid, name="procession-forkserver", daemon=True
                )
        finally:
            unpatched.close(theirs)

    def _configure(self, settings: Settings, until: float) -> None:
        message: ConfigureMessage = {
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
            reply, _ = messages.receive(control, until)
        for name, text, refusal in reply["failed"]:
            if refusal:
                raise RuntimeError(refusal)
            warnings.warn(f"the forkserver cannot import {name}:\n{text}", RuntimeWarning, 2)
        if reply["threads"]:
            names = ", ".join(reply["threads"])
            text = "modules of the forkserver left threads running, which fork does not copy"
            warnings.warn(f"{text}: {names}", RuntimeWarning, stacklevel=2)
        self._ready = True
        debug("forkserver %s is ready", self.process and self.process.pid)

    def _request(
        self, launch: Launch, request: StartMessage, handed: list[int], until: float
    ) -> Started:
        if not fds.is_kept(self._fd):  # other code closed it by its number
            raise EOFError
        ours, theirs = map(fds.as_socket, fds.open_channel_pair(messages=True))
        with ours:
            try:
                with theirs, self._control() as control:
                    messages.send(control, request, [theirs.fileno(), *handed], until)
                await_readable(ours, until)
            except BaseException:
                self.is_usable = False  # half a request may have arrived
                raise
            with defer_sigint(until_owned=True):
                return self._receive_ranks(launch, ours, until)

    def _receive_ranks(self, launch: Launch, sock: fds.Socket, until: float) -> Started:
        """Receive the server's reply, and let the ranks begin."""
        try:
            reply, replies = messages.receive(sock, until)
        except TimeoutError:
            raise
        except OSError as error:
            note_on(error, f"while receiving the descriptors of {launch.nprocs} ranks")
            raise
        if "errno" in reply:
            failed = OSError(reply["errno"], reply["strerror"])
            note_on(failed, f"while starting rank {reply['rank']} of {launch.nprocs}")
            raise failed
        sock.settimeout(None)
        handle = LaunchHandle(sock, self.hold(), self.process)
        started = make_handles(launch, reply["pids"], replies, handle)
        begin_all(started, self.process)
        return started

    def _control(self) -> fds.Socket:
        """Return a duplicate of the control socket, for the caller to close."""
        return fds.as_socket(above_streams(os.dup(self._fd)))

    def _close(self, patience: float = _END_PATIENCE) -> str:
        """End the process, after ``patience`` seconds to end by itself; return a text on how it ended."""
        fd, self._fd = self._fd, -1  # its number may be another descriptor's by the next call
        fds.drop(fd)
        self._ready = False
        process = self.process
        if process is None:
            return "the forkserver did not start"
        process.join(patience)  # if it is ending, its exit code says more than that of our SIGKILL
        code = process.exitcode
        process.kill()
        process.join(3)
        process.release()
        self.process = None
        return (
            f"the forkserver (pid {process.pid}) ended with exit code {code}: standard error may say "
            "why; modules to preload: " + (", ".join(self.configuration.preload) or "none")
        )


_servers: dict[Configuration, ServerHandle] = {}  # in the order of their last use
_retired: set[ServerHandle] = set()  # take no new launch, but still serve one
_owner = 0  # the pid of the process whose servers these are
_lock = threading.RLock()  # never held during a call that waits


def start_on_server(
    configuration: Configuration, launch: Launch, request: StartMessage, handed: list[int]
) -> Started:
    """Start a launch on the configuration's server, and start that server if there is none.

    Raises:
        ProcessTimeoutError: the launch's deadline passed before its ranks were started.
    """
    until = messages.NEVER if launch.timeout is None else monotonic() + launch.timeout
    while True:
        uses: list[Callable[[], None]] = []
        server: ServerHandle | None = None
        try:
            server, unused = _choose_server(configuration, request, uses)
            for one in unused:
                one.close()
                _retired.discard(one)
            return server.start(launch, request, handed, until)
        except UnusableError:
            continue
        except TimeoutError as error:
            if server is None or monotonic() < until:  # raised by a signal handler
                raise
            raise _make_timeout(launch, server) from error
        finally:
            for end_use in uses:
                end_use()


def stop_servers(patience: float = _END_PATIENCE) -> None:
    """End all servers of this process and the ranks that they still serve."""
    _forget_if_forked()
    with _lock:
        servers = [*_servers.values(), *_retired]
        _servers.clear()
        _retired.clear()
    for server in servers:
        server.close(patience)


def _stop_servers_of_rank() -> None:
    stop_servers(_PATIENCE_OF_RANK)


def _choose_server(
    configuration: Configuration, request: StartMessage, uses: list[Callable[[], None]]
) -> tuple[ServerHandle, list[ServerHandle]]:
    """Return the server to use, and the servers to end.

    Append to ``uses`` a function to call once the launch has started.

    A signal handler may launch ranks at any point in this module, or while its thread holds a lock that
    another user of the server waits for.  Such a launch gets a new server for itself.
    """
    _forget_if_forked()
    if owns(_lock) or owns(fds.LOCK):
        server = ServerHandle(configuration)
        uses.append(server.hold())
        _retired.add(server)
        return server, []
    with defer_sigint(), _lock:
        _retire(configuration, request)
        found: ServerHandle | None = _servers.pop(configuration, None)
        server = found or ServerHandle(configuration)
        _servers[configuration] = server
        idle = [one for one in _servers.values() if not one.serving and one is not server]
        for one in idle[: max(len(idle) - MOST_IDLE + 1, 0)]:
            _retired.add(one)
            _servers.pop(one.configuration, None)
        uses.append(server.hold())
        return server, [one for one in _retired.copy() if not one.serving]


def _retire(configuration: Configuration, request: StartMessage) -> None:
    """Retire servers with other rights, and one that does not fit the request; they end once idle."""
    for one in list(_servers.values()):
        if one.configuration.rights != configuration.rights or (
            one.configuration == configuration and not one.fits(request)
        ):
            _retired.add(one)
            _servers.pop(one.configuration, None)


def _make_timeout(launch: Launch, server: ServerHandle) -> BaseException:
    """Return the exception for a launch whose deadline passed before its ranks were started."""
    from procession._supervise.verdict import make_timeout

    error = make_timeout(launch.timeout or 0, list(range(launch.nprocs)), [], {})
    modules = [*(["__main__"] if server.configuration.main else []), *server.configuration.preload]
    names = ", ".join(modules) or "none"
    note_on(error, f"the forkserver had not started the ranks by then; modules to preload: {names}")
    return error


def _forget_if_forked() -> None:
    """Start without servers in a fork of the process that owns them; the copied lock may be held there."""
    global _owner, _lock, _retired, _servers
    if _owner != os.getpid():
        _owner, _lock, _retired, _servers = os.getpid(), threading.RLock(), set(), {}
