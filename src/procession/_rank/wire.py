"""Frames on the socket between a rank and its caller: text and bytes, never pickles of control data.

A frame is a length (4 bytes), a kind (1 byte), a time (8 bytes, `time.monotonic_ns`) and fields, each after
its own length.  One frame goes up a channel.  It has at most `LIMIT` bytes, so it fits into an empty socket
buffer and cannot block the rank.  A longer return value travels in an anonymous memory file, whose descriptor
goes along with the frame.  The layout of the payload's file is here, too, for both sides.  Ranks import this
module: it imports nothing.
"""

from __future__ import annotations

LIMIT = 48 * 1024
"""Largest frame in bytes: under every default socket and pipe buffer (64 KiB)."""

TEXT_LIMIT = 32 * 1024
"""Largest text in a frame, in bytes; the middle of a longer text is left out."""

RETURNED = b"D"
RETURNED_FILE = b"M"
RETURNED_NOTHING = b"U"
RAISED = b"R"
EXITED = b"X"

BEGIN = b"g"
"""What goes down the channel once the caller can supervise the rank and cannot miss its end."""

PAYLOAD_HEAD = 16
"""Bytes at the start of a payload's file that give the sizes of the pickle and of the spec."""

_HEAD = 4
_PAGE = 4096  # the smallest size: where pages are larger, buffers may begin within a page


def encode(kind: bytes, time: int, *fields: bytes) -> bytes:
    """Return the frame of one report."""
    parts = [kind, time.to_bytes(8, "big")]
    for item in fields:
        parts.append(len(item).to_bytes(_HEAD, "big"))
        parts.append(item)
    body = b"".join(parts)
    return len(body).to_bytes(_HEAD, "big") + body


def decode(
    data: bytes | bytearray, limit: int | None = 2 * LIMIT
) -> tuple[bytes, int, list[bytes]] | None:
    """Return (kind, time, fields) of a complete frame; None if the frame is incomplete.

    Raises:
        ValueError: the data is not a frame.
    """
    if len(data) < _HEAD:
        return None
    size = int.from_bytes(data[:_HEAD], "big")
    if size < 9 or (limit is not None and size > limit):
        raise ValueError(f"a frame of {size} bytes")
    if len(data) < _HEAD + size:
        return None
    body = bytes(data[_HEAD : _HEAD + size])
    return body[:1], int.from_bytes(body[1:9], "big"), _split(body[9:])


def _split(body: bytes) -> list[bytes]:
    fields = []
    while body:
        size = int.from_bytes(body[:_HEAD], "big")
        if len(body) < _HEAD + size:
            raise ValueError("a field longer than its frame")
        fields.append(body[_HEAD : _HEAD + size])
        body = body[_HEAD + size :]
    return fields


def shorten(text: str, limit: int = TEXT_LIMIT) -> bytes:
    """Return text as UTF-8 of about ``limit`` bytes at most: its head and its tail."""
    if len(text) > limit:  # cut before encoding: the text may be larger than the memory left
        half = limit // 2
        text = (
            f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
        )
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit + 64:
        return data
    half = limit // 2
    left_out = f"\n[... {len(data) - 2 * half} bytes left out ...]\n".encode()
    return data[:half] + left_out + data[-half:]


def start_of_page(position: int) -> int:
    """Return the position of the first page of a payload's file that begins at or after ``position``."""
    return -(-position // _PAGE) * _PAGE
