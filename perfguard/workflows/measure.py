"""Measure revisions side by side, without a verdict: the table behind `perfguard run`."""

from __future__ import annotations

import dataclasses

from perfguard.evidence.profiles import merge_roles
from perfguard.model.errors import UsageError
from perfguard.model.progress import Progress
from perfguard.model.result import RunResult
from perfguard.model.scenario import Strategy
from perfguard.workflows.judge import Judge, run_info, summarise_revisions
from perfguard.workflows.rounds import run_blocks
from perfguard.workflows.session import Session
from perfguard.workflows.setup import RunRequest, open_bench, open_named, open_store
from perfguard.workflows.strategy_table import strategy_tables


def measure(
    request: RunRequest,
    refs: tuple[str, ...],
    blocks: int,
    progress: Progress,
    strategies: tuple[Strategy, ...] = (Strategy.AS_COMMITTED,),
) -> RunResult:
    """Run every revision with every strategy once a block, each trial on a server of its own, in random order.

    Raises:
        UsageError: a revision does not exist or is named twice; strategies are asked for that have nothing to share.
    """
    if not request.scenario.load.carries_media and strategies != (Strategy.AS_COMMITTED,):
        raise UsageError(
            f"strategies share images between ranks, and the requests of {request.scenario.name} carry none",
            hint="name a scenario with [load.image] or [[load.media]], or leave --strategy out",
        )
    repository = open_named(request, refs, progress)
    revisions = tuple(repository.resolve(ref) for ref in refs)
    if len({revision.commit for revision in revisions}) < len(revisions):
        raise UsageError("a revision is named twice", hint="to measure one revision more often, use --blocks")
    arms = [(revision, strategy) for revision in revisions for strategy in strategies]
    with (
        open_store(request, verb_of(blocks, strategies), revisions) as store,
        Session(open_bench(request, repository, store, progress)) as session,
    ):
        if len(arms) * blocks > 1 and not request.replay:
            counts = f"{len(arms)} arms, {blocks} blocks: {len(arms) * blocks} trials"
            progress.say(f"{counts}, each on a server of its own, in random order within a block")
        run_blocks(session, arms, blocks, seed=request.seed, may_profile=True)
        judge = Judge(session, revisions)
        summaries = [summary for arm in arms for summary in summarise_revisions(session, [arm[0]], arm[1])]
        return RunResult(
            run=run_info(request, session),
            revisions=tuple(dataclasses.replace(summary, index=place) for place, summary in enumerate(summaries)),
            profiles=tuple(
                (strategy.labelled(revision.label), merge_roles(judge.evidence(session.trials, revision, strategy)))
                for revision, strategy in arms
            ),
            trials=session.trials,
            strategies=strategy_tables(session, judge, revisions, strategies),
        )


def verb_of(blocks: int, strategies: tuple[Strategy, ...]) -> str:
    """Return what the store calls a run, such as `run x3` or `run x3 local,broadcast`."""
    named = ",".join(strategy.value for strategy in strategies)
    return f"run x{blocks}" + ("" if strategies == (Strategy.AS_COMMITTED,) else f" {named}")
