"""A frame decodes to what was encoded, once all of it is there; other data is refused."""

from __future__ import annotations

import pytest

from procession._rank import wire


def test_frames_decode_to_what_was_encoded() -> None:
    frame = wire.encode(wire.RAISED, 12, b"one", b"", b"\0three")
    assert wire.decode(frame) == (wire.RAISED, 12, [b"one", b"", b"\0three"])
    assert wire.decode(wire.encode(wire.RETURNED_FILE, 0)) == (wire.RETURNED_FILE, 0, [])
    short = wire.encode(b"D", 5, b"xy")
    assert short == b"\0\0\0\x0fD\0\0\0\0\0\0\0\x05\0\0\0\x02xy"
    assert wire.decode(short, 15) == wire.decode(short, None) == (b"D", 5, [b"xy"])
    with pytest.raises(ValueError, match="a frame of 15 bytes"):
        wire.decode(short, 14)


def test_an_incomplete_frame_is_no_frame_yet() -> None:
    frame = wire.encode(wire.RETURNED, 1, b"value")
    for end in range(len(frame)):
        assert wire.decode(frame[:end]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
        b"\0\0\0\x08R1234567",
        b"\xff\xff\xff\xff12345",
        b"\0\0\0\x0dR12345678\0\0\0\x05",
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="frame"):
        wire.decode(data)


def test_a_frame_of_the_longest_texts_fits_its_limit() -> None:
    longest = wire.shorten("x" * 10**6)
    frame = wire.encode(
        wire.RAISED, 2**63, wire.shorten("y" * 999, 256), wire.shorten("z" * 9999, 2048), longest,
        bytes(12 * 1024),
    )  # fmt: skip
    assert len(frame) <= wire.LIMIT


@pytest.mark.parametrize(
    "text", ["short", "x" * 40_000, "ü" * 20_000, "\udc80" * 9_000, "€" * 32_768]
)
def test_texts_are_shortened_in_the_middle(text: str) -> None:
    data = wire.shorten(text)
    assert len(data) <= wire.TEXT_LIMIT + 128
    shown = data.decode("utf-8", "replace")
    if len(text.encode("utf-8", "backslashreplace")) <= wire.TEXT_LIMIT:
        assert shown == text
    else:
        assert "left out ...]" in shown
        assert shown[0] == text.encode("utf-8", "backslashreplace").decode()[0]


def test_a_text_is_cut_to_its_limit_and_no_further() -> None:
    assert wire.shorten("0123456789", 10) == b"0123456789"
    cut = b"01234\n[... 1 characters left out ...]\n6789a"
    assert wire.shorten("0123456789a", 10) == cut
    assert wire.shorten("€" * 32 + "a" * 68, 100) == "€".encode() * 32 + b"a" * 68
    half = "€".encode() * 16
    longer = b"%b\xe2\x82\n[... 200 bytes left out ...]\n\x82\xac%b" % (half, half)
    assert wire.shorten("€" * 100, 100) == longer
    longer = b"%b\xe2\x82\n[... 66 bytes left out ...]\n%b" % (half, b"a" * 50)
    assert wire.shorten("€" * 33 + "a" * 67, 100) == longer


def test_buffers_begin_at_the_next_page() -> None:
    positions = [0, 1, 4095, 4096, 4097, 8193]
    assert [*map(wire.start_of_page, positions)] == [0, 4096, 4096, 4096, 8192, 12288]
