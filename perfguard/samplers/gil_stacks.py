"""Counts the Python stacks that hold a process's GIL and that wait for it, in the very looks that find them so."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from perfguard.model.gil_stacks import GilPair, GilStack, GilStacks
from perfguard.samplers.frame_layout import find_frame_layout
from perfguard.samplers.frames import FrameReader, TornStackError
from perfguard.samplers.gil_locate import Gil, thread_states
from perfguard.samplers.gil_memory import ProcessMemory

# More stacks than this and what is new counts as unread: they would take more memory than they tell.
_MOST_STACKS = 20_000


class StackTally:
    """Counts stacks of the process in whose `memory` `gil` lies."""

    def __init__(self, memory: ProcessMemory, gil: Gil) -> None:
        self._memory = memory
        self._gil = gil
        self._states: dict[int, int] = {}  # by the thread's native id
        self._is_stale = True
        self._numbers: dict[tuple[int, tuple[str, ...]], int] = {}
        self._holds: Counter[int] = Counter()
        self._waits: Counter[int] = Counter()
        self._pairs: Counter[tuple[int, int | None]] = Counter()
        self._unread_holds = self._unread_waits = 0
        self._reader: FrameReader | None = None
        self._threads = 0
        self._unknown = ""
        version = tuple(int(part) for part in gil.python.split("."))
        layout = find_frame_layout(memory, gil.runtime, (version[0], version[1]))
        if layout is None:
            self._unknown = f"where CPython {gil.python} keeps its Python stacks is not known"
        elif gil.code_type is None:
            self._unknown = "this interpreter does not export its types, so its Python stacks cannot be told"
        else:
            self._threads = layout.threads
            self._reader = FrameReader(memory, layout, gil.code_type)

    def relist(self) -> None:
        """Forget what may have changed its place; now and then."""
        self._is_stale = True
        if self._reader is not None:
            self._reader.forget()

    def hold(self, tid: int, native_tid: int, state: int) -> int | None:
        """Count the stack of the thread that holds the GIL; gives its number, None where it cannot be read."""
        number = self._number(tid, native_tid, state)
        if number is None:
            self._unread_holds += 1
        else:
            self._holds[number] += 1
        return number

    def wait(self, tid: int, native_tid: int, holding: int | None, *, looks: int) -> None:
        """Count the stack of a thread that waits for the GIL while the stack `holding` has it, for so many looks."""
        number = self._number(tid, native_tid, self._state_of(native_tid))
        if number is None:
            self._unread_waits += looks
        else:
            self._waits[number] += looks
            self._pairs[number, holding] += looks

    def result(self) -> GilStacks:
        """Return what was counted."""
        return GilStacks(
            stacks=tuple(
                GilStack(tid=tid, frames=frames, hold_ticks=self._holds[number], wait_ticks=self._waits[number])
                for (tid, frames), number in self._numbers.items()
            ),
            pairs=tuple(
                GilPair(waiting=waiting, holding=holding, ticks=ticks)
                for (waiting, holding), ticks in self._pairs.items()
            ),
            unread_hold_ticks=self._unread_holds,
            unread_wait_ticks=self._unread_waits,
            unknown=self._unknown,
        )

    def _state_of(self, native_tid: int) -> int:
        """Return where a thread's state lies, 0: not known. The list is read no sooner than one is asked for."""
        if self._is_stale and self._reader is not None:
            self._is_stale = False
            with suppress(OSError):  # the list changed while it was followed: the next time will do
                states = thread_states(self._memory, self._gil, self._threads)
                self._states = {self._tid(state): state for state in states}
        return self._states.get(native_tid, 0)

    def _number(self, tid: int, native_tid: int, state: int) -> int | None:
        if self._reader is None or not state:
            return None
        try:
            # A state may have been freed with its thread, and be another's now.
            if self._tid(state) != native_tid:
                return None
            frames = self._reader.stack(state)
        except (OSError, TornStackError):
            return None
        key = tid, frames
        if key not in self._numbers and len(self._numbers) >= _MOST_STACKS:
            return None
        return self._numbers.setdefault(key, len(self._numbers))

    def _tid(self, state: int) -> int:
        return native_tid(self._memory, self._gil, state)


def native_tid(memory: ProcessMemory, gil: Gil, state: int) -> int:
    """Return the id, in its own PID namespace, of the thread whose state lies at `state`.

    Raises:
        OSError: memory cannot be read.
    """
    if gil.layout.native_tid is not None:
        return int.from_bytes(memory.read(state + gil.layout.native_tid, 8), "little")
    pthread = int.from_bytes(memory.read(state + (gil.layout.pthread or 0), 8), "little")
    return int.from_bytes(memory.read(pthread + gil.machine.pthread_tid, 4), "little")
