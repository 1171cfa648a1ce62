"""Frames on the socket between a rank and its launcher: text and bytes, never pickles of control data.

A frame is a length (4 bytes), a kind (1 byte), a time (8 bytes, `time.monotonic_ns`) and fields,
each with a length of its own.  One frame goes up a channel.  It is at most `LIMIT` bytes long, so
that it fits into an empty socket buffer and cannot block the rank; a longer return value travels in
an anonymous memory file whose descriptor goes along.  Of the file that brings a rank its call, both sides
know from here how it is divided.  Ranks import this module: it imports nothing.
"""

from __future__ import annotations

LIMIT = 48 * 1024
"""Largest frame in bytes: under every default socket and pipe buffer (64 KiB)."""

TEXT_LIMIT = 32 * 1024
"""Largest text in a frame, in bytes; the middle of a longer one is left out."""

RETURNED = b"D"
RETURNED_FILE = b"M"
RETURNED_NOTHING = b"U"
RAISED = b"R"
EXITED = b"X"

BEGIN = b"g"
"""What goes down the channel once the launcher has hold of the rank, whose end it can then not miss."""

PAYLOAD_HEAD = 16
"""Bytes at the start of a payload's file that tell the sizes of the pickle and of the orders."""

_HEAD = 4
_PAGE = 4096  # the least there is: where pages are larger, buffers only need not begin one


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
    """Return (kind, time, fields) of a complete frame, None of an incomplete one.

    Raises:
        ValueError: the data is no frame.
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
    """Return text as UTF-8 of at most ``limit`` bytes: its head and its tail."""
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
    """Return where the first page of a payload's file begins at or after a position."""
    return -(-position // _PAGE) * _PAGE
