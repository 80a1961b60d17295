"""Measure every strategy in every cell of a grid, and say which one is fastest where.

Every trial is kept when it has ended. The order follows from the study and the seed, so a study that was interrupted
goes on with the first trial that is missing, on processes that are started anew.
"""

from __future__ import annotations

import contextlib
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from perfguard.evidence.claims import judge_claims
from perfguard.evidence.study import MS_PER_REQUEST, break_even, judge_cells, recommend_threshold
from perfguard.evidence.study_pages import pages_effects
from perfguard.model.claim import ClaimList
from perfguard.model.errors import MissingTrialError, PerfguardError, UntestableError, UsageError
from perfguard.model.progress import Progress
from perfguard.model.result import Effect, RunInfo
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.study import (
    CellResult,
    MemoryPages,
    StudyCell,
    StudyMeasured,
    StudyResult,
    StudySpec,
    StudyTarget,
    StudyTrial,
    Threshold,
)
from perfguard.model.trial import Untestable
from perfguard.store import RunStore
from perfguard.targets.memory_pages import probe_pages
from perfguard.workflows.replay import read_run
from perfguard.workflows.setup import RunRequest, machine, open_bench, open_named, open_store
from perfguard.workflows.study_arms import Arms, make_arms
from perfguard.workflows.study_plan import PlannedTrial, plan_study, remaining_s
from perfguard.workflows.trial import Bench

VERB = "study"
_MINUTE_S = 60.0
# Notes in the store: what is known only while measuring.
_MACHINE, _STAND_INS, _STARTING_S = "machine", "stand_ins", "starting_s"


class _Facts(msgspec.Struct, frozen=True):
    """What a study keeps in its settings beside what every run keeps."""

    verb: str
    seed: int
    study: StudySpec | None = None
    claims: ClaimList | None = None
    revision: Revision | None = None
    beside: tuple[Effect, ...] = ()
    request: dict[str, Any] = {}


def study(
    request: RunRequest,
    ref: str,
    spec: StudySpec,
    claims: ClaimList,
    progress: Progress,
    *,
    beside: tuple[Effect, ...] = (),
) -> StudyResult:
    """Measure the study `spec` on one revision, or go on with it, and judge it.

    `beside` are the effects of a bisect or a comparison, for the claims about the whole server.

    Raises:
        UsageError: the revision does not exist, or the folder holds another run.
    """
    repository = open_named(request, (ref,), progress)
    revision = repository.resolve(ref)
    more = {
        "study": msgspec.to_builtins(spec),
        "claims": msgspec.to_builtins(claims),
        "revision": msgspec.to_builtins(revision),
        "beside": msgspec.to_builtins(beside),
    }
    with open_store(request, VERB, (revision,), more) as store:
        planned = plan_study(spec, request.seed)
        kept = store.study_trials()
        _check_kept(planned, kept, store)
        if len(kept) < len(planned):
            left = _minutes(remaining_s(spec, planned, kept))
            progress.say(
                f"{len(planned) - len(kept):,} trials of {len(planned):,} to run: about {left}, by a rough guess"
            )
            bench = open_bench(request, repository, store, progress)
            store.put_note(_MACHINE, (*machine(), *_tell_pages(bench, spec)))
            _measure(bench, spec, revision, planned, list(kept))
        return _judge(store, progress)


def read_study(run_dir: Path, progress: Progress) -> StudyResult:
    """Judge the study in a folder again from what it kept; nothing is measured.

    Raises:
        UsageError: the folder holds no study.
        MissingTrialError: it is not finished.
    """
    with RunStore.open(run_dir.resolve()) as store:
        facts = _facts(store)
        if facts.study is None:
            raise UsageError(f"{run_dir} holds no study", hint="`perfguard report` shows the other runs")
        planned = plan_study(facts.study, facts.seed)
        kept = store.study_trials()
        if len(kept) == len(planned):
            return _judge(store, progress)
    unfinished = MissingTrialError(len(kept) + 1)
    unfinished.hint = f"{len(kept)} trials are kept; continue with: {read_run(run_dir).resume_command}"
    raise unfinished


