"""cProfile's files as a table of functions: they count calls and hold no stacks.

The files are written by `marshal`, whose own reader may crash the interpreter on bytes that were not written by it. So
the few types that a table of functions is made of are read here, every length checked against what is left; any other
type is refused. Nothing in such a file is ever run.
Source: CPython, Python/marshal.c and Lib/cProfile.py.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfguard.evidence.stacks import FrameTable
from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame

_MAY_BE_REFERRED_TO = 0x80
_MAX_DEPTH = 8
_FLOAT_BYTES = 8
_INT_BYTES = 4
_DIGIT_BITS = 15
_MAX_DIGITS = 16
_KEY_PARTS = 3
_VALUE_PARTS = 5
_END = object()
_CONSTANTS = {"N": None, "F": False, "T": True, "0": _END}
_UNFINISHED = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRow:
    """One function as cProfile saw it, in wall-clock seconds; `total_s` holds what it called, `self_s` does not.

    `primitive_calls` are those that were not recursion.
    """

    function: str
    file: str
    line: int
    calls: int
    primitive_calls: int
    self_s: float
    total_s: float


def read_cprofile(data: bytes, *, strip_prefixes: Sequence[str] = ()) -> tuple[FunctionRow, ...]:
    """Read a file of cProfile (or `pstats.Stats.dump_stats`), the function with the most own time first.

    Raises:
        PerfguardError: it is cut off, malformed, or holds something else.
    """
    reader = _Reader(data)
    table = reader.value(0)
    if reader.left:
        raise _malformed(f"{reader.left} bytes follow its end")
    if not isinstance(table, dict):
        raise _malformed("it holds no table of functions")
    if not table:
        raise PerfguardError("it is a cProfile file without a single function")
    names = FrameTable(strip_prefixes, lambda name: Frame(function=name, file="", line=0))
    rows = [_row(key, value, names) for key, value in table.items()]
    return tuple(sorted(rows, key=lambda row: (-row.self_s, row.file, row.line, row.function)))


def _row(key: Any, value: Any, names: FrameTable) -> FunctionRow:
    if (
        not isinstance(key, tuple)
        or len(key) != _KEY_PARTS
        or not isinstance(value, tuple)
        or len(value) != _VALUE_PARTS
    ):
        raise _malformed("an entry is not (file, line, function): (calls, calls, time, time, callers)")
    (file, line, function), (primitive, calls, self_s, total_s, _) = key, value
    whole = all(isinstance(number, int) and number >= 0 for number in (line, primitive, calls))
    timed = all(isinstance(time_s, (int, float)) and math.isfinite(time_s) for time_s in (self_s, total_s))
    if not (isinstance(file, str) and isinstance(function, str) and whole and timed):
        raise _malformed(f"the entry {str(function)[:80]!r} is not made of names, counts and times")
    frame = names.frames[names.add(Frame(function=function, file=file, line=line))]
    return FunctionRow(
        function=frame.function,
        file=frame.file,
        line=line,
        calls=calls,
        primitive_calls=primitive,
        self_s=float(self_s),
        total_s=float(total_s),
    )


class _Reader:
    """Reads the types that cProfile's tables are made of, and no others."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._referred: list[Any] = []

    @property
    def left(self) -> int:
        """How many bytes are still to be read."""
        return len(self._data) - self._position

    def value(self, depth: int) -> Any:
        """Read the next object.

        Raises:
            PerfguardError: it is cut off, of another type, or nested deeper than a table of functions is.
        """
        if depth > _MAX_DEPTH:
            raise _malformed("it is nested deeper than a table of functions is")
        mark = self._bytes(1)[0]
        place = None
        if mark & _MAY_BE_REFERRED_TO:
            place = len(self._referred)
            self._referred.append(_UNFINISHED)
        found = self._of_kind(chr(mark & ~_MAY_BE_REFERRED_TO), depth)
        if place is not None:
            self._referred[place] = found
        return found

    def _of_kind(self, kind: str, depth: int) -> Any:
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind in "zZaAut":
            size = self._bytes(1)[0] if kind in "zZ" else self._size()
            return self._bytes(size).decode("utf-8" if kind in "ut" else "latin-1", errors="replace")
        if kind in "()":
            size = self._bytes(1)[0] if kind == ")" else self._size()
            return tuple([self._plain(depth) for _ in range(size)])
        if kind in "ilg":
            return self._number(kind)
        if kind == "{":
            return self._dict(depth)
        if kind == "r":
            return self._reference()
        raise _malformed(f"it holds a type that tables of functions do not have, {kind!r}")

    def _number(self, kind: str) -> int | float:
        if kind == "i":
            return self._int()
        if kind == "l":
            return self._long()
        number: float = struct.unpack("<d", self._bytes(_FLOAT_BYTES))[0]
        return number

    def _dict(self, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while (key := self.value(depth + 1)) is not _END:
            if not isinstance(key, (tuple, str, int)):
                raise _malformed("a key is no name")
            try:
                found[key] = self._plain(depth)
            except TypeError as error:  # a tuple that holds a dict
                raise _malformed("a key is no name") from error
        return found

    def _plain(self, depth: int) -> Any:
        found = self.value(depth + 1)
        if found is _END:
            raise _malformed("a dict ends where none began")
        return found

    def _reference(self) -> Any:
        place = self._size()
        if place >= len(self._referred) or self._referred[place] is _UNFINISHED:
            raise _malformed("it refers to something that is not there, or to itself")
        return self._referred[place]

    def _int(self) -> int:
        return int.from_bytes(self._bytes(_INT_BYTES), "little", signed=True)

    def _size(self) -> int:
        size = self._int()
        if not 0 <= size <= self.left:
            raise _malformed("it is cut off, or names a length that it does not have")
        return size

    def _long(self) -> int:
        digits = self._int()
        if abs(digits) > _MAX_DIGITS:
            raise _malformed("it holds a number that no counter reaches")
        number = 0
        for place in range(abs(digits)):
            number |= int.from_bytes(self._bytes(2), "little") << (_DIGIT_BITS * place)
        return -number if digits < 0 else number

    def _bytes(self, count: int) -> bytes:
        if count > self.left:
            raise _malformed("it is cut off")
        self._position += count
        return self._data[self._position - count : self._position]


def _malformed(problem: str) -> PerfguardError:
    return PerfguardError(
        f"it looks like a file of cProfile, but cannot be read: {problem}",
        hint="write it again with `python -m cProfile -o FILE`; a program that is killed leaves half a file",
    )
