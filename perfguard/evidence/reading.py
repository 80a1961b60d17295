"""Profiles that any tool made: which format a file has, and its stacks or its table.

A file is known by its content, never by its name. What cannot be judged is refused with the way to get what can.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from perfguard.evidence.cprofile import FunctionRow, read_cprofile
from perfguard.evidence.speedscope import read_speedscope
from perfguard.evidence.stacks import parse_folded
from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Stack


class ProfileFormat(str, Enum):
    """What a file is. `FOLDED`: py-spy raw, collapsed stacks of any tool, Python 3.15's sampling profiler."""

    FOLDED = "folded"
    SPEEDSCOPE = "speedscope"
    CPROFILE = "cprofile"


class WeightUnit(str, Enum):
    """What a stack's `samples` count: samples, or microseconds where a file holds times without an even interval."""

    SAMPLES = "samples"
    MICROSECONDS = "microseconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadProfile:
    """One profile as read. A cProfile file has `functions` and no stacks, every other format stacks and no functions.

    `interval_s` is the time between two samples of a thread where the file tells it.
    """

    format: ProfileFormat
    unit: WeightUnit
    interval_s: float | None
    stacks: tuple[Stack, ...]
    functions: tuple[FunctionRow, ...]


_JSON = re.compile(rb'\s*(?:\{\s*["}]|\[\s*\{)')
# marshal writes a dict as `{`, with the top bit set where it may be referred to; then its end (`0`) or a tuple.
_MARSHAL_DICT = re.compile(rb"[{\xfb](?:0|[()\xa8\xa9])")
_KNOWN_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "it is compressed by gzip", "unpack it first: gunzip FILE"),
    (b"\x28\xb5\x2f\xfd", "it is compressed by zstd", "unpack it first: unzstd FILE"),
    (b"PERFILE2", "it is perf's own format", "collapse it: perf script | stackcollapse-perf.pl"),
    (b"<", "it is a drawn page", "record it again as data: py-spy record --format raw, or --format speedscope"),
    (b"SQLite format 3", "it is a database", "a run of perfguard is shown by `perfguard report`"),
)
_HINT = "known are py-spy raw, speedscope JSON, collapsed stacks, and cProfile's files"


def detect_format(data: bytes, name: str) -> ProfileFormat:
    """Tell a profile's format by its content; `name` is for errors only.

    Raises:
        PerfguardError: it is empty, or of a format that is known not to be read.
    """
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if not start:
        raise PerfguardError(f"{name} is empty", hint="did the profiler end before it wrote its file?")
    for magic, what, hint in _KNOWN_OTHERS:
        if start.startswith(magic):
            raise PerfguardError(f"{name} cannot be read: {what}", hint=hint)
    if _JSON.match(start):
        return ProfileFormat.SPEEDSCOPE
    if _MARSHAL_DICT.match(data):
        return ProfileFormat.CPROFILE
    return ProfileFormat.FOLDED


def read_profile(data: bytes, *, name: str, strip_prefixes: Sequence[str] = ()) -> ReadProfile:
    """Read a profile of any known format.

    Args:
        data: the whole file.
        name: what to call it in errors.
        strip_prefixes: folders to take off file names; see `parse_folded`.

    Raises:
        PerfguardError: it is empty, malformed, or of no known format; says where and what to do.
    """
    kind = detect_format(data, name)
    try:
        if kind is ProfileFormat.CPROFILE:
            return ReadProfile(
                format=kind,
                unit=WeightUnit.SAMPLES,
                interval_s=None,
                stacks=(),
                functions=read_cprofile(data, strip_prefixes=strip_prefixes),
            )
        if kind is ProfileFormat.SPEEDSCOPE:
            stacks, interval_s, timed = read_speedscope(data, strip_prefixes=strip_prefixes)
            unit = WeightUnit.MICROSECONDS if timed else WeightUnit.SAMPLES
            return ReadProfile(format=kind, unit=unit, interval_s=interval_s, stacks=stacks, functions=())
        text = data.decode("utf-8-sig", errors="replace")
        return ReadProfile(
            format=kind,
            unit=WeightUnit.SAMPLES,
            interval_s=None,
            stacks=parse_folded(text, strip_prefixes=strip_prefixes),
            functions=(),
        )
    except PerfguardError as error:
        raise PerfguardError(f"{name}: {error.message}", hint=error.hint or _HINT) from error
