"""What stacks cost: samples turned into absolute CPU milliseconds per request.

A sampler's counts are shares of an unknown whole: they move with its rate, its lateness and the time a thread waited
for a core. The kernel counts a thread's CPU exactly but does not say where it went. Joined, each gives what the
other lacks:

    cost of a stack = samples of the stack / samples of its thread x CPU of its thread / requests

so costs of two revisions can be held against each other as they are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfguard.evidence.stacks import function_key
from perfguard.model.errors import PerfguardError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from perfguard.model.profile import Frame, Stack
    from perfguard.model.trial import ProcessCpu

    Frames = tuple[Frame, ...]

_MS_PER_S = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackCosts:
    """The CPU of one role in one trial, split over its stacks; every cost in CPU milliseconds per request.

    `working` holds what was done for requests, `polling` what the role spent looking for work; a stack is in one of
    them.
    `unsampled_ms` is the CPU of threads that were never sampled (threads without Python, such as a transport's own), so
    that working, polling and unsampled CPU together are the role's. `samples` stand behind both mappings.
    """

    role: str
    requests: int
    samples: int
    working: Mapping[Frames, float]
    polling: Mapping[Frames, float]
    unsampled_ms: float

    @property
    def working_ms(self) -> float:
        """CPU of all working stacks."""
        return sum(self.working.values())

    @property
    def polling_ms(self) -> float:
        """CPU of all polling stacks."""
        return sum(self.polling.values())

    @property
    def sample_ms(self) -> float:
        """What one sample stands for on average: the grain of every cost here (0.0 without samples)."""
        return (self.working_ms + self.polling_ms) / self.samples if self.samples else 0.0

    def frame_totals(self, name: Callable[[Frame], str] = function_key) -> dict[str, float]:
        """Sum the working cost of all stacks that hold a frame, once a stack however often it recurs.

        `name` says which frames are one: by function (the default), or by line with `str`.
        """
        totals: dict[str, float] = {}
        for frames, cost_ms in self.working.items():
            for key in dict.fromkeys(name(frame) for frame in frames):
                totals[key] = totals.get(key, 0.0) + cost_ms
        return totals

    def frame_selfs(self, name: Callable[[Frame], str] = function_key) -> dict[str, float]:
        """Sum the working cost of all stacks that end in a frame; the sums add up to `working_ms`."""
        selfs: dict[str, float] = {}
        for frames, cost_ms in self.working.items():
            key = name(frames[-1])
            selfs[key] = selfs.get(key, 0.0) + cost_ms
        return selfs


def cost_stacks(
    stacks: Sequence[Stack],
    processes: Sequence[ProcessCpu],
    requests: int,
    *,
    is_polling: Callable[[Frames], bool],
) -> StackCosts:
    """Turn the stacks of one role into CPU milliseconds per request.

    A thread whose id the kernel also reported gets its own CPU. Stacks of all other threads share the CPU that no
    listed thread accounts for (threads that ended before the last reading), or, where not a single id matched (ids of
    another namespace), the CPU of the processes.

    Args:
        stacks: non-idle samples of every process of the role.
        processes: CPU over the same requests of the process, or the processes, of one role.
        requests: how many requests were served meanwhile.
        is_polling: tells the stacks that only looked for work.

    Raises:
        PerfguardError: no request was served, or processes of several roles were given.
    """
    roles = {process.role for process in processes}
    if len(roles) != 1:
        raise PerfguardError(
            f"costs are of one role, but the processes given are of {len(roles)}: {', '.join(sorted(roles))}"
        )
    role = roles.pop()
    if requests <= 0:
        raise PerfguardError(f"CPU per request of {role} is undefined: {requests} requests were served")

    # A sample without frames shows a native thread, or one that was read half-way: it says nothing of where CPU went.
    stacks = [stack for stack in stacks if stack.frames]
    by_tid = thread_ms(stacks, processes)
    sampled = _samples_by_thread(stacks)
    working: dict[Frames, float] = {}
    polling: dict[Frames, float] = {}
    for stack in stacks:
        cost_ms = stack.samples / sampled[stack.tid] * by_tid[stack.tid] / requests
        kind = polling if is_polling(stack.frames) else working
        kind[stack.frames] = kind.get(stack.frames, 0.0) + cost_ms
    cpu_ms = sum(process.cpu_s for process in processes) * _MS_PER_S
    return StackCosts(
        role=role,
        requests=requests,
        samples=sum(sampled.values()),
        working=working,
        polling=polling,
        unsampled_ms=max(0.0, cpu_ms - sum(by_tid.values())) / requests,
    )


def count_stacks(
    stacks: Iterable[Stack], *, role: str, sample_ms: float, is_polling: Callable[[Frames], bool]
) -> StackCosts:
    """Turn stacks into costs where nothing but their counts is known: every sample stands for `sample_ms`.

    Args:
        stacks: of one role; samples without frames are left out.
        role: whose they are.
        sample_ms: what one sample stands for, in milliseconds per request (or any other unit of cost).
        is_polling: tells the stacks that only looked for work.
    """
    working: dict[Frames, float] = {}
    polling: dict[Frames, float] = {}
    samples = 0
    for stack in stacks:
        if stack.frames:
            samples += stack.samples
            kind = polling if is_polling(stack.frames) else working
            kind[stack.frames] = kind.get(stack.frames, 0.0) + stack.samples * sample_ms
    return StackCosts(role=role, requests=1, samples=samples, working=working, polling=polling, unsampled_ms=0.0)


def thread_ms(stacks: Iterable[Stack], processes: Sequence[ProcessCpu]) -> dict[int, float]:
    """Give every sampled thread its CPU in milliseconds, by OS thread id; for strangers see `cost_stacks`."""
    sampled = _samples_by_thread(stacks)
    listed_s = {thread.tid: thread.cpu_s for process in processes for thread in process.threads if thread.tid}
    matched_s = {tid: listed_s[tid] for tid in sampled if tid in listed_s}
    strangers = {tid: count for tid, count in sampled.items() if tid not in listed_s}

    spare_s = sum(process.cpu_s for process in processes)
    if matched_s:
        spare_s = max(0.0, spare_s - sum(listed_s.values()))
    stranger_s = spare_s / sum(strangers.values()) if strangers else 0.0
    shared_s = {tid: count * stranger_s for tid, count in strangers.items()}
    return {tid: cpu_s * _MS_PER_S for tid, cpu_s in {**matched_s, **shared_s}.items()}


def _samples_by_thread(stacks: Iterable[Stack]) -> Counter[int]:
    sampled: Counter[int] = Counter()
    for stack in stacks:
        sampled[stack.tid] += stack.samples
    return sampled
