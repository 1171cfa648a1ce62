"""Every wait of the caller, for a lock or a read, has an end: one in the code, or a reason listed here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import procession

SOURCE = Path(procession.__file__).parent

ELSEWHERE = re.compile(
    r"(testing|_pyinstaller|_rank)/|(.*/)?(server|reaper)\.py"
    r"|remote/(agent|agent_session|worker_agent|handshake)\.py"
)
"""Modules of ranks, servers and agents, in which the caller does not wait."""

WAITS = {
    "acquire",
    "recv",
    "recvmsg",
    "recv_bytes",
    "recvfrom",
    "accept",
    "poll",
    "join",
    "wait",
} | {*("select", "waitpid", "waitid", "receive", "sendall", "communicate")}

BOUNDED = re.compile(
    r"timeout|patience|until|pause|_WAIT|PATIENCE|WNOHANG|DONTWAIT|MSG_PEEK|blocking=False"
    r"|(join|poll|wait)\([0-9.]+\)|SETTLING"
)
"""Text in a call that shows that its wait has an end."""

LOCKS = {
    "fds.LOCK": "held while descriptors are made, and for the reaper's start and answer (1 s)",
    "LOCK": "fds.LOCK",
    "_lock": "held for no call that waits",
    "self._stacks_lock": "held while ranks are asked for stacks, for `stack_request.PATIENCE`",
}
"""Locks by their text, and why a wait for one ends."""

MODULES_OF_LOCKS = {
    "_supervise/supervisor": "its callers hold the lock, and `run` waits for it with a deadline",
    "_supervise/process": "held for no call that waits",
    "_forkserver/handles": "held while a server is waited for, for `_PATIENCE` a launch",
    "_supervise/stopping": "held while a step of a stop sends signals",
    "remote/link": "held while there is data to read or room to write: no call of a link blocks",
    "remote/process": "held while frames that have arrived are read",
}
"""Modules whose ``self._lock`` has an end, and why."""

REASONS = {
    "api: context.wait()": "a launch's own deadline ends it",
    "_supervise/at_exit: unpatched.poll()": "makes a poll object",
    "backends/portable: self.connection.poll()": "looks only",
    "backends/portable: self.connection.recv_bytes()": "follows a look; a rank writes one frame at once",
    "_supervise/channel: sock.sendall(wire.BEGIN, messages.NO_SIGNAL)": "one byte, into an empty socket",
    "_linux/messages: sock.sendall(head, NO_SIGNAL)": "`_bound` has set a timeout",
    "_linux/messages: sock.sendall(body, NO_SIGNAL)": "`_bound` has set a timeout",
    "backends/portable: os.waitid(os.P_PID, self._process.pid, how)": "`how` has WNOHANG",
    "_cleanup/children: unpatched.waitpid(pid, 0)": "the child has ended, or has just got SIGKILL",
    "_python/greenlets: poller.poll(None if seconds is None else seconds * 1000)": "its caller gives the end",
    "_python/greenlets: select.select([own], [], [], seconds)": "its caller gives the end",
    "_supervise/rank_state: self.channel.receive()": "a channel never blocks (`protocol.ErrorChannel`)",
    "_linux/messages: sock.recv(size - len(data))": "`_bound` has set a timeout",
    "_linux/messages: sock.recvmsg(size, space, flags)": "`_bound` has set a timeout, or the flags one",
    "remote/dispatch: connection.control.receive()": "a link never blocks",
    "remote/hub: link.receive()": "a link never blocks",
    "remote/hub: peer.sock.recv(peer.greeting.missing)": "the socket does not block",
    "remote/hub: listener.accept()": "the socket does not block",
    "remote/engine: self.popen.poll()": "looks only",
    "remote/engine: os.read(self._errors, 1 << 16)": "the pipe does not block",
    "remote/launching: control.receive()": "a link never blocks",
    "remote/link: poll.poll()": "in agents, which end with their caller",
    "remote/link: link.receive()": "a link never blocks",
    "remote/link: sock.recv(min(self._left, _CHUNK) or self._missing())": "the socket does not block",
    "remote/process: control.receive()": "a link never blocks",
    "remote/process: self._control.receive()": "a link never blocks",
    "remote/relay/ends: self._listener.accept()": "the selector has said that there is a connection",
    "remote/relay/tunnel: self._thread.join()": "`close` has woken its loop, which ends without another wait",
    "remote/relay/tunnel: stream.sock.recv(_CHUNK)": "the socket does not block",
    "_linux/credentials: unpatched.read(fd, 1 << 16)": "a file of /proc",
    "_python/unpatched: poller.poll(seconds * 1000)": "its caller gives the end",
    "_python/unpatched: greenlets.acquire(lock, seconds)": "its caller gives the end",
    "_supervise/stopping: self._lock.acquire(blocking=blocking)": "held while a step of a stop sends signals",
    "_supervise/supervisor: self._stop_lock.acquire(blocking=blocking)": "the same",
    "_supervise/waiter: self._read.recv_bytes()": "follows a look",
    "_supervise/waiter: self._selector.select(0)": "looks only",
    "_supervise/waiter: unpatched.read(self._wake_read, 4096)": "the pipe does not block",
}
"""Other waits, and why each ends."""


def list_waits() -> Iterator[tuple[str, str, bool]]:
    """Return the module and text of each wait, and whether it is for a lock."""
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if ELSEWHERE.fullmatch(name) or ELSEWHERE.match(name):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.With, ast.AsyncWith)):
                for item in node.items:
                    text = ast.unparse(item.context_expr)
                    if "lock" in text.lower():
                        yield name[:-3], text, True
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                text = ast.unparse(node)
                strings = isinstance(node.func.value, (ast.Constant, ast.JoinedStr))
                if (node.func.attr in WAITS and not strings) or text.startswith(
                    ("os.read(", "unpatched.read(")
                ):
                    yield name[:-3], text, False


NO_WAITS = re.compile(
    r"(os\.path|cgroups|_RANKS_MODULE)\.join\(|(select|unpatched)\.(poll|epoll)\(\)"
)


def test_no_wait_of_the_caller_is_without_an_end() -> None:
    unknown = []
    for module, text, is_lock in list_waits():
        if BOUNDED.search(text) or NO_WAITS.match(text):
            continue
        if is_lock and (text in LOCKS or module in MODULES_OF_LOCKS):
            continue
        if f"{module}: {text}" not in REASONS:
            unknown.append(f"{module}: {text}")
    assert unknown == []


def test_every_reason_is_still_needed() -> None:
    waits = list(list_waits())
    assert set(REASONS) <= {f"{module}: {text}" for module, text, _ in waits}
    assert set(LOCKS) <= {text for _, text, is_lock in waits if is_lock}
    assert set(MODULES_OF_LOCKS) <= {module for module, _, is_lock in waits if is_lock}
