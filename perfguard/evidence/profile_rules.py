"""The rules on profiles that stand alone: what is conspicuous in itself, with no good revision beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfguard.evidence.callrules import CallClass
from perfguard.evidence.rank_rules import SHAREABLE, rank_number
from perfguard.evidence.reading import WeightUnit
from perfguard.evidence.rule_config import (
    BLOCKING_EVENT_LOOP,
    DUPLICATE_WORK,
    PICKLE_DOMINATED,
    SERIALISED_RANKS,
    RuleConfig,
)
from perfguard.evidence.summary import share_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.evidence.summary import ProfileSummary

_PERCENT = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFinding:
    """A rule judged on one profile, or on the profiles of several ranks (`profiles`: their names).

    `effect` is one sentence with the number that decided, `threshold` what it was held against; `frac` is that number,
    a share of samples, between `low_frac` and `high_frac` where it is an estimate.
    """

    rule: str
    role: str
    profiles: tuple[str, ...]
    fired: bool
    effect: str
    threshold: str
    frac: float
    low_frac: float | None
    high_frac: float | None


def judge_profiles(summaries: Sequence[ProfileSummary], config: RuleConfig | None = None) -> tuple[ProfileFinding, ...]:
    """Judge profiles one by one, and the ranks among them together.

    A profile of too few samples is not judged, nor is a table of cProfile: it has no stacks.

    Returns:
        Findings in the order of the rules, those that fired first.
    """
    config = config or RuleConfig()
    judged = [summary for summary in summaries if _is_enough(summary, config)]
    findings = [_judge_pickle(summary, config) for summary in judged]
    findings += [_judge_loop(summary, config) for summary in judged if summary.loop is not None]
    ranks = _ranks(judged)
    if len(ranks) > 1:
        findings += [_judge_waiting(ranks[0], rank, config) for rank in ranks[1:]]
        findings += [_judge_duplicate(kind, ranks, config) for kind in SHAREABLE]
    return tuple(sorted(findings, key=lambda finding: not finding.fired))


def _is_enough(summary: ProfileSummary, config: RuleConfig) -> bool:
    counted = summary.unit is WeightUnit.SAMPLES
    return bool(summary.distinct_stacks) and (not counted or summary.samples >= config.min_samples)


def _judge_pickle(summary: ProfileSummary, config: RuleConfig) -> ProfileFinding:
    certain = summary.pickle_frac if summary.pickle_low is None else summary.pickle_low
    site = next((site.site for site in summary.sites if site.call_class is CallClass.PICKLE), "")
    return ProfileFinding(
        rule=PICKLE_DOMINATED,
        role=summary.role,
        profiles=(summary.name,),
        fired=certain >= config.pickle_share,
        effect=(
            f"Pickling is {_tell(summary.pickle_frac, summary.pickle_low, summary.pickle_high)} of the working samples "
            f"of {summary.name}" + (f", mostly at {site}" if site else "") + _unclassed(summary) + "."
        ),
        threshold=f"{config.pickle_share:.0%} or more, by the interval's lower end",
        frac=summary.pickle_frac,
        low_frac=summary.pickle_low,
        high_frac=summary.pickle_high,
    )


def _judge_loop(summary: ProfileSummary, config: RuleConfig) -> ProfileFinding:
    loop = summary.loop
    if loop is None:
        raise ValueError("a profile without an event loop has nothing to judge")
    low, high = _interval(summary, loop.blocked_frac, loop.samples, config)
    where = f", mostly at {loop.top_site}" if loop.top_site else ""
    return ProfileFinding(
        rule=BLOCKING_EVENT_LOOP,
        role=summary.role,
        profiles=(summary.name,),
        fired=(loop.blocked_frac if low is None else low) >= config.loop_block_frac,
        effect=(
            f"The event loop of {summary.name} is in calls that do not yield for {_tell(loop.blocked_frac, low, high)} "
            f"of its samples{where}{_unclassed(summary)}."
        ),
        threshold=f"{config.loop_block_frac:.0%} or more, by the interval's lower end",
        frac=loop.blocked_frac,
        low_frac=low,
        high_frac=high,
    )


def _judge_waiting(entry: ProfileSummary, rank: ProfileSummary, config: RuleConfig) -> ProfileFinding:
    waiting, of_entry = _waiting(rank), _waiting(entry)
    low, high = _interval(rank, waiting, rank.samples, config)
    return ProfileFinding(
        rule=SERIALISED_RANKS,
        role=rank.role,
        profiles=(entry.name, rank.name),
        fired=(waiting if low is None else low) - of_entry >= config.rank_wait_frac,
        effect=(
            f"{rank.role} is in collectives, or polls for what comes through them, for {_tell(waiting, low, high)} of "
            f"its samples, {entry.role} for {of_entry:.0%}."
        ),
        threshold=f"{_PERCENT * config.rank_wait_frac:.0f} points or more beyond the entry rank, by the lower end",
        frac=waiting,
        low_frac=low,
        high_frac=high,
    )


def _judge_duplicate(kind: CallClass, ranks: Sequence[ProfileSummary], config: RuleConfig) -> ProfileFinding:
    shares = [rank.class_frac.get(kind, 0.0) / (1.0 - rank.polling_frac or 1.0) for rank in ranks]
    least = min(range(len(ranks)), key=lambda index: shares[index])
    low, high = _interval(ranks[least], shares[least], ranks[least].samples, config)
    name = kind.value.replace("_", " ")
    return ProfileFinding(
        rule=DUPLICATE_WORK,
        role=", ".join(rank.role for rank in ranks),
        profiles=tuple(rank.name for rank in ranks),
        fired=(shares[least] if low is None else low) >= config.duplicate_share,
        effect=(
            f"Each of {len(ranks)} ranks spends {_tell(shares[least], low, high)} or more of its working samples on "
            f"{name}."
        ),
        threshold=f"{config.duplicate_share:.0%} or more in every rank, by the interval's lower end",
        frac=shares[least],
        low_frac=low,
        high_frac=high,
    )


def _ranks(summaries: Sequence[ProfileSummary]) -> list[ProfileSummary]:
    """Return one profile a rank, the entry rank first; of several the one with the most samples."""
    best: dict[int, ProfileSummary] = {}
    for summary in summaries:
        number = rank_number(summary.role)
        if number is not None and (number not in best or best[number].samples < summary.samples):
            best[number] = summary
    return [best[number] for number in sorted(best)]


def _waiting(summary: ProfileSummary) -> float:
    return summary.class_frac.get(CallClass.COLLECTIVE, 0.0) + summary.polling_frac


def _interval(
    summary: ProfileSummary, share: float, samples: int, config: RuleConfig
) -> tuple[float | None, float | None]:
    if summary.unit is not WeightUnit.SAMPLES or not samples:
        return None, None
    return share_interval(round(share * samples), samples, config.confidence)


def _tell(share: float, low: float | None, high: float | None) -> str:
    return f"{share:.1%}" if low is None or high is None else f"{share:.1%} ({low:.1%} to {high:.1%})"


def _unclassed(summary: ProfileSummary) -> str:
    """Say how much could not be classed, where that is enough to change the picture."""
    return f"; {summary.unclassed_frac:.0%} of the samples could not be classed" if summary.unclassed_frac > 0.0 else ""
