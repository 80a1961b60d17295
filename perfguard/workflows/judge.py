"""From trials to judgements: evidence per trial, effects, findings, grown frames, summaries.

Nothing here runs anything: what is judged lies in the store, so every verdict can be judged again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from perfguard.evidence.gil_frames import GilCosts, add_costs, gil_layers, most_waiting, read_costs, with_names
from perfguard.evidence.gil_trials import judge_gil_trials
from perfguard.evidence.rules import RuleConfig, judge
from perfguard.evidence.stacks import merge, parse_folded
from perfguard.evidence.trial import TrialEvidence, trial_evidence
from perfguard.model.gil_stacks import GilProfile
from perfguard.model.gpu import CardLoad
from perfguard.model.profile import Stack
from perfguard.model.result import Finding, RevisionSummary, RunInfo
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy, TargetKind
from perfguard.model.trial import Samples, Trial, Untestable
from perfguard.revisions.environments import site_packages
from perfguard.stats.ratios import geometric_interval
from perfguard.workflows.call_rules import packaged_call_rules
from perfguard.workflows.kinds import find_source_root
from perfguard.workflows.metrics import samples_of, user_value
from perfguard.workflows.session import Session
from perfguard.workflows.setup import RunRequest, machine
from perfguard.workflows.sources import TreeSources


class Judge:
    """Reads trials' profiles from the store and turns them into evidence, each once."""

    def __init__(self, session: Session, revisions: Sequence[Revision]) -> None:
        """Judge trials of `session`, whose revisions are `revisions`."""
        self._bench = session.bench
        self._by_commit = {revision.commit: revision for revision in revisions}
        self._evidence: dict[int, TrialEvidence] = {}
        self._sources: dict[str, tuple[TreeSources, tuple[str, ...]]] = {}

    def evidence(
        self, trials: Sequence[Trial], revision: Revision, strategy: Strategy = Strategy.AS_COMMITTED
    ) -> tuple[TrialEvidence, ...]:
        """Return the evidence of every completed, profiled trial of `revision` with `strategy` among `trials`."""
        return tuple(
            found
            for trial in trials
            if is_of(trial, revision, strategy) and (found := self.evidence_of(trial)) is not None
        )

    def evidence_of(self, trial: Trial) -> TrialEvidence | None:
        """Return one trial's evidence, or None where it was not profiled."""
        samples = samples_of(trial)
        if samples is None or not samples.profiles:
            return None
        if trial.number not in self._evidence:
            sources, prefixes = self._tree_sources(trial.revision)
            stacks: dict[str, tuple[Stack, ...]] = {}
            for profile in samples.profiles:
                text = self._bench.store.get_artifact(profile.artifact).decode("utf-8", errors="replace")
                parsed = parse_folded(text, strip_prefixes=prefixes)
                stacks[profile.role] = merge(stacks.get(profile.role, ()), parsed)
            gil = self._gil_costs(samples.gil_profiles, stacks, prefixes)
            self._evidence[trial.number] = trial_evidence(samples, stacks, sources, packaged_call_rules(), gil)
        return self._evidence[trial.number]

    def sources(self, revision: Revision) -> TreeSources:
        """Return the source files that trials of `revision` ran."""
        return self._tree_sources(revision.commit)[0]

    def _gil_costs(
        self, profiles: Sequence[GilProfile], stacks: dict[str, tuple[Stack, ...]], prefixes: tuple[str, ...]
    ) -> dict[str, GilCosts]:
        by_role: dict[str, list[GilCosts]] = {}
        for profile in profiles:
            keys = {"holding": profile.holding, "waiting": profile.waiting, "meanwhile": profile.meanwhile}
            texts = {
                name: self._bench.store.get_artifact(key).decode("utf-8", errors="replace")
                for name, key in keys.items()
            }
            costs = read_costs(texts, looks=profile.looks, unknown=profile.unknown, strip_prefixes=prefixes)
            by_role.setdefault(profile.role, []).append(with_names(costs, stacks.get(profile.role, ())))
        return {role: add_costs(costs) for role, costs in by_role.items()}

    def _tree_sources(self, commit: str) -> tuple[TreeSources, tuple[str, ...]]:
        if commit not in self._sources:
            tree = self._bench.repository.worktree(self._by_commit[commit])
            packages = site_packages(self._bench.environment)
            roots: list[Path] = [find_source_root(self._bench.scenario.target, tree), packages, packages.parent]
            base = _base_library(self._bench.environment.python, packages.parent.name)
            if base is not None:
                roots.append(base)
            self._sources[commit] = (TreeSources(roots), tuple(f"{root}/" for root in roots))
        return self._sources[commit]


def _base_library(python: Path, version: str) -> Path | None:
    """Return the standard library behind a virtual environment's interpreter, such as `.../lib/python3.11`."""
    library = python.resolve().parent.parent / "lib" / version
    return library if library.is_dir() else None


def is_of(trial: Trial, revision: Revision, strategy: Strategy) -> bool:
    """Whether a trial measured that revision with that strategy."""
    return (trial.revision, trial.strategy) == (revision.commit, strategy.value)