def is_study(run_dir: Path) -> bool:
    """Whether a folder holds a study rather than another run, or nothing."""
    if not (run_dir / "run.sqlite").exists():
        return False
    with RunStore.open(run_dir.resolve()) as store:
        return bool(store.settings().get("verb") == VERB)


def _measure(
    bench: Bench, spec: StudySpec, revision: Revision, planned: tuple[PlannedTrial, ...], done: list[StudyTrial]
) -> None:
    """Run what is missing, on processes started for each leg; start numbers go on from those that were kept."""
    start = max((trial.start for trial in done), default=0)
    while len(done) < len(planned):
        leg = planned[len(done)].leg
        ranks = planned[len(done)].cell.ranks
        start += 1
        with contextlib.ExitStack() as stack:
            by_pages = {
                pages: stack.enter_context(make_arms(bench, spec, revision, ranks, number=start, pages=pages))
                for pages in spec.memory_pages
            }
            clock = time.monotonic()
            for arms in by_pages.values():
                arms.start(bench.progress)
            bench.store.put_note(_STARTING_S, bench.store.note(_STARTING_S, 0.0) + time.monotonic() - clock)
            while len(done) < len(planned) and planned[len(done)].leg == leg:
                arms = by_pages[planned[len(done)].cell.memory_pages]
                trial = _run(arms, planned[len(done)], start)
                bench.store.add_study_trial(trial)
                done.append(trial)
                _tell(bench.progress, spec, planned, done)
                bench.store.put_note(_STAND_INS, sorted({*bench.store.note(_STAND_INS, []), *arms.stand_ins}))


def _tell_pages(bench: Bench, spec: StudySpec) -> list[tuple[str, str]]:
    """Try out what the processes will be given, where the study is about that."""
    if spec.memory_pages == (MemoryPages.DEFAULT,):
        return []
    python = bench.environment.python
    return [(f"memory pages: {pages.value}", probe_pages(python, pages)) for pages in spec.memory_pages]


def _run(arms: Arms, plan: PlannedTrial, start: int) -> StudyTrial:
    started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    clock = time.monotonic()
    measured: StudyMeasured | None = None
    untestable: Untestable | None = None
    try:
        measured = arms.measure(plan.strategy, plan.cell)
    except UntestableError as error:
        untestable = Untestable(reason=error.reason, log=error.log_tail)
    return StudyTrial(
        number=plan.number,
        block=plan.block,
        start=start,
        cell=plan.cell,
        strategy=plan.strategy,
        started_at=started_at,
        wall_s=time.monotonic() - clock,
        measured=measured,
        untestable=untestable,
    )


def _tell(progress: Progress, spec: StudySpec, planned: tuple[PlannedTrial, ...], done: list[StudyTrial]) -> None:
    trial = done[-1]
    value = f"{trial.measured.ms_per_request:.3g} ms/request" if trial.measured is not None else "untestable"
    cell = trial.cell
    left = _minutes(remaining_s(spec, planned, done))
    progress.step(
        f"trial {trial.number:,} of {len(planned):,}, about {left} left: {cell.media} at concurrency "
        f"{cell.concurrency}, {cell.ranks} ranks, {trial.strategy.value}{_pages(cell)}: {value}"
    )


def _pages(cell: StudyCell) -> str:
    return "" if cell.memory_pages is MemoryPages.DEFAULT else f" on {cell.memory_pages.value} pages"


def _minutes(seconds: float) -> str:
    return f"{seconds / _MINUTE_S:.0f} min" if seconds > _MINUTE_S else "a minute"


def _check_kept(planned: tuple[PlannedTrial, ...], kept: tuple[StudyTrial, ...], store: RunStore) -> None:
    """Refuse trials that this version would not have run at their places."""
    for plan, trial in zip(planned, kept, strict=False):
        if (plan.number, plan.block, plan.cell, plan.strategy) != (
            trial.number,
            trial.block,
            trial.cell,
            trial.strategy,
        ):
            raise PerfguardError(
                f"trial {trial.number} in {store.run_dir} is of another cell than the plan's",
                hint="the study was made by another version of perfguard: start anew",
            )


