"""Arms in randomised blocks: every arm once a block, each trial on a server of its own, one server at a time."""

from __future__ import annotations

import random
from collections.abc import Sequence

from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Untestable
from perfguard.workflows.session import Session

Arm = tuple[Revision, Strategy]

_MOST_FAILURES = 2


def run_blocks(session: Session, arms: Sequence[Arm], blocks: int, *, seed: int, may_profile: bool) -> None:
    """Measure `arms` in `blocks` blocks, each in an order of its own; an arm that failed twice is not started again.

    The trials of a block run back to back, so that what is compared ran within the same minutes.
    """
    order = random.Random(seed)  # noqa: S311 - order of trials, not a secret
    failures = dict.fromkeys(arms, 0)
    for _ in range(blocks):
        block = list(arms)
        order.shuffle(block)
        going = [arm for arm in block if failures[arm] < _MOST_FAILURES]
        for place, (revision, strategy) in enumerate(going):
            session.begin_block([revision], fresh=True, strategy=strategy, join=place > 0)
            trial = session.trial(revision, may_profile=may_profile)
            failures[revision, strategy] += isinstance(trial.outcome, Untestable)
