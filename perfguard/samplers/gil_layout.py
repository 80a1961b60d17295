"""Where CPython keeps its GIL: the offsets of each version, for 64-bit Linux.

The GIL (`struct _gil_runtime_state`) lies in `_PyRuntime` up to 3.11; from 3.12 on an interpreter's state points to its
own. Its beginning is the same in all versions:

    unsigned long interval; PyThreadState *last_holder; int locked; unsigned long switch_number;
    pthread_cond_t cond; pthread_mutex_t mutex; pthread_cond_t switch_cond; pthread_mutex_t switch_mutex;

A thread that waits for the GIL sleeps on a futex word inside one of the last four.

Source: Include/internal/pycore_gil.h, pycore_runtime.h, pycore_interp.h and Include/cpython/pystate.h of 3.10.13,
3.11.7, 3.12.1, 3.13.0, 3.14.10 and 3.15.2. The numbers are what `offsetof` gives for x86-64 and aarch64 (they differ in
the size of `pthread_mutex_t` alone), with and without `Py_DEBUG`. From 3.13 on an interpreter tells most of them
itself (`_Py_DebugOffsets`), and only the places in that table are ours; a minor version may move them, a patch may not.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from perfguard.samplers.gil_elf import EM_AARCH64, EM_X86_64
from perfguard.samplers.gil_memory import Memory

FIRST_VERSION = (3, 10)
LAST_VERSION = (3, 15)
_COOKIE = b"xdebugpy"
_TABLE_WORDS = 48

# Bytes of the GIL from `last_holder` on, and where in them what we read lies.
_LOCKED_AFTER_HOLDER = 8
_CONDITION_AFTER_HOLDER = 24
_HOLDER_FROM_START = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a processor's Linux calls things: the number of futex, and the sizes of glibc's structures in bytes.

    `pthread_tid` is where `struct pthread` keeps the thread's id.

    Source: the kernel's syscall tables; glibc's bits/pthreadtypes-arch.h, nptl/descr.h.
    """

    futex: int
    mutex_bytes: int
    pthread_tid: int


MACHINES = {
    EM_X86_64: Machine(futex=202, mutex_bytes=40, pthread_tid=720),
    EM_AARCH64: Machine(futex=98, mutex_bytes=48, pthread_tid=208),
}
_CONDITION_BYTES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Offsets of one build, in bytes.

    `interpreters` is the list's head in `_PyRuntime`, followed by the main interpreter. `gil` is the GIL in
    `_PyRuntime` (3.10, 3.11), or where an interpreter's state points to its GIL (`gil_is_pointed_to`).
    `holder` is `last_holder` in the GIL. Of an interpreter's state: `next_interpreter`, `threads`; of a thread's:
    `next_thread`, and `native_tid`, or in 3.10, which has none, `pthread` (the address of its `struct pthread`).
    `free_threaded` builds start their GIL with a word that says whether it is used at all.
    """

    interpreters: int
    gil: int
    gil_is_pointed_to: bool
    holder: int = _HOLDER_FROM_START
    next_interpreter: int = 0
    threads: int = 0
    next_thread: int = 8
    native_tid: int | None = None
    pthread: int | None = None
    free_threaded: bool = False

    @property
    def locked(self) -> int:
        """Where the GIL says whether it is taken."""
        return self.holder + _LOCKED_AFTER_HOLDER

    def futexes(self, machine: Machine) -> tuple[int, int]:
        """Where the GIL's conditions and mutexes begin and end."""
        begin = self.holder + _CONDITION_AFTER_HOLDER
        return begin, begin + 2 * (_CONDITION_BYTES + machine.mutex_bytes)


_FIXED = {
    (3, 10): Layout(interpreters=32, gil=352, gil_is_pointed_to=False, pthread=176),
    (3, 11): Layout(interpreters=40, gil=360, gil_is_pointed_to=False, native_tid=160),
    (3, 12): Layout(interpreters=40, gil=384, gil_is_pointed_to=True, threads=72, native_tid=144),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """The places of the offsets in the interpreter's own table, counted in words after its cookie."""

    interpreters: int = 4
    next_interpreter: int = 7
    threads: int = 8
    gil_pointer: int
    gil: int
    holder: int
    next_thread: int
    native_tid: int


_TABLES = {
    (3, 13): _Places(gil_pointer=13, gil=14, holder=17, next_thread=20, native_tid=24),
    (3, 14): _Places(gil_pointer=14, gil=15, holder=18, next_thread=23, native_tid=27),
    (3, 15): _Places(gil_pointer=14, gil=15, holder=18, next_thread=23, native_tid=30),
}


class UnknownLayoutError(Exception):
    """It cannot be told where this interpreter keeps its GIL; the message says why."""


def own_version(memory: Memory, runtime: int) -> tuple[int, int] | None:
    """Return the (major, minor) version that `_PyRuntime` tells; None before 3.13.

    Raises:
        OSError: it cannot be read.
    """
    if memory.read(runtime, len(_COOKIE)) != _COOKIE:
        return None
    return version_from_hex(int.from_bytes(memory.read(runtime + len(_COOKIE), 8), "little"))


def version_from_hex(number: int) -> tuple[int, int]:
    """Split a PY_VERSION_HEX into (major, minor)."""
    return number >> 24 & 0xFF, number >> 16 & 0xFF


def find_layout(memory: Memory, runtime: int, version: tuple[int, int]) -> Layout:
    """Return the offsets of the interpreter of `version` whose `_PyRuntime` lies at `runtime`.

    Raises:
        UnknownLayoutError: this version, or its table of offsets, is not known.
        OSError: it cannot be read.
    """
    if version in _FIXED:
        return _FIXED[version]
    places = _TABLES.get(version)
    if places is None:
        first, last = (".".join(map(str, known)) for known in (FIRST_VERSION, LAST_VERSION))
        raise UnknownLayoutError(
            f"the layout of CPython {version[0]}.{version[1]} is not known ({first} to {last} are)"
        )
    words = struct.unpack(f"<{_TABLE_WORDS}Q", memory.read(runtime + len(_COOKIE), 8 * _TABLE_WORDS))
    layout = Layout(
        interpreters=words[places.interpreters],
        gil=words[places.gil_pointer],
        gil_is_pointed_to=True,
        holder=words[places.holder] - words[places.gil],
        next_interpreter=words[places.next_interpreter],
        threads=words[places.threads],
        next_thread=words[places.next_thread],
        native_tid=words[places.native_tid],
        free_threaded=words[1] != 0,
    )
    # `enabled`, padded to a word, precedes the GIL of a free-threaded build.
    expected_holder = _HOLDER_FROM_START + (8 if layout.free_threaded else 0)
    if layout.holder != expected_holder or words[places.holder - 1] - words[places.holder] != _LOCKED_AFTER_HOLDER:
        raise UnknownLayoutError(
            f"the table of offsets of this CPython {version[0]}.{version[1]} build is not understood"
        )
    return layout