def _facts(store: RunStore) -> _Facts:
    try:
        return msgspec.convert(store.settings(), _Facts)
    except msgspec.ValidationError as error:
        raise PerfguardError(
            f"the settings of the study in {store.run_dir} cannot be read: {error}",
            hint="it was written by another version of perfguard, which can still show it",
        ) from error


def _judge(store: RunStore, progress: Progress) -> StudyResult:
    facts = _facts(store)
    spec, claims, revision = facts.study, facts.claims, facts.revision
    if spec is None or claims is None or revision is None:
        raise UsageError(f"{store.run_dir} holds no study", hint="`perfguard report` shows the other runs")
    progress.step("judging the cells")
    trials = store.study_trials()
    return judge_study(spec, claims, revision, trials, _run_info(store, facts, spec, trials), beside=facts.beside)


def judge_study(
    spec: StudySpec,
    claims: ClaimList,
    revision: Revision,
    trials: tuple[StudyTrial, ...],
    run: RunInfo,
    *,
    beside: tuple[Effect, ...] = (),
) -> StudyResult:
    """Say what the trials of a study say; it rests on them alone, but for claims about what was put `beside`."""
    cells = judge_cells(
        trials, baseline=spec.baseline, confidence=spec.confidence, min_effect_frac=spec.min_effect_frac
    )
    others = [strategy for strategy in spec.strategies if strategy is not spec.baseline]
    break_evens = [
        break_even(trials, baseline=spec.baseline, candidate=other, ranks=ranks, confidence=spec.confidence)
        for other in others
        for ranks in spec.ranks
    ]
    threshold = recommend_threshold(trials, cells, confidence=spec.confidence)
    return StudyResult(
        run=run,
        spec=spec,
        revision=revision,
        sentence=_sentence(revision, cells, threshold),
        cells=cells,
        pages=pages_effects(trials, confidence=spec.confidence),
        break_evens=tuple(each for each in break_evens if each is not None),
        threshold=threshold,
        claims_title=claims.title,
        claims_note=claims.note,
        claims=judge_claims(claims.claims, trials, target=spec.target, confidence=spec.confidence, beside=beside),
        trials=trials,
    )


def _run_info(store: RunStore, facts: _Facts, spec: StudySpec, trials: tuple[StudyTrial, ...]) -> RunInfo:
    pinned: tuple[tuple[str, str], ...] = (("threads", "one computing thread a process, each pinned to one core"),)
    return RunInfo(
        command=str(facts.request.get("command", "")),
        run_dir=str(store.run_dir),
        scenario=spec.name,
        scenario_description=spec.description,
        schedule_digest="",
        metric=MS_PER_REQUEST,
        larger_is_better=False,
        started_at=trials[0].started_at if trials else "",
        wall_s=sum(trial.wall_s for trial in trials) + store.note(_STARTING_S, 0.0),
        seed=facts.seed,
        environment=(
            *((str(name), str(value)) for name, value in store.note(_MACHINE, [])),
            *(pinned if spec.target is StudyTarget.TRANSPORT else ()),
        ),
        stand_ins=tuple(store.note(_STAND_INS, [])),
        lost_samples=0,
        kept_samples=0,
    )


def _sentence(revision: Revision, cells: tuple[CellResult, ...], threshold: Threshold) -> str:
    alone: dict[Strategy, int] = {}
    ties = 0
    for cell in cells:
        if len(cell.leaders) == 1:
            alone[cell.leaders[0]] = alone.get(cell.leaders[0], 0) + 1
        elif cell.leaders:
            ties += 1
    parts = [f"{strategy.value} in {count}" for strategy, count in sorted(alone.items(), key=lambda item: -item[1])]
    if ties:
        parts.append(f"a tie in {ties}")
    if not parts:
        return f"Nothing could be measured on {revision.label}."
    return f"Fastest on {revision.label}, of {len(cells)} cells: {', '.join(parts)}. {threshold.sentence}"
