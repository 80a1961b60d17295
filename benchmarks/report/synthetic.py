"""A large comparison made by chance, for measuring the report: the shape of a server's profile, none of its meaning.

Stacks grow like those of a real server: each new one leaves an earlier one at some depth and goes its own way for a few
frames, functions are reused all over, and how often a stack is seen falls like a power of its rank.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from perfguard.model.result import (
    CompareResult,
    CompareVerdict,
    Effect,
    GrownFrame,
    RevisionSummary,
    RoleProfile,
    RunInfo,
)
from perfguard.model.revision import Revision

ROLES = ("rank-0", "rank-1", "tokenizer")
TRIALS_PER_SIDE = 4
_PACKAGES = ("sglang/srt", "torch", "transformers/models", "asyncio", "zmq", "numpy", "uvicorn", "multiprocessing")
_FILES, _FUNCTIONS = 240, 3_000
_MOST_DEPTH = 45
_REQUESTS = 20_000
_MS_PER_SAMPLE = 10.0
_CHANGED_SHARE = 0.15  # of the stacks are on one side only

Samples = dict[tuple[str, ...], int]


def samples_of(*, stacks: int, samples: int, seed: int) -> dict[str, tuple[Samples, Samples]]:
    """Give the samples of every role, before and after: `stacks` distinct ones, seen `samples` times in all."""
    rng = random.Random(seed)
    functions = _functions(rng)
    made: dict[str, tuple[Samples, Samples]] = {}
    for role in ROLES:
        distinct = _stacks(rng, functions, stacks // len(ROLES))
        weights = [1.0 / (rank + 8) ** 0.85 for rank in range(len(distinct))]
        scale = samples / len(ROLES) / 2 / (1 - _CHANGED_SHARE / 2) / sum(weights)
        before: Samples = {}
        after: Samples = {}
        for stack, weight in zip(distinct, weights, strict=True):
            chance = rng.random()
            for side, is_missing in ((before, chance < _CHANGED_SHARE / 2), (after, chance > 1 - _CHANGED_SHARE / 2)):
                if not is_missing:
                    side[stack] = max(1, round(weight * scale * rng.uniform(0.9, 1.1)))
        made[role] = before, after
    return made


def _functions(rng: random.Random) -> list[str]:
    files = [f"{rng.choice(_PACKAGES)}/part_{n % 17}/module_{n}.py" for n in range(_FILES)]
    verbs = ("handle", "process", "broadcast", "forward", "encode", "decode", "schedule", "merge", "load", "send")
    return [f"{rng.choice(verbs)}_{n} ({rng.choice(files)}:{rng.randrange(10, 2_000)})" for n in range(_FUNCTIONS)]


def _stacks(rng: random.Random, functions: list[str], count: int) -> list[tuple[str, ...]]:
    top = ("<module> (<string>:1)", *(f"start_{n} (sglang/srt/server.py:{40 + n})" for n in range(8)))
    made = [top]
    seen = set(made)
    while len(made) < count:
        kin = made[int(len(made) * rng.random() ** 2)]
        leaves_at = rng.randint(len(top), len(kin))
        own = min(_MOST_DEPTH - leaves_at, 1 + int(rng.expovariate(0.15)))
        stack = kin[:leaves_at] + tuple(functions[int(len(functions) * rng.random() ** 1.5)] for _ in range(own))
        if stack not in seen:
            seen.add(stack)
            made.append(stack)
    return made


def comparison(made: Mapping[str, tuple[Samples, Samples]]) -> CompareResult:
    """Make the comparison of these samples; every tenth of the 300 largest functions changed significantly."""
    sides = [
        tuple(
            RoleProfile(
                role=role,
                samples=sum(both[place].values()),
                trials=TRIALS_PER_SIDE,
                stacks=tuple((stack, count * _MS_PER_SAMPLE / _REQUESTS) for stack, count in both[place].items()),
            )
            for role, both in made.items()
        )
        for place in (0, 1)
    ]
    before, after = _revision("a"), _revision("b")
    kept = sum(profile.samples for side in sides for profile in side)
    return CompareResult(
        run=_run(kept),
        baseline=before,
        candidate=after,
        verdict=CompareVerdict.SLOWER,
        sentence="bbbbbbbbb answers 16.7% fewer requests per second than aaaaaaaaa (9.8% to 23.2%).",
        effects=(
            Effect(metric="throughput_rps", ratio=0.833, low=0.768, high=0.902, confidence=0.95, pairs=4, starts=2),
        ),
        findings=(),
        grown_frames=tuple(frame for role, both in made.items() for frame in _grown(role, *both)),
        baseline_profiles=sides[0],
        candidate_profiles=sides[1],
        revisions=tuple(_summary(revision, place) for place, revision in enumerate((before, after))),
        trials=(),
    )


def _grown(role: str, before: Samples, after: Samples) -> list[GrownFrame]:
    totals: dict[str, list[float]] = {}
    for place, side in enumerate((before, after)):
        for stack, count in side.items():
            for name in {frame.rpartition(":")[0] + ")" for frame in stack}:
                totals.setdefault(name, [0.0, 0.0])[place] += count * _MS_PER_SAMPLE / _REQUESTS
    largest = sorted(totals.items(), key=lambda item: -max(item[1]))[:300]
    return [
        GrownFrame(
            frame=name,
            role=role,
            before_ms_per_request=old,
            after_ms_per_request=new,
            before_self_ms_per_request=0.0,
            after_self_ms_per_request=0.0,
            low_ms=new - old - 0.1 * abs(new - old),
            high_ms=new - old + 0.1 * abs(new - old),
            significant=place % 10 == 0,
        )
        for place, (name, (old, new)) in enumerate(largest)
    ]


def _revision(letter: str) -> Revision:
    return Revision(
        commit=letter * 40,
        label=letter * 9,
        subject="A change",
        author="Ada Example",
        committed_at="2025-01-01T00:00:00Z",
    )


def _summary(revision: Revision, index: int) -> RevisionSummary:
    values: dict[str, Any] = {"metric_mean": 150.0 - 25 * index, "metric_low": 120.0, "metric_high": 155.0}
    return RevisionSummary(
        revision=revision, index=index, trials=TRIALS_PER_SIDE, untestable=0, untestable_reason="",
        evidence_ms_per_request=None, **values,
    )  # fmt: skip


def _run(kept_samples: int) -> RunInfo:
    return RunInfo(
        command="perfguard compare aaaaaaaaa bbbbbbbbb",
        run_dir="run",
        scenario="synthetic",
        scenario_description="Made by chance, to measure the report",
        schedule_digest="none",
        metric="throughput_rps",
        larger_is_better=True,
        started_at="2025-01-01T00:00:00Z",
        wall_s=60.0,
        seed=1,
        environment=(),
        stand_ins=(),
        lost_samples=0,
        kept_samples=kept_samples,
    )
