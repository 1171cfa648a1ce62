"""Starts agents by one command of an engine: mpiexec, srun, flux, or any script."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence

from procession._cleanup import marks
from procession._cleanup.tree import Tree
from procession._launch.environment import merge
from procession._linux import fds
from procession._linux.signals import name_signal
from procession._python.defer_signals import defer_sigint
from procession._python.unpatched import close, get_subprocess
from procession.protocol import Launch, Started
from procession.remote.launching import start_agents
from procession.remote.placement import Agents

_TAIL = 2000  # characters at the end of the engine's output that an error shows
_KILL_WAIT = 3.0  # seconds for an engine between SIGTERM and SIGKILL


def start_by_command(
    launch: Launch,
    compose: Callable[[Agents], Sequence[str]],
    *,
    rank_variables: Sequence[str] = (),
    environment: Mapping[str, str | None] | None = None,
    explain: Callable[[], str] | None = None,
    with_parent: bool = False,
) -> Started:
    """Start the ranks of a launch by one command of an engine, which starts an agent for each rank.

    Args:
        launch: the launch.
        compose: returns the engine's command for these agents; it ends with ``agents.argv``.  The engine
            must pass its own environment on to the agents.
        rank_variables: the variables that hold an agent's rank; see `start_agents`.
        environment: changes to the environment of the command; a value of None removes a variable.
        explain: returns what the engine knows about ranks that did not arrive in time, for example a reason
            in its queue.
        with_parent: whether an agent ends when the process that started it ends; see `start_agents`.

    Raises:
        Exception: as `start_agents` does.
    """

    def place(agents: Agents) -> Engine:
        env = merge(os.environ, {**(environment or {}), **agents.environment})
        return Engine(compose(agents), env, explain)

    return start_agents(launch, place, rank_variables, with_parent=with_parent)


_FORWARD_PATIENCE = 0.3  # seconds to wait for the last output of ranks


class Engine:
    """The placement of agents by one command, which runs as long as the agents.

    The standard error of the command goes to that of this process, and errors quote it if ranks do not start.
    The command ends when this process ends, and so do its descendants on this machine; agents elsewhere end
    by themselves.  A subclass may know more reasons why ranks do not start.

    Args:
        command: the command line, which contains that of the agents.
        env: its whole environment.
        explain: as for `start_by_command`.
        name: the name of the command in errors; None means the name of its program.

    Attributes:
        popen: the running command.
        said: the end of its standard error (bytes), until all agents have arrived.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        explain: Callable[[], str] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self.said: bytes = b""
        self._name = name or os.path.basename(command[0])
        self._explain = explain
        self._forwarder: subprocess.Popen[bytes] | None = None
        with fds.LOCK:
            read, write = fds.open_pipe()
            self._errors = fds.keep(read)
        os.set_blocking(self._errors, False)
        self._tree = Tree(marks.mark_of(os.urandom(8).hex()))
        try:
            with defer_sigint():
                self.popen: subprocess.Popen[bytes] = _start(command, env, write)
                self._tree.adopt_with_children(self.popen.pid)
        except BaseException:
            self._tree.release()
            fds.drop(self._errors)
            raise
        finally:
            close(write)

    def failure(self) -> str:
        """Return how the command ended and what it wrote; an empty string while it runs."""
        code = self.popen.poll()
        self._listen()
        return "" if code is None else self.quote(f"{self._name} has ended with {_name_code(code)}")

    def explain(self) -> str:
        """Return what the engine knows about the ranks, and what the command wrote."""
        known = self._explain() if self._explain is not None else ""
        return self.quote(known or f"{self._name} runs on")

    def quote(self, text: str) -> str:
        """Return a text, followed by what the command wrote."""
        said = self.said.decode("utf-8", "replace").strip()
        return f"{text}; it said:\n{said}" if said else text

    def begun(self) -> None:
        """From now on, forward standard error of the command and its ranks by a separate process (cat)."""
        self._listen()
        os.set_blocking(self._errors, True)
        self._forwarder = get_subprocess().Popen(
            ["cat"],
            stdin=self._errors,
            stdout=_stream(2),
            stderr=_stream(2),
            start_new_session=True,
        )
        self._stop_listening()

    def end(self, patience: float) -> None:
        """Wait for the command, then end it and its descendants on this machine."""
        if not _wait(self.popen, patience):
            self.popen.terminate()
            _wait(self.popen, _KILL_WAIT)
        self._tree.end()
        self._tree.release()
        _wait(self.popen, _KILL_WAIT)
        if self._forwarder is not None:
            _wait(self._forwarder, _FORWARD_PATIENCE)  # a spared daemon may keep the pipe open
            self._forwarder.kill()
            _wait(self._forwarder, _KILL_WAIT)
        self._stop_listening()

    def _listen(self) -> None:
        """Read what the command wrote, and forward it to standard error."""
        try:
            while data := os.read(self._errors, 1 << 16):
                self.said = (self.said + data)[-_TAIL:]
                if fds.has_stream(2):
                    os.write(2, data)
        except OSError:  # nothing more yet, or standard error is closed
            pass

    def _stop_listening(self) -> None:
        errors, self._errors = self._errors, -1
        if errors >= 0:
            fds.drop(errors)


def _start(command: Sequence[str], env: Mapping[str, str], errors: int) -> subprocess.Popen[bytes]:
    """Start the command in a new session: this process forwards the signals of the terminal."""
    popen: subprocess.Popen[bytes] = get_subprocess().Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=_stream(1),
        stderr=errors,
        start_new_session=True,
    )
    return popen


def _stream(number: int) -> int:
    """Return the standard stream for a child: that of this process, or the null device if it is closed."""
    return number if fds.has_stream(number) else subprocess.DEVNULL


def _wait(popen: subprocess.Popen[bytes], patience: float) -> bool:
    """Wait for a command; return whether it has ended."""
    try:
        popen.wait(patience)
    except subprocess.TimeoutExpired:
        return False
    return True


def _name_code(code: int) -> str:
    return name_signal(-code) if code < 0 else f"exit code {code}"
