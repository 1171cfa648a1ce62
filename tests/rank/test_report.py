"""What a rank sends when it ends: one frame, whatever its result or its error is."""

from __future__ import annotations

import os
import pickle
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from procession._rank import report, wire
from procession._rank.report import Reporter
from procession._rank.small_pickle import dump_small

Channel = tuple[Reporter, Any]


@pytest.fixture
def channel() -> Iterator[Channel]:
    """A reporter, and the socket on which its frame comes."""
    ours, theirs = socket.socketpair()
    yield Reporter(ours.fileno()), theirs
    ours.close()
    theirs.close()
    report.reserve_memory()


def receive(channel: Channel) -> tuple[bytes, list[bytes]]:
    """Return the kind and the fields of the frame that was sent."""
    data = channel[1].recv(2 * wire.LIMIT)
    decoded = wire.decode(data)
    assert decoded is not None
    assert decoded[1] > 0
    assert len(data) == 4 + int.from_bytes(data[:4], "big")  # one frame, and nothing after it
    return decoded[0], decoded[2]


def test_a_result_travels_in_the_frame_if_it_fits(channel: Channel) -> None:
    reporter = channel[0]
    for value in (None, 3, b"x" * (wire.TEXT_LIMIT - 50)):
        reporter.returned(value, wanted=True)
        kind, [data] = receive(channel)
        assert (kind, pickle.loads(data)) == (wire.RETURNED, value)
    reporter.returned(None, wanted=True)
    assert receive(channel)[1] == [pickle.dumps(None, 4)]
    reporter.returned(3, wanted=False)
    assert receive(channel) == (wire.RETURNED_NOTHING, [b"results were not asked for"])


def test_a_larger_result_travels_in_a_file(channel: Channel) -> None:
    reporter, sock = channel
    value = b"x" * wire.TEXT_LIMIT
    reporter.returned(value, wanted=True)
    data, [(_, _, rights)], *_ = sock.recvmsg(wire.LIMIT, socket.CMSG_LEN(4))
    decoded = wire.decode(data)
    assert decoded is not None
    assert (decoded[0], decoded[2]) == (wire.RETURNED_FILE, [])
    with open(int.from_bytes(rights, "little"), "rb") as file:
        assert pickle.loads(os.pread(file.fileno(), 2 * wire.TEXT_LIMIT, 0)) == value


class Unpicklable:
    """A value whose pickling fails, and whose text cannot be had either."""

    def __reduce__(self) -> str:
        raise Unspeakable


class Unspeakable(Exception):
    """An exception without a text."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_it_says_why_a_result_is_missing(channel: Channel) -> None:
    channel[0].returned(Unpicklable(), wanted=True)
    reason = b"it cannot be pickled: Unspeakable: <Unspeakable object whose str() raises>"
    assert receive(channel) == (wire.RETURNED_NOTHING, [reason])


def test_what_has_no_name_to_import_it_by_travels_by_value(channel: Channel) -> None:
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    channel[0].returned(lambda: 3, wanted=True)
    kind, [data] = receive(channel)
    assert (kind, pickle.loads(data)()) == (wire.RETURNED, 3)


def test_an_exit_has_its_code_and_its_words(
    channel: Channel, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = channel[0]
    for code in (None, 0, False):
        assert reporter.exited(SystemExit(code)) == 0
        assert receive(channel) == (wire.RETURNED_NOTHING, [b"it called sys.exit(0)"])
    for code, status in ((1, 1), (3, 3), (255, 255), (256, 1), (258, 2), (-1, 255), (True, 1)):
        assert reporter.exited(SystemExit(code)) == status
        text = (
            b"256" if code == 256 else str(status).encode()
        )  # 0 to the system, but meant as a failure
        assert receive(channel) == (wire.EXITED, [text])
    assert capsys.readouterr().err == ""
    assert reporter.exited(SystemExit("last words")) == 1
    assert receive(channel) == (wire.EXITED, [b"last words"])
    assert capsys.readouterr().err == "last words\n"


def raise_and_catch(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_exception_has_its_type_text_traceback_and_pickle(channel: Channel) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    channel[0].raised(raise_and_catch(ValueError("why", 3)))
    kind, [name, message, text, pickled] = receive(channel)
    assert (kind, name, message) == (wire.RAISED, b"ValueError", b"('why', 3)")
    assert text.startswith(b"Traceback (most recent call last):\n")
    assert b"in raise_and_catch\n    raise error\n" in text
    assert text.endswith(b"ValueError: ('why', 3)\n")
    assert pickle.loads(pickled).args == ("why", 3)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_an_exception_of_a_user_is_named_with_its_module(channel: Channel) -> None:
    channel[0].raised(raise_and_catch(Unspeakable()))
    _, [name, message, text, _] = receive(channel)
    assert name == f"{__name__}.Unspeakable".encode()
    assert message == b"<Unspeakable object whose str() raises>"
    assert b"in raise_and_catch\n" in text


def test_an_exception_that_is_too_large_is_described_but_not_sent(channel: Channel) -> None:
    for size, sent in ((report.EXCEPTION_LIMIT // 2, True), (report.EXCEPTION_LIMIT, False)):
        channel[0].raised(raise_and_catch(ValueError("x" * size)))
        _, [_, message, text, pickled] = receive(channel)
        assert bool(pickled) == sent
        assert len(message) < 2500
        assert text.startswith(b"Traceback")
    error, limit = ValueError("why"), 16 * report.EXCEPTION_LIMIT
    assert report._pickle_exception(error, limit)
    assert not report._pickle_exception(error, limit + 1)


def test_a_process_that_a_rank_forked_reports_nothing(channel: Channel) -> None:
    reporter, sock = channel
    reporter._pid += 1
    assert not reporter.is_ours()
    reporter.returned(3, wanted=True)
    reporter.returned(b"x" * wire.TEXT_LIMIT, wanted=True)
    with pytest.raises(BlockingIOError):
        sock.recv(1, socket.MSG_DONTWAIT)


def test_a_plain_description_needs_no_sources() -> None:
    text = report.describe_plainly(raise_and_catch(ValueError("why")))
    first, place, last = text.splitlines()
    assert (first, last) == ("Traceback (most recent call last):", "ValueError: why")
    assert place.startswith(f'  File "{__file__}", line ')
    assert place.endswith(", in raise_and_catch")


def test_a_description_leaves_a_long_chain_as_it_was() -> None:
    errors = [ValueError(number) for number in range(4 * report.LINKS)]
    for one, cause in zip(errors[1:], errors, strict=False):
        one.__cause__ = cause
    assert "exceptions left out" in report.describe(errors[-1])
    assert [one.__cause__ for one in errors] == [None, *errors[:-1]]


def test_a_small_pickle_is_whole_or_empty() -> None:
    for value in ("x" * 10, [1, 2], {"a": (None, 2.5)}, 2**100, bytearray(9)):
        whole = dump_small(value, 1000)
        assert whole
        assert pickle.loads(whole) == value
        assert dump_small(value, len(whole)) == whole
        assert dump_small(value, len(whole) - 1) == b""
    assert dump_small(lambda: None, 1000) is None
    large = pickle.PickleBuffer(bytearray(2000))
    for one in ("x" * 2000, b"x" * 2000, 1 << 16_000, large, [bytearray(2000)]):
        assert dump_small(one, 1000) == b""
