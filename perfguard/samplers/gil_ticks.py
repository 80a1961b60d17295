"""Looks at the threads of running processes many times a second, from outside, without pausing them.

A look takes two kinds of readings. `/proc/PID/task/TID/syscall` tells whether a thread is blocked and on which futex:
one inside the GIL means that it waits for the GIL. The GIL's own words in `/proc/PID/mem` tell whether it is taken and
by whom; where they are asked for, the Python stacks of both are read in the same look. What looks cannot tell well, how
long a thread ran or was ready without a core (a thread that was woken and not yet scheduled reads `running`), the
kernel counts exactly; its counters are read at both ends.

Most threads of a server sleep for as long as it runs. One that used no CPU between two counts is parked: only one look
in eight on average meets it, and counts for those that left it out too. When that is, is drawn at random, so what is
told of a parked thread that wakes up is less exact, but not biased; from then on it is parked no longer.

This runs as a process of its own (`python -m perfguard.samplers.gil_ticks`), which neither disturbs the threads of its
parent nor is disturbed by their GIL; see `perfguard.samplers.gil`.
"""

from __future__ import annotations

import os
import random
import resource
import select
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from perfguard.model.threads import GilAnswer, Pressure, ProcessTicks, ThreadRecording, ThreadTicks
from perfguard.samplers.gil_locate import Gil, NoGil, foreign_threads, locate_gil
from perfguard.samplers.gil_memory import ProcessMemory
from perfguard.samplers.gil_stacks import StackTally, native_tid
from perfguard.samplers.threads import ThreadCounters, read_cpu, read_pressure, read_thread

READY = "watching"
MAY_NOT_BE_READ = "the process may not be read"

# New threads are looked for, and the counters of threads that may end before the window does are noted, this often:
# each costs as much as many looks.
_LIST_S = 0.2
_COUNT_S = 2.0
_FIRST_COUNT_S = 0.5
# A parked thread is left out of up to so many looks, half of that on average.
_MOST_LEFT_OUT = 14
_SYSCALL_BYTES = 256
_PROC = Path("/proc")
_FOREIGN = "belongs to a sub-interpreter with a GIL of its own, which is not watched"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to watch: (pid, role) of each process, and whether the stacks that hold its GIL and wait for it are read.

    `seed` makes the intervals between looks repeatable.
    """

    processes: tuple[tuple[int, str], ...]
    rate_hz: float
    seed: int
    stacks: bool = False


@dataclass(slots=True, kw_only=True)
class _Thread:
    """One thread while it is watched; it is left out of `to_leave_out` looks more, and was of `left_out` so far."""

    tid: int
    fd: int
    first: ThreadCounters
    first_at_s: float
    last: ThreadCounters
    last_at_s: float
    ticks: int = 0
    blocked_ticks: int = 0
    gil_wait_ticks: int = 0
    gil_hold_ticks: int = 0
    foreign: bool = False
    parked: bool = False
    to_leave_out: int = 0
    left_out: int = 0


@dataclass(slots=True, kw_only=True)
class _Process:
    """One process while it is watched; `memory` is None where there is no GIL to read, `tally` without stacks."""

    pid: int
    role: str
    memory: ProcessMemory | None
    gil: Gil | NoGil
    tally: StackTally | None = None
    ticks: int = 0
    gil_held_ticks: int = 0
    unknown_holder_ticks: int = 0
    ended: bool = False
    threads: dict[int, _Thread] = field(default_factory=dict)
    by_native_tid: dict[int, _Thread] = field(default_factory=dict)
    finished: list[_Thread] = field(default_factory=list)


class Watch:
    """Watches the processes of `request`: `look()` at random times around the rate, then `finish()`."""

    def __init__(self, request: Request) -> None:
        self._rate_hz = request.rate_hz
        self._processes = [_open_process(pid, role, stacks=request.stacks) for pid, role in request.processes]
        self._ticks = 0
        self._late_ticks = 0
        self._random = random.Random(request.seed)  # noqa: S311 - spacing of looks, not a secret
        self._began_s = time.perf_counter()
        self._cpu_began_s = time.process_time()
        self._pressure_began = read_pressure()
        self._next_s = self._list_next_s = self._began_s
        self._count_next_s = self._began_s + _FIRST_COUNT_S
        self._relist(self._began_s)

    def pause_s(self) -> float:
        """Return how long to wait before the next look, in seconds; not positive where it is due.

        The intervals vary between half and one and a half of the rate's: threads hand the GIL over every 5 ms, and
        looks at 200 Hz in step with that would always meet the same thread.
        """
        return self._next_s - time.perf_counter()

    def look(self) -> None:
        """Look at every thread once."""
        now_s = time.perf_counter()
        interval_s = 1.0 / self._rate_hz
        self._ticks += 1
        if now_s > self._next_s + interval_s:
            self._late_ticks += 1
            self._next_s = now_s
        self._next_s += self._random.uniform(0.5, 1.5) * interval_s
        for process in self._processes:
            if not process.ended:
                _look_at(process, self._random)
        if now_s >= self._list_next_s:
            self._relist(now_s)

    def finish(self) -> ThreadRecording:
        """Read the counters once more and return what was seen."""
        self._relist(time.perf_counter(), last=True)
        duration_s = time.perf_counter() - self._began_s
        after = read_pressure()
        shares = {
            name: None if then is None or now is None else min(1.0, (now - then) / duration_s)
            for (name, then), now in zip(self._pressure_began.items(), after.values(), strict=True)
        }
        return ThreadRecording(
            rate_hz=self._rate_hz,
            duration_s=duration_s,
            ticks=self._ticks,
            late_ticks=self._late_ticks,
            sampler_cpu_s=time.process_time() - self._cpu_began_s,
            pressure=Pressure(cpu_frac=shares["cpu"], memory_frac=shares["memory"], io_frac=shares["io"]),
            processes=tuple(_result(process) for process in self._processes),
        )

    def _relist(self, now_s: float, *, last: bool = False) -> None:
        """Find threads that began or ended; now and then, and the last time, note the counters of all."""
        self._list_next_s = now_s + _LIST_S
        count = last or now_s >= self._count_next_s
        if count:
            self._count_next_s = now_s + _COUNT_S
        for process in self._processes:
            if process.ended:
                continue
            _list_threads(process)
            if count:
                for thread in list(process.threads.values()):
                    _count(process, thread, last=last)
            _mark_foreign(process)
            if process.tally is not None:
                process.tally.relist()
            if not process.threads:
                process.ended = True


def _open_process(pid: int, role: str, *, stacks: bool) -> _Process:
    """Find the process's GIL; one that is gone is watched as one that ended."""
    memory: ProcessMemory | None = None
    gil: Gil | NoGil
    tally: StackTally | None = None
    try:
        memory = ProcessMemory(pid)
        gil = locate_gil(pid, memory)
        if stacks and isinstance(gil, Gil):
            tally = StackTally(memory, gil)
    except PermissionError:
        gil = NoGil(answer=GilAnswer.UNKNOWN, reason=MAY_NOT_BE_READ)
    except OSError as error:
        gil = NoGil(answer=GilAnswer.UNKNOWN, reason=f"the process's memory cannot be read: {error.strerror or error}")
    if memory is not None and isinstance(gil, NoGil):
        memory.close()
        memory = None
    return _Process(pid=pid, role=role, memory=memory, gil=gil, tally=tally)


