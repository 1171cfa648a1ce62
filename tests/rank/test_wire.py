"""Frames: what goes in comes out, in whatever pieces; what is no frame is refused."""

from __future__ import annotations

import pytest

from procession._rank import wire


def test_frames_come_out_as_they_went_in() -> None:
    frame = wire.encode(wire.RAISED, 12, b"one", b"", b"\0three")
    assert wire.decode(frame) == (wire.RAISED, 12, [b"one", b"", b"\0three"])
    assert wire.decode(wire.encode(wire.RETURNED_FILE, 0)) == (wire.RETURNED_FILE, 0, [])


def test_incomplete_frames_are_waited_for() -> None:
    frame = wire.encode(wire.RETURNED, 1, b"value")
    for end in range(len(frame)):
        assert wire.decode(frame[:end]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0",
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
