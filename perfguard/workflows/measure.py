"""Measure revisions side by side, without a verdict: the table behind `perfguard run`."""

from __future__ import annotations

import random

from perfguard.evidence.profiles import merge_roles
from perfguard.model.errors import UsageError
from perfguard.model.progress import Progress
from perfguard.model.result import RunResult
from perfguard.workflows.judge import Judge, run_info, summarise_revisions
from perfguard.workflows.session import Session
from perfguard.workflows.setup import RunRequest, open_bench, open_named, open_store


def measure(request: RunRequest, refs: tuple[str, ...], repeats: int, progress: Progress) -> RunResult:
    """Run every revision `repeats` times, in blocks of random order.

    Raises:
        UsageError: a revision does not exist or is named twice.
    """
    repository = open_named(request, refs, progress)
    revisions = tuple(repository.resolve(ref) for ref in refs)
    if len({revision.commit for revision in revisions}) < len(revisions):
        raise UsageError("a revision is named twice", hint="to measure one revision more often, use --repeats")
    with (
        open_store(request, f"run x{repeats}", revisions) as store,
        Session(open_bench(request, repository, store, progress)) as session,
    ):
        order = random.Random(request.seed)  # noqa: S311 - order of trials, not a secret
        for _ in range(repeats):
            block = list(revisions)
            order.shuffle(block)
            for revision in block:
                session.begin_block([revision], fresh=True)
                session.trial(revision)
        judge = Judge(session, revisions)
        return RunResult(
            run=run_info(request, session),
            revisions=summarise_revisions(session, revisions),
            profiles=tuple(
                (revision.label, merge_roles(judge.evidence(session.trials, revision))) for revision in revisions
            ),
            trials=session.trials,
        )