def _look_at(process: _Process, chance: random.Random) -> None:
    process.ticks += 1
    futex, low, high = "", 0, 0
    holder: tuple[_Thread, int] | None = None
    waiting: list[tuple[_Thread, int]] = []
    if isinstance(process.gil, Gil):
        holder = _note_holder(process, process.gil)
        futex, (low, high) = str(process.gil.machine.futex), process.gil.futexes
    for thread in list(process.threads.values()):
        if thread.left_out < thread.to_leave_out:
            thread.left_out += 1
            continue
        try:
            words = os.pread(thread.fd, _SYSCALL_BYTES, 0).split(b" ", 2)
        except ProcessLookupError:
            _drop(process, thread)
            continue
        except OSError:  # it gave up its privileges, or took some: no longer ours to read
            continue
        looks, thread.left_out = 1 + thread.left_out, 0
        thread.ticks += looks
        if words[0].startswith(b"running"):
            thread.parked = False
        else:
            thread.blocked_ticks += looks
            if len(words) > 1 and words[0].decode() == futex and low <= int(words[1], 16) < high:
                thread.gil_wait_ticks += looks
                waiting.append((thread, looks))
                thread.parked = False
        thread.to_leave_out = chance.randint(0, _MOST_LEFT_OUT) if thread.parked else 0
    if process.tally is not None:
        _note_stacks(process.tally, holder, waiting)


def _note_stacks(tally: StackTally, holder: tuple[_Thread, int] | None, waiting: list[tuple[_Thread, int]]) -> None:
    """Count the stacks of this look; the holder's first, since it alone can run on."""
    holding = None
    if holder is not None:
        thread, state = holder
        holding = tally.hold(thread.tid, thread.first.native_tid, state)
    for thread, looks in waiting:
        if not thread.foreign:
            # A holder that waits by now has given it away since.
            held_by = None if holder is not None and holder[0] is thread else holding
            tally.wait(thread.tid, thread.first.native_tid, held_by, looks=looks)


def _note_holder(process: _Process, gil: Gil) -> tuple[_Thread, int] | None:
    """Find out which thread has the GIL now, and where its state lies."""
    if process.memory is None:
        return None
    try:
        words = process.memory.read(gil.holder, 12)
        if words[8:12] != b"\x01\0\0\0":
            return None
        process.gil_held_ticks += 1
        state = int.from_bytes(words[:8], "little")
        tid = native_tid(process.memory, gil, state)
    except OSError:  # the process ends, or its thread state was just freed
        process.unknown_holder_ticks += 1
        return None
    holder = process.by_native_tid.get(tid)
    if holder is None:
        process.unknown_holder_ticks += 1
        return None
    holder.gil_hold_ticks += 1
    return holder, state