def summarise_revisions(
    session: Session, revisions: Sequence[Revision], strategy: Strategy = Strategy.AS_COMMITTED
) -> tuple[RevisionSummary, ...]:
    """Summarise every revision that was tried with `strategy`, in the history's order."""
    scenario = session.bench.scenario
    summaries = []
    for index, revision in enumerate(revisions):
        trials = [trial for trial in session.trials if is_of(trial, revision, strategy)]
        if not trials:
            continue
        by_start: dict[int, list[float]] = {}
        for trial in trials:
            if (samples := samples_of(trial)) is not None:
                by_start.setdefault(trial.start, []).append(user_value(samples.load, scenario.metric))
        values = list(by_start.values())
        failed = [trial.outcome for trial in trials if isinstance(trial.outcome, Untestable)]
        mean, low, high = geometric_interval(values, scenario.limits.confidence) if values else (None, None, None)
        summaries.append(
            RevisionSummary(
                revision=revision,
                index=index,
                trials=len(trials),
                untestable=len(failed),
                untestable_reason=failed[0].reason if failed else "",
                metric_mean=mean,
                metric_low=low,
                metric_high=high,
                evidence_ms_per_request=None,
                strategy=strategy,
                gpu_busy_frac=_gpu_busy_frac(trials),
            )
        )
    return tuple(summaries)


def _gpu_busy_frac(trials: Sequence[Trial]) -> float | None:
    busy = [
        frac
        for trial in trials
        if (samples := samples_of(trial)) is not None
        and samples.gpu is not None
        and (frac := samples.gpu.busy_frac) is not None
    ]
    return fmean(busy) if busy else None


def judge_rules(session: Session, judged: Judge, baseline: Revision, candidate: Revision) -> tuple[Finding, ...]:
    """Judge every rule on the profiled trials of two revisions, those that fired first; none without profiles."""
    config = RuleConfig()
    sides = [judged.evidence(session.trials, revision) for revision in (baseline, candidate)]
    if not all(sides):
        return ()
    gils = [
        [
            samples.gil
            for trial in session.trials
            if is_of(trial, revision, Strategy.AS_COMMITTED)
            and (samples := samples_of(trial)) is not None
            and samples.gil
        ]
        for revision in (baseline, candidate)
    ]
    contended = [_with_frames(finding, sides[1]) for finding in judge_gil_trials(gils[0], gils[1], config)]
    findings = (*judge(sides[0], sides[1], config), *contended)
    return tuple(sorted(findings, key=lambda finding: not finding.fired))


def _with_frames(finding: Finding, trials: Sequence[TrialEvidence]) -> Finding:
    """Say where a role waits for the GIL, where it waits too much and that is known."""
    known = [(trial.gil[finding.role], trial.profiled_requests) for trial in trials if finding.role in trial.gil]
    said = most_waiting(gil_layers(known)) if finding.fired else ""
    return replace(finding, effect=f"{finding.effect} {said}") if said else finding


def run_info(request: RunRequest, session: Session) -> RunInfo:
    """Gather what a reader needs to judge or repeat the run."""
    scenario = session.bench.scenario
    completed = [samples for trial in session.trials if (samples := samples_of(trial)) is not None]
    packages = dict(pair for samples in completed for pair in samples.server.packages)
    packages.pop("sglang", None)
    stand_ins = sorted({name for samples in completed for name in samples.server.stand_ins})
    warnings = Counter(warning for samples in completed for profile in samples.profiles for warning in profile.warnings)
    facts = [*machine(), *sorted(packages.items())]
    if scenario.target.kind is TargetKind.SGLANG_SERVER:
        facts += [("device", scenario.target.device.value), ("ranks", str(scenario.target.tensor_parallel_size))]
    facts += sorted({(f"gpu {card.index}", card.name) for card in _cards(completed)})
    facts += [(f"profiler said ({count}x)", text) for text, count in warnings.most_common(3)]
    return RunInfo(
        command=request.command,
        run_dir=str(session.bench.store.run_dir),
        scenario=scenario.name,
        scenario_description=scenario.description,
        schedule_digest=session.bench.schedules.digest,
        metric=scenario.metric.value,
        larger_is_better=scenario.metric.larger_is_better,
        started_at=session.trials[0].started_at if session.trials else "",
        wall_s=session.wall_s,
        seed=request.seed,
        environment=tuple(facts),
        stand_ins=tuple(stand_ins),
        lost_samples=sum(profile.lost for samples in completed for profile in samples.profiles),
        kept_samples=sum(profile.samples for samples in completed for profile in samples.profiles),
    )


def _cards(completed: Sequence[Samples]) -> tuple[CardLoad, ...]:
    return tuple(card for samples in completed if samples.gpu is not None for card in samples.gpu.cards)


def percent(ratio: float) -> str:
    """Render a ratio as a signed change, such as `-17.3%`."""
    return "unbounded" if not math.isfinite(ratio) else f"{100.0 * (ratio - 1.0):+.1f}%"
