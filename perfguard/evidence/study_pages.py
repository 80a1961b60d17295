"""What huge pages do to each strategy of a study that measured both. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from perfguard.evidence.study import MS_PER_REQUEST
from perfguard.model.scenario import Strategy
from perfguard.model.study import MemoryPages, PagesEffect, StudyCell, StudyTrial
from perfguard.stats.ratios import ratio_effect


def pages_effects(trials: Sequence[StudyTrial], *, confidence: float) -> tuple[PagesEffect, ...]:
    """Return ms per request on huge / default pages for every cell and strategy that some block holds on both."""
    found: dict[tuple[StudyCell, Strategy], dict[tuple[int, int], dict[MemoryPages, float]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    sizes: dict[StudyCell, int] = {}
    for trial in trials:
        if trial.measured is not None and trial.measured.ms_per_request > 0.0:
            cell = replace(trial.cell, memory_pages=MemoryPages.DEFAULT)
            sizes[cell] = trial.measured.payload_bytes
            block = found[cell, trial.strategy][trial.start, trial.block]
            block[trial.cell.memory_pages] = math.log(trial.measured.ms_per_request)
    effects = []
    for (cell, strategy), blocks in found.items():
        groups: dict[int, list[float]] = defaultdict(list)
        for (start, _), block in blocks.items():
            if len(block) == len(MemoryPages):
                groups[start].append(block[MemoryPages.HUGE] - block[MemoryPages.DEFAULT])
        if groups:
            effect = ratio_effect(MS_PER_REQUEST, list(groups.values()), confidence)
            effects.append(PagesEffect(cell=cell, payload_bytes=sizes[cell], strategy=strategy, effect=effect))
    return tuple(
        sorted(effects, key=lambda each: (each.cell.ranks, each.payload_bytes, each.cell.media, each.cell.concurrency))
    )
