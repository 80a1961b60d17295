"""Where CPython keeps the Python stack of a thread: the offsets of each version, for 64-bit Linux.

Source: Include/cpython/pystate.h, code.h, frameobject.h, unicodeobject.h and Include/internal/pycore_frame.h of
3.10.13, 3.11.7, 3.12.1 and 3.13.0: the numbers are what `offsetof` gives. From 3.13 on an interpreter tells most of
them itself (`_Py_DebugOffsets`); their places in that table are those of Include/internal/pycore_runtime.h of 3.13 and
pycore_debug_offsets.h of 3.14.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from perfguard.samplers.gil_memory import Memory

_TABLE_WORDS = 48
_COOKIE_BYTES = 8
# What a damaged or another table would exceed: no structure that is read here is larger.
_LARGEST = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLayout:
    """Offsets of one build, in bytes.

    `threads` is the head of the list of thread states in an interpreter's. `current` is the innermost frame in a
    thread's state, or where that points to a structure that has it `current_in` bytes on (None: it does not). Of a
    frame: `previous`, `code`, `instruction` (an address, or in 3.10, which has no `bytecode`, an index in the code) and
    `owner` (None: it has none). Of a code object: the rest; `ascii_bytes` is where the text of a string begins, if all
    of it is ASCII, and `wide_bytes` if not.
    """

    threads: int
    current: int
    current_in: int | None
    previous: int
    code: int
    instruction: int
    owner: int | None
    filename: int = 112
    name: int
    linetable: int = 136
    first_line: int
    bytecode: int | None
    ascii_bytes: int = 40
    wide_bytes: int = 56


# `name` is the qualified one from 3.11 on, as py-spy tells it.
_FIXED = {
    (3, 10): FrameLayout(
        threads=8,
        current=24,
        current_in=None,
        previous=24,
        code=32,
        instruction=96,
        owner=None,
        filename=104,
        name=112,
        linetable=120,
        first_line=40,
        bytecode=None,
        ascii_bytes=48,
        wide_bytes=72,
    ),
    (3, 11): FrameLayout(
        threads=16,
        current=56,
        current_in=8,
        previous=48,
        code=32,
        instruction=56,
        owner=69,
        name=128,
        first_line=72,
        bytecode=184,
        ascii_bytes=48,
        wide_bytes=72,
    ),
    (3, 12): FrameLayout(
        threads=72,
        current=56,
        current_in=0,
        previous=8,
        code=0,
        instruction=56,
        owner=70,
        name=128,
        first_line=68,
        bytecode=192,
    ),
}
# Where the table has `current_frame`, the frame's `previous` and the code's `filename`, counted in words after its
# cookie; the words between and behind them are the same in both versions.
_TABLES = {(3, 13): (22, 28, 34), (3, 14): (25, 31, 39)}
_THREADS_PLACE = 8


def find_frame_layout(memory: Memory, runtime: int, version: tuple[int, int]) -> FrameLayout | None:
    """Return the offsets of the interpreter of `version` whose `_PyRuntime` lies at `runtime`; None: not known.

    Raises:
        OSError: it cannot be read.
    """
    if version in _FIXED:
        return _FIXED[version]
    if version not in _TABLES:
        return None
    thread, frame, code = _TABLES[version]
    words = struct.unpack(f"<{_TABLE_WORDS}Q", memory.read(runtime + _COOKIE_BYTES, 8 * _TABLE_WORDS))
    layout = FrameLayout(
        threads=words[_THREADS_PLACE],
        current=words[thread],
        current_in=None,
        previous=words[frame],
        code=words[frame + 1],
        instruction=words[frame + 2],
        owner=words[frame + 4],
        filename=words[code],
        name=words[code + 2],
        linetable=words[code + 3],
        first_line=words[code + 4],
        bytecode=words[code + 8],
    )
    told = (layout.current, layout.previous, layout.instruction, layout.filename, layout.name, layout.linetable)
    return layout if all(0 < offset < _LARGEST for offset in told) else None
