"""In which order a study's trials run, and how long they will take."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from perfguard.model.scenario import Strategy
from perfguard.model.study import StudyCell, StudySpec, StudyTarget, StudyTrial

# Rough costs of a trial on two cores, before any is measured, in seconds: what a trial costs whatever it sends, a
# request, and a megabyte of it, per rank; and what starting one strategy's processes costs, all together and per rank.
_COSTS = {
    StudyTarget.TRANSPORT: (0.02, 0.0005, 0.002, 5.0, 0.5),
    StudyTarget.SERVER: (3.0, 0.004, 0.004, 8.0, 6.0),
}
# What a new start's warm-up (see `study_arms`) takes of a block.
_BLOCKS_OF_WARMUP = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTrial:
    """A trial to come. `leg` numbers the starts of all strategies at one rank count."""

    number: int
    leg: int
    block: int
    cell: StudyCell
    strategy: Strategy


def plan_study(spec: StudySpec, seed: int) -> tuple[PlannedTrial, ...]:
    """Return every trial in its order, which follows from the study and the seed alone.

    Rank counts take turns in random order; in a block every cell comes once, in random order, and in a cell the
    strategies follow each other in random order, on each of the memory pages, so that what drifts on the machine meets
    all of them alike.
    """
    draw = random.Random(seed)  # noqa: S311 - order of trials, not a secret
    planned: list[PlannedTrial] = []
    arms = [(strategy, pages) for strategy in spec.strategies for pages in spec.memory_pages]
    leg = block = 0
    for _ in range(spec.starts):
        for ranks in draw.sample(spec.ranks, len(spec.ranks)):
            leg += 1
            cells = spec.cells(ranks)
            for _ in range(spec.blocks_per_start):
                block += 1
                for cell in draw.sample(cells, len(cells)):
                    for strategy, pages in draw.sample(arms, len(arms)):
                        number, place = len(planned) + 1, replace(cell, memory_pages=pages)
                        planned.append(PlannedTrial(number=number, leg=leg, block=block, cell=place, strategy=strategy))
    return tuple(planned)


def expected_s(spec: StudySpec, cell: StudyCell) -> float:
    """Return a rough guess of the seconds that one trial of a cell takes."""
    fixed, request, megabyte, _, _ = _COSTS[spec.target]
    size_mb = spec.medium(cell.media).payload_bytes / 1e6
    # Alone, the transport target's requests are measured in lockstep too.
    times = 2 if spec.target is StudyTarget.TRANSPORT and cell.concurrency == 1 else 1
    return fixed + times * cell.ranks * spec.requests_of(cell) * (request + megabyte * size_mb)


def remaining_s(spec: StudySpec, planned: Sequence[PlannedTrial], done: Sequence[StudyTrial]) -> float:
    """Return how long the trials after `done` will take, by the guess scaled with what those of `done` took."""
    guessed = sum(expected_s(spec, trial.cell) for trial in done)
    scale = sum(trial.wall_s for trial in done) / guessed if guessed else 1.0
    left = planned[len(done) :]
    measuring = sum(expected_s(spec, trial.cell) for trial in left)
    last_leg = planned[len(done) - 1].leg if done else 0
    legs = {trial.leg: trial.cell.ranks for trial in left if trial.leg > last_leg}
    starting = sum(_start_s(spec, ranks) for ranks in legs.values())
    return scale * measuring + starting


def _start_s(spec: StudySpec, ranks: int) -> float:
    """Return a rough guess of what starting all strategies at one rank count takes, their warm-up included."""
    _, _, _, start, of_rank = _COSTS[spec.target]
    block = sum(expected_s(spec, cell) for cell in spec.cells(ranks))
    return len(spec.strategies) * len(spec.memory_pages) * (start + of_rank * ranks + _BLOCKS_OF_WARMUP * block)