def _list_threads(process: _Process) -> None:
    try:
        tids = {int(name) for name in os.listdir(_PROC / str(process.pid) / "task")}  # noqa: PTH208 - names are all
    except OSError:
        tids = set()
    for tid in tids - process.threads.keys():
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end between the listing and the reading
            _begin_thread(process, tid)
    for tid in process.threads.keys() - tids:
        _drop(process, process.threads[tid])


def _begin_thread(process: _Process, tid: int) -> None:
    task = _PROC / str(process.pid) / "task" / str(tid)
    counters = read_thread(task)
    if counters.ended:
        return
    at_s = time.perf_counter()
    fd = os.open(task / "syscall", os.O_RDONLY | os.O_CLOEXEC)
    thread = _Thread(tid=tid, fd=fd, first=counters, first_at_s=at_s, last=counters, last_at_s=at_s)
    process.threads[tid] = thread
    process.by_native_tid[counters.native_tid] = thread


def _count(process: _Process, thread: _Thread, *, last: bool) -> None:
    """Note a thread's CPU; the last time, all of its counters."""
    task = _PROC / str(process.pid) / "task" / str(thread.tid)
    try:
        if last:
            counters = read_thread(task)
        else:
            cpu_s, run_delay_s = read_cpu(task)
            counters = replace(thread.last, cpu_s=cpu_s, run_delay_s=run_delay_s)
    except OSError:
        _drop(process, thread)
        return
    if counters.ended:
        _drop(process, thread)
        return
    thread.parked = counters.cpu_s is not None and counters.cpu_s == thread.last.cpu_s
    if thread.parked and last:  # it slept in the last looks, too, that left it out
        thread.ticks, thread.blocked_ticks = thread.ticks + thread.left_out, thread.blocked_ticks + thread.left_out
    thread.last, thread.last_at_s = counters, time.perf_counter()


def _drop(process: _Process, thread: _Thread) -> None:
    """Stop looking at a thread that has ended; what was seen of it is kept."""
    os.close(thread.fd)
    process.finished.append(process.threads.pop(thread.tid))
    if process.by_native_tid.get(thread.first.native_tid) is thread:
        del process.by_native_tid[thread.first.native_tid]


def _mark_foreign(process: _Process) -> None:
    if not isinstance(process.gil, Gil) or process.memory is None:
        return
    with suppress(OSError):  # the list changed while it was followed: the next time will do
        for native_tid in foreign_threads(process.memory, process.gil):
            if native_tid in process.by_native_tid:
                process.by_native_tid[native_tid].foreign = True


def _result(process: _Process) -> ProcessTicks:
    watched = isinstance(process.gil, Gil)
    threads = [*process.finished, *process.threads.values()]
    return ProcessTicks(
        pid=process.pid,
        role=process.role,
        python=process.gil.python,
        gil=GilAnswer.WATCHED if isinstance(process.gil, Gil) else process.gil.answer,
        gil_reason="" if isinstance(process.gil, Gil) else process.gil.reason,
        ticks=process.ticks,
        gil_held_ticks=process.gil_held_ticks,
        unknown_holder_ticks=process.unknown_holder_ticks,
        ended=process.ended,
        threads=tuple(_thread_result(thread) for thread in threads if watched or thread.ticks or thread.last_at_s),
        gil_stacks=process.tally.result() if process.tally else None,
    )


def _thread_result(thread: _Thread) -> ThreadTicks:
    first, last = thread.first, thread.last
    return ThreadTicks(
        tid=thread.tid,
        name=last.name,
        observed_s=thread.last_at_s - thread.first_at_s,
        cpu_s=None if first.cpu_s is None or last.cpu_s is None else last.cpu_s - first.cpu_s,
        run_delay_s=(
            None if first.run_delay_s is None or last.run_delay_s is None else last.run_delay_s - first.run_delay_s
        ),
        voluntary_switches=last.voluntary_switches - first.voluntary_switches,
        involuntary_switches=last.involuntary_switches - first.involuntary_switches,
        ticks=thread.ticks,
        blocked_ticks=thread.blocked_ticks,
        gil_wait_ticks=thread.gil_wait_ticks,
        gil_hold_ticks=thread.gil_hold_ticks,
        gil_unknown=_FOREIGN if thread.foreign else "",
    )


def main() -> None:
    """Watch what the first argument (a `Request` as JSON) says until stdin ends; then write the recording to stdout."""
    request = msgspec.json.decode(sys.argv[1], type=Request)
    # A server may have hundreds of threads, and each is one open file here.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    watch = Watch(request)
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    stop = select.poll()
    stop.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    while not stop.poll(0):
        pause_s = watch.pause_s()
        if pause_s > 0:
            time.sleep(pause_s)
        watch.look()
    sys.stdout.buffer.write(msgspec.json.encode(watch.finish()))


if __name__ == "__main__":
    main()
