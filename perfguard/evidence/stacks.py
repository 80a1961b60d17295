"""Folded stacks as text: reading py-spy's raw output, writing it back, adding several up.

The form is one stack a line, frames root first and joined by `;`, then a space and the number of samples. With
`--threads` the outermost frame is `thread (TID): NAME` (`thread (TID)` where the thread has no name yet), with
`--subprocesses` one or more `process PID:"COMMAND"` frames stand before it. py-spy escapes nothing: a command that
holds line breaks spreads its record over lines, and a semicolon in a name cannot be told from the end of a frame.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame, Stack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_PROCESS = re.compile(r'process \d+:"', re.ASCII)
_PROCESS_PREFIX = re.compile(r'process \d+:".*?";(?=process \d+:"|thread \(|[^;]* \()', re.ASCII | re.DOTALL)
# TIDs of Linux have at most 22 bits; where py-spy knows no OS id it writes the interpreter's own in hexadecimal.
_THREAD = re.compile(r"thread \((?P<tid>0[xX][0-9a-fA-F]{1,16}|\d{1,19})\)(?:: ?(?P<name>.*))?", re.ASCII | re.DOTALL)
_LINE = re.compile(r"(?P<file>.*):(?P<line>[1-9]\d{0,8})", re.ASCII | re.DOTALL)
_MAX_COUNT_DIGITS = 18
_SHOWN_CHARS = 80


def parse_folded(text: str, *, strip_prefixes: Sequence[str] = ()) -> tuple[Stack, ...]:
    """Read py-spy's `--format raw` text; stacks keep their order, and equal ones are added up.

    Args:
        text: the whole file. Empty lines are passed over.
        strip_prefixes: folders (import roots: the server's `python/`, `site-packages`, the standard library) to take
        off file
            names, so that a file has the same name in every revision. The longest that fits is taken.

    Returns:
        One stack per distinct thread and frames. `tid` is 0 where the text gives no OS id; `frames` is empty where
        py-spy saw a thread but no Python frame on it.

    Raises:
        PerfguardError: a line does not end in a space and a positive number of samples.
    """
    prefixes = _as_folders(strip_prefixes)
    counts: dict[tuple[str, int, tuple[Frame, ...]], int] = {}
    parsed: dict[str, Frame] = {}
    for number, record in _records(text):
        folded, samples = _split_count(record, number)
        thread, tid, names = _split_thread(_without_processes(folded))
        for name in names:
            if name not in parsed:
                parsed[name] = _parse_frame(name, prefixes)
        key = (thread, tid, tuple(parsed[name] for name in names))
        counts[key] = counts.get(key, 0) + samples
    return tuple(_stack(key, samples) for key, samples in counts.items())


def render_folded(stacks: Iterable[Stack]) -> str:
    """Write stacks so that `parse_folded` reads them back; each line starts with its thread.

    The form has no escapes: a `;` inside a name is written as `,` and a line break as a space.
    """
    lines = []
    for stack in stacks:
        thread = f"thread ({stack.tid})" + (f": {_one_part(stack.thread)}" if stack.thread else "")
        lines.append(";".join([thread, *(_one_part(str(frame)) for frame in stack.frames)]) + f" {stack.samples}\n")
    return "".join(lines)


def merge(*profiles: Iterable[Stack]) -> tuple[Stack, ...]:
    """Add profiles up: one stack per distinct thread and frames, in the order of first appearance."""
    counts: dict[tuple[str, int, tuple[Frame, ...]], int] = {}
    for profile in profiles:
        for stack in profile:
            key = (stack.thread, stack.tid, stack.frames)
            counts[key] = counts.get(key, 0) + stack.samples
    return tuple(_stack(key, samples) for key, samples in counts.items())


def function_key(frame: Frame) -> str:
    """Name a frame's function, `function (file)`: what is compared between revisions, since lines move."""
    return f"{frame.function} ({frame.file})"


def _stack(key: tuple[str, int, tuple[Frame, ...]], samples: int) -> Stack:
    thread, tid, frames = key
    return Stack(thread=thread, tid=tid, frames=frames, samples=samples)


def _as_folders(prefixes: Sequence[str]) -> tuple[str, ...]:
    folders = {prefix.rstrip("/") + "/" for prefix in prefixes if prefix.strip("/")}
    return tuple(sorted(folders, key=len, reverse=True))


def _records(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, record); only a line feed ends a line; names may hold any other."""
    pending, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        if pending:
            record = f"{pending}\n{line}"
        elif line.strip(" \r"):
            record, start = line, number
        else:
            continue
        if _has_open_command(record):
            pending = record
        else:
            pending = ""
            yield start, record
    if pending:
        raise _malformed(start, pending, "its process's command is never closed")


def _has_open_command(record: str) -> bool:
    """Tell whether the record breaks off inside a `process PID:"COMMAND"` frame: its command holds a line break."""
    rest = _without_processes(record)
    return _PROCESS.match(rest) is not None and not re.search(r'" \d+$', rest, re.ASCII)


def _split_count(record: str, number: int) -> tuple[str, int]:
    folded, space, digits = record.rpartition(" ")
    if (
        not space
        or not digits.isascii()
        or not digits.isdecimal()
        or len(digits) > _MAX_COUNT_DIGITS
        or int(digits) == 0
    ):
        raise _malformed(number, record, "it does not end in a space and a positive number of samples")
    return folded, int(digits)


def _without_processes(folded: str) -> str:
    """Take the `process` frames off: thread ids are unique on the machine, so they add nothing."""
    while match := _PROCESS_PREFIX.match(folded):
        folded = folded[match.end() :]
    return folded


def _split_thread(folded: str) -> tuple[str, int, list[str]]:
    parts = folded.split(";")
    match = _THREAD.fullmatch(parts[0])
    if match is None:
        return "", 0, [part for part in parts if part]
    tid = match["tid"]
    # An interpreter's own thread id (hexadecimal) matches nothing in /proc, so it counts as unknown.
    os_tid = 0 if tid[:2].lower() == "0x" else int(tid)
    return match["name"] or "", os_tid, [part for part in parts[1:] if part]


def _parse_frame(name: str, prefixes: tuple[str, ...]) -> Frame:
    function, place = _split_place(name)
    match = _LINE.fullmatch(place)
    file, line = (match["file"], int(match["line"])) if match else (place, 0)
    for prefix in prefixes:
        if file.startswith(prefix) and len(file) > len(prefix):
            file = file[len(prefix) :]
            break
    return Frame(function=function, file=file, line=line)


def _split_place(name: str) -> tuple[str, str]:
    """Split `function (file:line)` at the parenthesis that the last one closes: both sides may hold parentheses."""
    if not name.endswith(")"):
        return name, ""
    depth = 0
    for index in range(len(name) - 1, 0, -1):
        if name[index] == ")":
            depth += 1
        elif name[index] == "(":
            depth -= 1
            if depth == 0 and name[index - 1] == " ":
                return name[: index - 1], name[index + 1 : -1]
    function, found, place = name[:-1].rpartition(" (")
    return (function, place) if found else (name, "")


def _one_part(name: str) -> str:
    return name.replace(";", ",").replace("\n", " ")


def _malformed(number: int, record: str, problem: str) -> PerfguardError:
    shown = record if len(record) <= _SHOWN_CHARS else record[: _SHOWN_CHARS - 3] + "..."
    return PerfguardError(
        f"line {number} of the folded stacks cannot be read: {problem}: {shown!r}",
        hint="record it again with `py-spy record --format raw`; a file that was cut off ends in half a line",
    )
