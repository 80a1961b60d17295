"""Reads the Python stack of a thread of another process from that process's memory, without a pause of it.

A thread that waits for the GIL cannot run Python code, so its stack stands still while it is read. The holder's may
change meanwhile: what is read then is a stack that was there a moment ago, or it leads to something that is no code
object, and counts as unread.
"""

from __future__ import annotations

import struct

from perfguard.samplers.frame_layout import FrameLayout
from perfguard.samplers.gil_memory import Memory

_OB_TYPE = 8
_LENGTH, _STATE = 16, 32  # of a string
_BYTES_LENGTH, _BYTES_TEXT = 16, 32  # of a bytes object
# Frames of the interpreter itself, which are no Python code: Include/internal/pycore_frame.h, enum _frameowner.
_FIRST_INNER_OWNER = 3
_TAGS = 0b11  # of a reference on the stack, from 3.14 on
_MAX_DEPTH = 1000
_MAX_TEXT = 4096
_MAX_TABLE = 1 << 20
_KINDS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}


class TornStackError(Exception):
    """The stack changed while it was read, or is none."""


class FrameReader:
    """Reads stacks in `memory`, whose code objects are of the type at `code_type`."""

    def __init__(self, memory: Memory, layout: FrameLayout, code_type: int) -> None:
        self._memory = memory
        self._layout = layout
        self._code_type = code_type
        self._codes: dict[int, tuple[bytes, _Code]] = {}
        self._fresh: dict[int, _Code] = {}
        self._frame_bytes = max(layout.previous, layout.code, layout.instruction, layout.owner or 0) + 8
        self._head_bytes = max(layout.filename, layout.name, layout.linetable, layout.first_line) + 8

    def forget(self) -> None:
        """Look code objects up anew, for one may have been freed and another have its place; do so now and then."""
        self._fresh.clear()

    def stack(self, state: int) -> tuple[str, ...]:
        """Return the frames of the thread whose state lies at `state`, root first, each as `function (file:line)`.

        Raises:
            TornStackError: what was read is no stack.
            OSError: memory cannot be read.
        """
        layout, read = self._layout, self._memory.read
        frame = _word(read(state + layout.current, 8), 0)
        if layout.current_in is not None and frame:
            frame = _word(read(frame + layout.current_in, 8), 0)
        names: list[str] = []
        depth = 0
        while frame:
            depth += 1
            if depth > _MAX_DEPTH:
                raise TornStackError
            content = read(frame, self._frame_bytes)
            frame = _word(content, layout.previous)
            if layout.owner is not None and content[layout.owner] >= _FIRST_INNER_OWNER:
                continue
            address = _word(content, layout.code) & ~_TAGS
            code = self._fresh.get(address) or self._code(address)
            names.append(code.at(content, layout))
        names.reverse()
        return tuple(names)

    def _code(self, address: int) -> _Code:
        head = self._memory.read(address, self._head_bytes)
        layout = self._layout
        if _word(head, _OB_TYPE) != self._code_type:
            raise TornStackError
        told = b"".join(head[place : place + 8] for place in (layout.filename, layout.name, layout.linetable))
        told += head[layout.first_line : layout.first_line + 4]
        known = self._codes.get(address)
        if known is None or known[0] != told:
            known = told, self._read_code(address, head)
            self._codes[address] = known
        self._fresh[address] = known[1]
        return known[1]

    def _read_code(self, address: int, head: bytes) -> _Code:
        layout = self._layout
        (first_line,) = struct.unpack_from("<i", head, layout.first_line)
        table = _word(head, layout.linetable)
        (size,) = struct.unpack("<Q", self._memory.read(table + _BYTES_LENGTH, 8))
        if size > _MAX_TABLE:
            raise TornStackError
        return _Code(
            name=self._text(_word(head, layout.name)),
            file=self._text(_word(head, layout.filename)),
            first_line=first_line,
            bytecode=None if layout.bytecode is None else address + layout.bytecode,
            table=self._memory.read(table + _BYTES_TEXT, size),
        )

    def _text(self, address: int) -> str:
        layout, read = self._layout, self._memory.read
        head = read(address, layout.ascii_bytes)
        (length,) = struct.unpack_from("<q", head, _LENGTH)
        (state,) = struct.unpack_from("<I", head, _STATE)
        if not 0 <= length <= _MAX_TEXT:
            raise TornStackError
        plain = read(address + layout.ascii_bytes, length + 1)
        if plain[-1] == 0 and 0 not in plain[:-1] and plain.isascii():
            return plain[:-1].decode("ascii")
        kind = state >> 2 & 0b111
        if kind not in _KINDS:
            raise TornStackError
        return read(address + layout.wide_bytes, length * kind).decode(_KINDS[kind], errors="replace")


class _Code:
    """What a code object says of itself; lines are told once for each instruction that is met."""

    __slots__ = ("_bytecode", "_file", "_first_line", "_lines", "_name", "_table")

    def __init__(self, *, name: str, file: str, first_line: int, bytecode: int | None, table: bytes) -> None:
        self._name = name
        self._file = file
        self._first_line = first_line
        self._bytecode = bytecode
        self._table = table
        self._lines: dict[int, str] = {}

    def at(self, frame: bytes, layout: FrameLayout) -> str:
        """Name the place of a frame of this code."""
        if self._bytecode is None:
            (index,) = struct.unpack_from("<i", frame, layout.instruction)
            offset = 2 * index
        else:
            offset = _word(frame, layout.instruction) - self._bytecode
        if offset not in self._lines:
            line = old_line_at if self._bytecode is None else line_at
            self._lines[offset] = f"{self._name} ({self._file}:{line(self._table, self._first_line, offset)})"
        return self._lines[offset]


def line_at(table: bytes, first_line: int, offset: int) -> int:
    """Return the line of the instruction `offset` bytes into the code; the first line where the table has none.

    Source: CPython 3.11's Objects/locations.md.
    """
    line, end, place = first_line, 0, 0
    if offset < 0:  # the frame was set up and has not begun
        return first_line
    while place < len(table):
        entry = table[place]
        end += 2 * ((entry & 0b111) + 1)
        form = entry >> 3 & 0b1111
        place += 1
        told = True
        if form == _NO_LOCATION:
            told = False
        elif form in (_LONG, _NO_COLUMNS):
            delta, place = _signed(table, place)
            line += delta
        elif form >= _ONE_LINE:
            line += form - _ONE_LINE
        while place < len(table) and not table[place] & 0x80:  # an entry's first byte alone has the highest bit
            place += 1
        if offset < end:
            return line if told else first_line
    return first_line


_ONE_LINE, _NO_COLUMNS, _LONG, _NO_LOCATION = 10, 13, 14, 15


def _signed(table: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(table):
        byte = table[place]
        place += 1
        value |= (byte & 0b111111) << shift
        shift += 6
        if not byte & 0b1000000:
            break
    return (-(value >> 1) if value & 1 else value >> 1), place


def old_line_at(table: bytes, first_line: int, offset: int) -> int:
    """Do the same with the table of 3.10. Source: CPython 3.10's Objects/lnotab_notes.txt."""
    line, end = first_line, 0
    for place in range(0, len(table) - 1, 2):
        (delta,) = struct.unpack_from("<b", table, place + 1)
        end += table[place]
        if delta != _NO_LINE:
            line += delta
        if offset < end:
            return first_line if delta == _NO_LINE else line
    return first_line


_NO_LINE = -128


def _word(content: bytes, place: int) -> int:
    return int.from_bytes(content[place : place + 8], "little")
