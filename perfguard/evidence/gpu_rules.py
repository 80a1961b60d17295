"""The rule about graphics cards that wait for the CPU."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from perfguard.evidence.rank_rules import rank_number
from perfguard.evidence.rule_config import GPU_STARVED, RuleConfig
from perfguard.evidence.rule_parts import CORES, FRAC, unknown
from perfguard.model.result import Evidence, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.evidence.trial import TrialEvidence


def judge_cards(
    before: Sequence[TrialEvidence], after: Sequence[TrialEvidence], config: RuleConfig
) -> tuple[Finding, ...]:
    """Judge whether the cards idle while a rank's thread works all the time; nothing where no card was read."""
    busy = [[trial.gpu_busy_frac for trial in side if trial.gpu_busy_frac is not None] for side in (before, after)]
    if not all(busy):
        return ()
    busy_before, busy_after = map(fmean, busy)
    threshold = (
        f"the cards are busy less than {config.gpu_starved_frac:.0%} of the time while a rank's busiest thread works "
        f"{config.thread_saturated_cores:g} cores or more, polling taken off; and this was not so before, or the cards "
        f"are less busy than before by {config.saturation_step:.0%} of the time or more"
    )
    works_before, works_after = _busiest_ranks(before), _busiest_ranks(after)
    common = works_before.keys() & works_after.keys()
    if not common:
        return (unknown(GPU_STARVED, "ranks", threshold),)
    role = max(sorted(common), key=lambda each: works_after[each])

    def starved(busy_frac: float, cores: float) -> bool:
        return busy_frac < config.gpu_starved_frac and cores >= config.thread_saturated_cores

    now, was = starved(busy_after, works_after[role]), starved(busy_before, works_before[role])
    held = "the CPU holds the cards back" if now else "the cards do not wait for a thread that has no time left"
    return (
        Finding(
            rule=GPU_STARVED,
            role=role,
            fired=now and (not was or busy_before - busy_after >= config.saturation_step),
            effect=(
                f"GPU {busy_after:.0%} busy ({busy_before:.0%} before) while {role}'s busiest thread works "
                f"{works_after[role]:.0%} of the time ({works_before[role]:.0%} before): {held}."
            ),
            threshold=threshold,
            evidence=(
                Evidence(what="cards busy, mean", unit=FRAC, before=busy_before, after=busy_after),
                Evidence(
                    what=f"busiest thread of {role}, working",
                    unit=CORES,
                    before=works_before[role],
                    after=works_after[role],
                ),
            ),
        ),
    )


def _busiest_ranks(trials: Sequence[TrialEvidence]) -> dict[str, float]:
    """The working cores of each rank's busiest thread, as a mean over the trials that know it."""
    found: dict[str, list[float]] = {}
    for trial in trials:
        for role, load in trial.loads.items():
            if rank_number(role) is not None and load.busiest_thread_cores is not None:
                found.setdefault(role, []).append(load.busiest_thread_cores)
    return {role: fmean(cores) for role, cores in found.items()}
