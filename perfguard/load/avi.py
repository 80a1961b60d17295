"""Motion-JPEG in AVI: the simplest file that is a video to every decoder, written without an encoder."""

from __future__ import annotations

import struct
from collections.abc import Sequence

_MICROSECONDS = 1_000_000
_RATE_SCALE = 1000
_HAS_INDEX = 0x10
_KEY_FRAME = 0x10
_ANY_QUALITY = -1
_BITS_PER_PIXEL = 24
_FRAME = b"00dc"


def motion_jpeg(jpegs: Sequence[bytes], width_px: int, height_px: int, frame_rate: float) -> bytes:
    """Put `jpegs`, all of them `width_px` x `height_px`, one after the other, `frame_rate` of them a second.

    Source: Microsoft, "AVI RIFF File Reference" (AVIMAINHEADER, AVISTREAMHEADER, BITMAPINFOHEADER, AVIOLDINDEX).
    """
    largest = max(map(len, jpegs))
    main = struct.pack(
        "<14I",
        round(_MICROSECONDS / frame_rate),
        round(largest * frame_rate),
        0,
        _HAS_INDEX,
        len(jpegs),
        0,
        1,  # streams
        largest,
        width_px,
        height_px,
        *(0,) * 4,
    )
    stream = struct.pack(
        "<4s4sIHHIIIIIIiI4H",
        b"vids",
        b"MJPG",
        0,
        0,
        0,
        0,
        _RATE_SCALE,
        round(frame_rate * _RATE_SCALE),
        0,
        len(jpegs),
        largest,
        _ANY_QUALITY,
        0,
        *(0, 0, width_px, height_px),
    )
    bitmap = struct.pack(
        "<IiiHH4sIiiII",
        40,  # its own size
        width_px,
        height_px,
        1,
        _BITS_PER_PIXEL,
        b"MJPG",
        width_px * height_px * _BITS_PER_PIXEL // 8,
        *(0,) * 4,
    )
    chunks = [_chunk(_FRAME, jpeg) for jpeg in jpegs]
    headers = _list(b"hdrl", _chunk(b"avih", main), _list(b"strl", _chunk(b"strh", stream), _chunk(b"strf", bitmap)))
    return _chunk(b"RIFF", b"AVI " + headers + _list(b"movi", *chunks) + _chunk(b"idx1", _index(jpegs, chunks)))


def _index(jpegs: Sequence[bytes], chunks: Sequence[bytes]) -> bytes:
    """Tell where each frame lies, counted from the list's type."""
    entries, offset = [], 4
    for jpeg, chunk in zip(jpegs, chunks, strict=True):
        entries.append(struct.pack("<4sIII", _FRAME, _KEY_FRAME, offset, len(jpeg)))
        offset += len(chunk)
    return b"".join(entries)


def _chunk(name: bytes, content: bytes) -> bytes:
    """Write a chunk; the next one begins at an even place."""
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _list(kind: bytes, *chunks: bytes) -> bytes:
    return _chunk(b"LIST", kind + b"".join(chunks))
