"""Finds the GIL of a running process, or says why it cannot be told where it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perfguard.model.threads import GilAnswer
from perfguard.samplers.gil_elf import (
    ElfImage,
    NotElfError,
    Symbol,
    find_dynamic_symbol,
    find_symbol_in_file,
    open_image,
)
from perfguard.samplers.gil_layout import (
    MACHINES,
    Layout,
    Machine,
    UnknownLayoutError,
    find_layout,
    own_version,
    version_from_hex,
)
from perfguard.samplers.gil_memory import Image, Memory, read_images

_RUNTIME = "_PyRuntime"
_VERSION = "Py_Version"  # exported from 3.11 on
_CODE_TYPE = "PyCode_Type"
_VERSION_IN_NAME = re.compile(r"(?:python|libpython)3\.(\d+)|\.cpython-3(\d+)-")
_MUSL = re.compile(r"(?:ld-musl-|libc\.musl-)")
# More interpreters or threads than this mean that a list was followed while it changed; so does a circle.
_MAX_LIST = 4096
# sys.setswitchinterval() takes seconds; above this the number is none.
_MAX_INTERVAL_US = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Gil:
    """The GIL of a process's main interpreter: addresses in that process's memory.

    A thread that sleeps on a futex in [`futexes_begin`, `futexes_end`) waits for it. `runtime` is `_PyRuntime`,
    `code_type` the type of code objects, None where the interpreter does not export it.
    """

    python: str
    machine: Machine
    layout: Layout
    runtime: int
    address: int
    code_type: int | None = None

    @property
    def holder(self) -> int:
        """Where the thread state of who took it last stands; whether it is taken stands in the word behind."""
        return self.address + self.layout.holder

    @property
    def futexes(self) -> tuple[int, int]:
        """The addresses between which a waiting thread's futex lies."""
        begin, end = self.layout.futexes(self.machine)
        return self.address + begin, self.address + end


@dataclass(frozen=True, slots=True, kw_only=True)
class NoGil:
    """There is no GIL to watch (`NONE`), or it cannot be told (`UNKNOWN`); `python` is empty where there is none."""

    answer: GilAnswer
    reason: str
    python: str = ""


def locate_gil(pid: int, memory: Memory, proc_root: Path = Path("/proc")) -> Gil | NoGil:
    """Find the GIL of process `pid`.

    Raises:
        OSError: the process is gone or may not be read.
    """
    images = read_images(pid, proc_root)
    found = _find_runtime(pid, memory, images, proc_root)
    if found is None:
        return NoGil(answer=GilAnswer.UNKNOWN, reason="not a CPython process (it has no _PyRuntime)")
    elf, runtime = found
    version = _version(elf, runtime, images)
    if version is None:
        return NoGil(answer=GilAnswer.UNKNOWN, reason="the version of this CPython cannot be told")
    python = f"{version[0]}.{version[1]}"
    try:
        return _locate_in(elf, runtime, version, images)
    except UnknownLayoutError as error:
        return NoGil(answer=GilAnswer.UNKNOWN, reason=str(error), python=python)
    except _NoGilError as error:
        return NoGil(answer=GilAnswer.NONE, reason=str(error), python=python)


class _NoGilError(Exception):
    """This interpreter runs without a GIL; the message says so."""


def _locate_in(elf: ElfImage, runtime: Symbol, version: tuple[int, int], images: tuple[Image, ...]) -> Gil:
    memory = elf.memory
    machine = MACHINES.get(elf.machine)
    if machine is None:
        raise UnknownLayoutError("GILs are known on x86-64 and aarch64 only")
    layout = find_layout(memory, runtime.address, version)
    address = _gil_address(memory, layout, runtime.address)
    if layout.free_threaded and _word(memory, address) & 0xFFFFFFFF == 0:
        raise _NoGilError("a free-threaded build: there is no GIL")
    if any(_MUSL.match(image.name) for image in images):
        # musl's condition variables wait on a futex on the waiter's stack.
        raise UnknownLayoutError("this CPython runs on musl, where waiting for the GIL looks like any other waiting")
    interval = _word(memory, address + layout.holder - 8)
    locked = _word(memory, address + layout.locked) & 0xFFFFFFFF
    if not 0 < interval < _MAX_INTERVAL_US or locked not in (0, 1):
        raise UnknownLayoutError("what lies where the GIL should be is none: not a layout that is known")
    code_type = find_dynamic_symbol(elf, _CODE_TYPE)
    return Gil(
        python=f"{version[0]}.{version[1]}",
        machine=machine,
        layout=layout,
        runtime=runtime.address,
        address=address,
        code_type=code_type.address if code_type else None,
    )


