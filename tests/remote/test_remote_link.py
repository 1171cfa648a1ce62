"""Links send and receive frames: each whole or not at all, never read ahead, without blocking."""

from __future__ import annotations

import os
import select
import socket
import tempfile
import threading
from collections.abc import Iterator

import pytest

from procession.remote.handshake import AuthenticationError, Greeting, greet_hub
from procession.remote.link import PAYLOAD, REPORT, STACKS, Link, await_end, await_frame

SECRET = b"s" * 32


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
        yield near, far
        near.close()
        far.close()


@pytest.fixture
def links(sockets: tuple[socket.socket, socket.socket]) -> Iterator[tuple[Link, Link]]:
    near, far = map(Link, sockets)
    yield near, far
    near.close()
    far.close()


def test_a_frame_arrives_as_it_was_sent(links: tuple[Link, Link]) -> None:
    near, far = links
    near.send(REPORT, {"text": "a", "bytes": b"\0\1", "none": None})
    frame = await_frame(far)
    assert (frame.kind, frame.head) == (REPORT, {"text": "a", "bytes": b"\0\1", "none": None})
    assert frame.body == -1
    assert far.receive() is None


def test_a_body_arrives_as_a_file(links: tuple[Link, Link]) -> None:
    near, far = links
    near.send(PAYLOAD, 1, memoryview(b"content"))
    near.send(STACKS, "after it")
    frame = await_frame(far)
    assert os.pread(frame.body, 100, 0) == b"content"
    assert await_frame(far).head == "after it"
    os.close(frame.body)


def test_sending_does_not_wait_for_the_reader(links: tuple[Link, Link]) -> None:
    """The content, of a view and of a file, is far larger than the buffers of the kernel."""
    near, far = links
    content = os.urandom(1 << 20) * 20
    file = tempfile.TemporaryFile()
    file.write(content)
    file.flush()
    near.send(PAYLOAD, "view", memoryview(content))
    near.send(PAYLOAD, "file", file.fileno())
    assert near.is_sending
    sending = threading.Thread(target=lambda: [None for _ in iter(lambda: flush(near), False)])
    sending.start()
    for expected in ("view", "file"):
        frame = await_frame(far)
        assert frame.head == expected
        assert os.pread(frame.body, len(content), 0) == content
        os.close(frame.body)
    sending.join()
    file.close()


def flush(link: Link) -> bool:
    """Wait for room, and send as much as fits; return whether there is more."""
    poll = select.poll()
    poll.register(link, select.POLLOUT)
    poll.poll(10_000)
    link.flush()
    return link.is_sending


def test_a_link_is_readable_while_a_frame_has_not_been_received(links: tuple[Link, Link]) -> None:
    """It never reads ahead, so a poll of its descriptor misses no frame."""
    near, far = links
    for number in range(3):
        near.send(REPORT, number)
    for number in range(3):
        assert is_readable(far)
        assert await_frame(far).head == number
    assert not is_readable(far)


def test_next_kind_does_not_receive_the_frame(links: tuple[Link, Link]) -> None:
    near, far = links
    assert far.next_kind() == b""
    near.send(STACKS, "text")
    assert is_readable(far)
    assert [far.next_kind(), far.next_kind()] == [STACKS, STACKS]
    assert await_frame(far).head == "text"


def test_a_frame_that_arrives_in_pieces_is_put_together(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    whole, scrap = Link(sockets[0]), sockets[1]
    sent = record(REPORT, "in pieces")
    for index in range(len(sent) - 1):
        scrap.sendall(sent[index : index + 1])
        assert is_readable(whole)
        assert whole.receive() is None
        assert whole.next_kind() == REPORT
    scrap.sendall(sent[-1:])
    assert await_frame(whole).head == "in pieces"
    whole.close()


def record(kind: bytes, head: object) -> bytes:
    """Return the bytes of a frame."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = Link(socket.create_connection(server.getsockname()))
        other, _ = server.accept()
    with other:
        near.send(kind, head)
        near.close()
        return b"".join(iter(lambda: other.recv(4096), b""))


def test_the_end_of_a_link_has_a_reason(links: tuple[Link, Link]) -> None:
    near, far = links
    near.close()
    near.close()
    with pytest.raises(EOFError, match="the connection was closed"):
        await_frame(far)
    near.send(REPORT)  # lost silently
    assert near.receive() is None
    await_end(far)


def is_readable(link: Link) -> bool:
    poll = select.poll()
    poll.register(link, select.POLLIN)
    return bool(poll.poll(1000 if link.next_kind() else 0))


def test_two_sides_that_know_the_secret_accept_each_other(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    assert greet(*sockets, SECRET, SECRET) == []


def test_two_sides_with_different_secrets_refuse_each_other(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    assert greet(*sockets, SECRET, b"t" * 32) == ["hub", "agent"]


def test_a_hub_that_returns_the_proof_of_the_agent_is_refused(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    near, far = sockets
    near.settimeout(10)
    far.sendall(b"c" * 32)
    refused: list[bool] = []

    def agree() -> None:
        with pytest.raises(AuthenticationError, match="does not know"):
            greet_hub(near, SECRET)
        refused.append(True)

    thread = threading.Thread(target=agree)
    thread.start()
    answer = far.recv(64)
    far.sendall(answer[32:])
    thread.join()
    assert refused


def greet(near: socket.socket, far: socket.socket, ours: bytes, theirs: bytes) -> list[str]:
    """Run the handshake of a hub and an agent; return the sides that refused."""
    refused = []
    near.settimeout(10)
    greeting = Greeting(ours)
    far.sendall(greeting.challenge)

    def answer() -> None:
        try:
            last = None
            while last is None:
                last = greeting.feed(far.recv(greeting.missing))
            far.sendall(last)
        except AuthenticationError:
            refused.append("hub")
            far.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        greet_hub(near, theirs)
    except AuthenticationError:
        thread.join()
        refused.append("agent")
    thread.join()
    return refused


def test_a_frame_whose_last_part_ends_a_turn_is_returned(
    links: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more data would arrive to wake a poll."""
    near, far = links
    monkeypatch.setattr("procession.remote.link._TURN", 2)  # the sizes, and the head
    near.send(REPORT, "all")
    assert is_readable(far)
    frame = far.receive()
    assert frame is not None
    assert frame.head == "all"
