"""Folded stacks as text: reading what any tool collapsed, writing it back, adding several up.

The form is one stack a line, frames root first and joined by `;`, then a space and the number of samples.
Source: B. Gregg, FlameGraph, stackcollapse-*.pl. Of its dialects two say more than a name:

- py-spy's raw output. A frame reads `function (file:line)`. With `--threads` the outermost frame is
  `thread (TID): NAME` (`thread (TID)` where the thread has no name yet), with `--subprocesses` one or more
  `process PID:"COMMAND"` frames stand before it. py-spy escapes nothing: a command that holds line breaks spreads its
  record over lines, and a semicolon in a name cannot be told from the end of a frame.
- The sampling profiler of Python 3.15 (`--collapsed`). The outermost frame is `tid:TID`, a frame reads
  `file:function:line`, and the file is a bare name without its folder.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_PROCESS = re.compile(r'process \d+:"', re.ASCII)
_PROCESS_PREFIX = re.compile(r'process \d+:".*?";(?=process \d+:"|thread \(|[^;]* \()', re.ASCII | re.DOTALL)
_PROCESS_WORD = "process "
# A command may hold a whole script; a record of more lines is a file that was damaged.
_MAX_COMMAND_LINES = 2000
# TIDs of Linux have at most 22 bits; where py-spy knows no OS id it writes the interpreter's own in hexadecimal.
_THREAD = re.compile(r"thread \((?P<tid>0[xX][0-9a-fA-F]{1,16}|\d{1,19})\)(?:: ?(?P<name>.*))?", re.ASCII | re.DOTALL)
_CPYTHON_THREAD = re.compile(r"tid:(?P<tid>\d{1,20})", re.ASCII)
_LINE = re.compile(r"(?P<file>.*):(?P<line>[1-9]\d{0,8})", re.ASCII | re.DOTALL)
_CPYTHON_FRAME = re.compile(r"(?P<file>.*):(?P<function>[^:]*):(?P<line>\d{1,9})", re.ASCII | re.DOTALL)
_MAX_COUNT_DIGITS = 18
_MAX_OS_TID = 1 << 22
_SHOWN_CHARS = 80


def parse_folded(text: str, *, strip_prefixes: Sequence[str] = ()) -> tuple[Stack, ...]:
    """Read collapsed stacks; they keep their order, equal ones are added up, and equal frames are one object.

    Args:
        text: the whole file. Empty lines are passed over.
        strip_prefixes: folders (import roots: the server's `python/`, `site-packages`, the standard library) to take
            off file names, so that a file has the same name in every revision. The longest that fits is taken.

    Returns:
        One stack per distinct thread and frames. `tid` is 0 where the text gives no OS id; `frames` is empty where
        py-spy saw a thread but no Python frame on it.

    Raises:
        PerfguardError: a line does not end in a space and a positive number of samples.
    """
    threads = _Threads()
    frames: FrameTable | None = None
    counts: dict[tuple[int, tuple[int, ...]], int] = {}
    for number, record in _records(text):
        folded, samples = _split_count(record, number)
        if _PROCESS_WORD in folded:
            folded = _without_processes(folded)
        names = folded.split(";")
        thread = threads[names[0]]
        if frames is None:
            read = _cpython_frame if _CPYTHON_THREAD.fullmatch(names[0]) else parse_frame
            frames = FrameTable(strip_prefixes, read)
        if thread:
            del names[0]
        # Indices, because hashing a frame's texts for every place that it stands in would take most of the time.
        indices = tuple([frames[name] for name in names if name])
        counts[thread, indices] = counts.get((thread, indices), 0) + samples
    if frames is None:
        return ()
    found = frames.frames
    return tuple(
        Stack(thread=name, tid=tid, frames=tuple([found[index] for index in indices]), samples=samples)
        for (thread, indices), samples in counts.items()
        for name, tid in (threads.known[thread],)
    )


class FrameTable(dict[str, int]):
    """Gives the text of a frame its index in `frames`; it is read once, and equal frames share an index."""

    def __init__(self, strip_prefixes: Sequence[str], read: Callable[[str], Frame]) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self._prefixes = _as_folders(strip_prefixes)
        self._read = read
        self._index: dict[Frame, int] = {}

    def __missing__(self, name: str) -> int:
        index = self.add(self._read(name))
        self[name] = index
        return index

    def add(self, frame: Frame) -> int:
        """Return the index of a frame, its file shortened."""
        for prefix in self._prefixes:
            if frame.file.startswith(prefix) and len(frame.file) > len(prefix):
                frame = Frame(function=frame.function, file=frame.file[len(prefix) :], line=frame.line)
                break
        index = self._index.setdefault(frame, len(self.frames))
        if index == len(self.frames):
            self.frames.append(frame)
        return index


class _Threads(dict[str, int]):
    """Gives a stack's first frame the place of its thread in `known`; 0 where it is an ordinary frame."""

    def __init__(self) -> None:
        super().__init__()
        self.known: list[tuple[str, int]] = [("", 0)]

    def __missing__(self, name: str) -> int:
        thread = read_thread(name)
        if thread is None:
            self[name] = 0
            return 0
        # Two texts may be one thread: interpreter's ids are dropped.
        if thread not in self.known[1:]:
            self.known.append(thread)
        self[name] = self.known.index(thread, 1)
        return self[name]


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
    return tuple(
        Stack(thread=thread, tid=tid, frames=frames, samples=samples)
        for (thread, tid, frames), samples in counts.items()
    )


def function_key(frame: Frame) -> str:
    """Name a frame's function, `function (file)`: what is compared between revisions, since lines move."""
    return function_name(frame.function, frame.file)


def function_name(function: str, file: str) -> str:
    """Spell a function and its file as `function_key` does."""
    return f"{function} ({file})"


def parse_frame(name: str) -> Frame:
    """Read a frame that is spelled as `Frame` spells itself; what is not has no file."""
    function, place = _split_place(name)
    match = _LINE.fullmatch(place)
    file, line = (match["file"], int(match["line"])) if match else (place, 0)
    return Frame(function=function, file=file, line=line)


def read_thread(name: str) -> tuple[str, int] | None:
    """Return the name and OS id of the thread that a first frame tells, or None where it is an ordinary frame."""
    match = _THREAD.fullmatch(name)
    if match is not None:
        tid = match["tid"]
        # An interpreter's own thread id (hexadecimal) matches nothing in /proc, so it counts as unknown.
        return match["name"] or "", 0 if tid[:2].lower() == "0x" else int(tid)
    match = _CPYTHON_THREAD.fullmatch(name)
    if match is None:
        return None
    # The interpreter's thread id is an address on Linux, which tells threads apart but is no OS id.
    tid_number = int(match["tid"])
    return (name, 0) if tid_number > _MAX_OS_TID else ("", tid_number)


def _as_folders(prefixes: Sequence[str]) -> tuple[str, ...]:
    folders = {prefix.rstrip("/") + "/" for prefix in prefixes if prefix.strip("/")}
    return tuple(sorted(folders, key=len, reverse=True))


def _records(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of the first line, record); only a line feed ends a line; names may hold any other."""
    pending: list[str] = []
    start = position = number = 0
    while position <= len(text):
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        line, position, number = text[position:end], end + 1, number + 1
        if pending:
            pending.append(line)
            # A line without a quote cannot close the command, so that long scripts are not joined again and again.
            if '"' not in line:
                continue
            record = "\n".join(pending)
        elif line.strip(" \r"):
            record, start = line, number
        else:
            continue
        if _PROCESS_WORD not in record or not _has_open_command(record):
            pending = []
            yield start, record
        elif len(pending) > _MAX_COMMAND_LINES:
            break
        else:
            pending = pending or [record]
    if pending:
        raise _malformed(start, pending[0], "its process's command is never closed")


def _has_open_command(record: str) -> bool:
    """Tell whether the record breaks off inside a `process PID:"COMMAND"` frame: its command holds a line break."""
    rest = _without_processes(record)
    return _PROCESS.match(rest) is not None and not re.search(r'" \d+$', rest, re.ASCII)


def _split_count(record: str, number: int) -> tuple[str, int]:
    folded, space, digits = record.rstrip("\r").rpartition(" ")
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
    start = 0
    while match := _PROCESS_PREFIX.match(folded, start):
        start = match.end()
    return folded[start:]


def _cpython_frame(name: str) -> Frame:
    match = _CPYTHON_FRAME.fullmatch(name)
    if match is None:  # `<GC>` and `<native>` stand alone
        return Frame(function=name, file="", line=0)
    return Frame(function=match["function"], file=match["file"], line=int(match["line"]))


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
        hint="record it again, for example with `py-spy record --format raw`; a file that was cut off ends in half a "
        "line",
    )