def thread_states(memory: Memory, gil: Gil, threads: int) -> Iterator[int]:
    """Give the addresses of the states of all threads, of every interpreter; `threads` is the list's head in one.

    Raises:
        OSError: memory cannot be read: the process is gone, or a list changed while it was followed.
    """
    layout = gil.layout
    for interpreter in _list(memory, _word(memory, gil.runtime + layout.interpreters), layout.next_interpreter):
        yield from _list(memory, _word(memory, interpreter + threads), layout.next_thread)


def foreign_threads(memory: Memory, gil: Gil) -> frozenset[int]:
    """Return the native ids of the threads of sub-interpreters that have a GIL of their own; none is the rule.

    Raises:
        OSError: memory cannot be read: the process is gone, or a list changed while it was followed.
    """
    layout = gil.layout
    if not layout.gil_is_pointed_to or layout.native_tid is None:
        return frozenset()
    tids = set()
    for interpreter in _list(memory, _word(memory, gil.runtime + layout.interpreters), layout.next_interpreter):
        if _word(memory, interpreter + layout.gil) == gil.address:
            continue
        for thread in _list(memory, _word(memory, interpreter + layout.threads), layout.next_thread):
            tids.add(_word(memory, thread + layout.native_tid))
    return frozenset(tids)


def _find_runtime(
    pid: int, memory: Memory, images: tuple[Image, ...], proc_root: Path
) -> tuple[ElfImage, Symbol] | None:
    """Look `_PyRuntime` up: first where it usually is, then in every library, then in the files of stripped exports."""
    likely_first = sorted(images, key=lambda image: "python" not in image.name)
    opened = []
    for image in likely_first:
        try:
            elf = open_image(memory, image.start)
        except NotElfError:
            continue
        opened.append((image, elf))
        symbol = find_dynamic_symbol(elf, _RUNTIME)
        if symbol is not None:
            return elf, symbol
    for image, elf in opened:
        if "python" not in image.name and image is not images[0]:
            continue
        for path in _paths(pid, image, images, proc_root):
            try:
                symbol = find_symbol_in_file(path, _RUNTIME, elf.bias)
            except (OSError, NotElfError):
                continue
            if symbol is not None:
                return elf, symbol
    return None


def _paths(pid: int, image: Image, images: tuple[Image, ...], proc_root: Path) -> Iterator[Path]:
    """Ways to open a mapped file of another process, which may be deleted or in another mount namespace."""
    folder = proc_root / str(pid)
    yield folder / "map_files" / f"{image.start:x}-{image.end:x}"  # needs CAP_CHECKPOINT_RESTORE
    if image is images[0]:
        yield folder / "exe"
    yield folder / "root" / image.path.lstrip("/")


def _version(elf: ElfImage, runtime: Symbol, images: tuple[Image, ...]) -> tuple[int, int] | None:
    told = own_version(elf.memory, runtime.address)
    if told is not None:
        return told
    symbol = find_dynamic_symbol(elf, _VERSION)
    if symbol is not None:
        return version_from_hex(_word(elf.memory, symbol.address))
    # 3.10 and older tell it by the names of their files only: python3.10, libpython3.10.so, _x.cpython-310-....so
    minors = {int(match[1] or match[2]) for image in images if (match := _VERSION_IN_NAME.search(image.name))}
    return (3, minors.pop()) if len(minors) == 1 else None


def _gil_address(memory: Memory, layout: Layout, runtime: int) -> int:
    if not layout.gil_is_pointed_to:
        return runtime + layout.gil
    main = _word(memory, runtime + layout.interpreters + 8)
    address = _word(memory, main + layout.gil) if main else 0
    if not address:
        raise UnknownLayoutError("the interpreter has not started yet")
    return address


def _list(memory: Memory, head: int, next_offset: int) -> Iterator[int]:
    seen: set[int] = set()
    while head and head not in seen and len(seen) < _MAX_LIST:
        yield head
        seen.add(head)
        head = _word(memory, head + next_offset)


def _word(memory: Memory, address: int) -> int:
    return int.from_bytes(memory.read(address, 8), "little")
