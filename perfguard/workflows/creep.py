"""Slow creep: what the nights so far add up to since the anchor, and when that has to be measured.

Every clean night measured its head beside its baseline, on one machine. Chained, their effects say how far the head is
from the anchor, the oldest commit that was found good since the last accepted change; a change of the machine in
between cancels. But a chain of small measurements is a random walk: after two weeks its error is several times what two
weeks of creep add up to, so it decides nothing. It says when the head has to be measured beside the anchor, which does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from perfguard.model.night import NightRecord, NightVerdict
from perfguard.model.result import CompareVerdict, Effect
from perfguard.model.scenario import Limits
from perfguard.stats.drift import NO_DRIFT, Drift, drift_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Where the last trusted head, `tip`, stands: `drift` is its distance from `anchor`. Both are commits.

    `nights` counts the links since the anchor.
    """

    anchor: str
    tip: str
    drift: Drift = NO_DRIFT
    nights: int = 0

    def with_link(self, link: Drift, tip: str) -> Chain:
        """Go on to the commit `tip`."""
        return replace(self, tip=tip, drift=self.drift.then(link), nights=self.nights + 1)

    def with_check(self, check: Drift) -> Chain:
        """Take in a measurement of the tip beside the anchor."""
        return replace(self, drift=self.drift.fused(check))

    def is_due(self, limits: Limits) -> bool:
        """Whether the tip has to be measured beside the anchor: the chain does not rule out the smallest effect."""
        doubt = self.drift.p_above(math.log1p(limits.min_effect_frac))
        return self.tip != self.anchor and doubt > 1.0 - limits.confidence


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A good commit of the chain: its distance from the one before, and what it was measured beside an anchor."""

    commit: str
    link: Drift
    check_on: str = ""
    check: Drift | None = None


def chain_of(
    nights: Sequence[NightRecord],
    accepted: Iterable[tuple[int, str]],
    is_there: Callable[[str], bool],
    *,
    min_effect_frac: float,
) -> Chain | None:
    """Chain the nights of one series, oldest first; None where no commit that was found good is left.

    A head that was found faster, or was accepted, is the anchor from then on; `accepted` tells after how many of the
    nights which commit was. `is_there` tells whether a commit still exists; an anchor that is gone gives way to the
    next good commit.
    """
    words = dict(accepted)
    # All that is known of a link that was not measured is that a clean night followed.
    lost = Drift(mean=0.0, sd=math.log1p(min_effect_frac) / 2.0)
    points: list[_Point] = []
    for count, night in enumerate(nights, start=1):
        if night.head is not None and night.verdict.trusted:
            points = [] if _is_reset(night) else points
            points.append(_point(night, night.head.commit, points[-1].commit if points else "", lost))
        if count in words:
            points = [_Point(commit=words[count], link=NO_DRIFT)]
    while points and not is_there(points[0].commit):
        points = points[1:]
    if not points:
        return None
    chain = Chain(anchor=points[0].commit, tip=points[0].commit)
    for point in points[1:]:
        if point.commit != chain.tip:
            chain = chain.with_link(point.link, point.commit)
        if point.check is not None and point.check_on == chain.anchor and chain.nights:
            chain = chain.with_check(point.check)
    return chain


def _is_reset(night: NightRecord) -> bool:
    faster = night.anchor is not None and night.anchor.verdict is CompareVerdict.FASTER
    return faster or night.verdict is NightVerdict.IMPROVEMENT


def _point(night: NightRecord, commit: str, before: str, lost: Drift) -> _Point:
    is_next = night.baseline is not None and night.baseline.commit == before
    link = link_of(night.effects, larger_is_better=night.larger_is_better) if is_next else None
    anchor = night.anchor
    return _Point(
        commit=commit,
        link=link or lost,
        check_on=anchor.anchor.commit if anchor else "",
        check=drift_of(anchor.effect, larger_is_better=night.larger_is_better) if anchor and anchor.effect else None,
    )


def link_of(effects: tuple[Effect, ...], *, larger_is_better: bool) -> Drift | None:
    """Return what a night measured of its head beside its baseline, None where it has no such number."""
    return drift_of(effects[0], larger_is_better=larger_is_better) if effects else None
