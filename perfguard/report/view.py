"""A result as the plain data of a page. Pure: nothing is read, drawn or judged here.

Every text of the result is cleaned first (`clean`); what the rows say is written by `rows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfguard.model.result import (
    BisectResult,
    BisectVerdict,
    CompareResult,
    CompareVerdict,
    Culprit,
    Direction,
    RunInfo,
    RunResult,
)
from perfguard.model.scenario import Device
from perfguard.model.trial import Completed, Trial
from perfguard.report import rows, words
from perfguard.report.answers import Answer, answers, check_command, frames_of, parent_of
from perfguard.report.fixes import FixView, fix_view
from perfguard.report.flame import Side
from perfguard.report.gil import GilFrameRow, GilRow, gil_frame_rows, gil_of, gil_rows
from perfguard.report.load_parts import load_tables
from perfguard.report.opening import EffectBar, Step, effect_bar, question, steps
from perfguard.report.strategies import StrategyView, strategy_view

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perfguard.model.revision import Revision
    from perfguard.report.clean import AnyResult
    from perfguard.report.fact_table import FactTable

_HUNK_LINES_LIMIT = 600
_VALUE_LIMIT = 1000
_MOST_FRAMES = 100
CPU_RUN_NOTE = "CPU run: judges the request path, not the kernels."
CUDA_STAND_IN_NOTE = "Stand-in kernels: judges the request path, not the kernels."


@dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    """The verdict. `look` is the name of its appearance: each verdict has its own.

    `question` is what was asked, `bar` the first effect, `steps` what to do next.
    """

    look: str
    sign: str
    label: str
    sentence: str
    facts: tuple[str, ...]
    answers: tuple[Answer, ...] = ()
    question: str = ""
    bar: EffectBar | None = None
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HunkLine:
    """One line of a diff; `kind` is `added`, `removed` or `same`."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HunkView:
    """One hunk with its heading, `path @@ -a,b +c,d @@`."""

    heading: str
    lines: tuple[HunkLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """One revision of the credible set."""

    label: str
    commit: str
    subject: str
    posterior: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CulpritView:
    """The culprit's commit, what it changed, and the `frames` in the files it touched whose cost changed.

    `hidden_lines` of its diff are not shown.
    """

    label: str
    commit: str
    subject: str
    author: str
    committed_at: str
    posterior: str
    frames: tuple[rows.FrameRow, ...]
    hunks: tuple[HunkView, ...]
    hidden_lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything a page or a terminal shows of one result. `kind` is `bisect`, `compare` or `run`.

    `hidden_frames` more functions than `frames` were compared; the viewer's own table and the JSON document have all.
    `check` is the command that compares the culprit with its parent again, or empty.
    """

    kind: str
    title: str
    banner: Banner
    run: RunInfo
    metric: str
    metric_unit: str
    effects: tuple[rows.EffectRow, ...]
    culprit: CulpritView | None
    suspects: tuple[Suspect, ...]
    findings: tuple[rows.FindingRow, ...]
    frames: tuple[rows.FrameRow, ...]
    hidden_frames: int
    revisions: tuple[rows.RevisionRow, ...]
    trials: tuple[rows.TrialRow, ...]
    environment: tuple[tuple[str, str], ...]
    stand_ins: tuple[str, ...]
    device_note: str
    lost: str
    wall: str
    check: str
    has_posterior: bool
    has_evidence: bool
    has_gpu: bool
    has_strategies: bool
    sides: tuple[Side, ...]
    gil: tuple[GilRow, ...]
    gil_frames: tuple[GilFrameRow, ...]
    fix: FixView | None
    strategies: tuple[StrategyView, ...]
    load_parts: tuple[FactTable, ...]


def build_page(result: AnyResult) -> Page:
    """Give the page of a result that `clean` has made fit to show."""
    run = result.run
    judged = result if isinstance(result, (BisectResult, CompareResult)) else None
    culprit = result.culprit if isinstance(result, BisectResult) else None
    posterior = result.posterior if isinstance(result, BisectResult) else ()
    ends = _ends(result)
    revision_rows = rows.revision_rows(result.revisions, marks=marks_of(result), posterior=posterior)
    fix = result.fix if isinstance(result, BisectResult) else None
    reverted = [fix.reverted] if fix and fix.reverted else []
    known = [*(summary.revision for summary in result.revisions), *ends, *reverted]
    trials = rows.trial_rows(result.trials, known)
    frames = rows.frame_rows(judged.grown_frames) if judged else ()
    kind = "run" if judged is None else "bisect" if isinstance(result, BisectResult) else "compare"
    sides = _sides(result)
    return Page(
        kind=kind,
        title=words.one_line(f"perfguard {kind}: {run.scenario}", 200),
        banner=_banner(result),
        run=run,
        metric=words.metric_name(run.metric),
        metric_unit=words.metric_unit(run.metric),
        effects=rows.effect_rows(judged.effects, run) if judged else (),
        culprit=_culprit_view(culprit, frames) if culprit else None,
        suspects=_suspects(result) if isinstance(result, BisectResult) else (),
        findings=rows.finding_rows(judged.findings) if judged else (),
        frames=frames[:_MOST_FRAMES],
        hidden_frames=max(0, len(frames) - _MOST_FRAMES),
        revisions=revision_rows,
        trials=trials,
        environment=tuple((words.one_line(k, 100), words.one_line(v, _VALUE_LIMIT)) for k, v in run.environment),
        stand_ins=tuple(words.one_line(each, _VALUE_LIMIT) for each in run.stand_ins),
        device_note=_device_note(run),
        lost=_lost(run),
        wall=words.seconds(run.wall_s),
        check=check_command(result),
        has_posterior=any(row.posterior for row in revision_rows),
        has_evidence=any(row.evidence != words.NOT_MEASURED for row in revision_rows),
        has_gpu=any(row.gpu for row in revision_rows),
        has_strategies=any(row.strategy for row in trials),
        sides=sides,
        gil=gil_rows(sides),
        gil_frames=gil_frame_rows(sides),
        fix=fix_view(fix) if fix else None,
        strategies=tuple(map(strategy_view, result.strategies)) if isinstance(result, RunResult) else (),
        load_parts=load_tables(result.trials, known),
    )


_BISECT_LOOKS = {
    BisectVerdict.CULPRIT: ("culprit", "▲", "Culprit found"),
    BisectVerdict.NO_CHANGE: ("no-change", "=", "No change"),
    BisectVerdict.UNKNOWN: ("unknown", "?", "Unknown"),
}
_COMPARE_LOOKS = {
    CompareVerdict.SLOWER: ("slower", "▲", "Slower"),
    CompareVerdict.FASTER: ("faster", "▼", "Faster"),
    CompareVerdict.NO_CHANGE: ("no-change", "=", "No change"),
    CompareVerdict.UNKNOWN: ("unknown", "?", "Unknown"),
}


def _device_note(run: RunInfo) -> str:
    """Say what a run with stand-ins cannot judge; nothing where there were none."""
    if not run.stand_ins:
        return ""
    return CUDA_STAND_IN_NOTE if ("device", Device.CUDA.value) in run.environment else CPU_RUN_NOTE


def _banner(result: AnyResult) -> Banner:
    facts = [words.counted(len(result.trials), "trial")]
    untestable = sum(1 for trial in result.trials if not isinstance(trial.outcome, Completed))
    if untestable:
        facts.append(f"{untestable:,} of them untestable")
    if isinstance(result, BisectResult):
        look, sign, label = _BISECT_LOOKS[result.verdict]
        if result.verdict is BisectVerdict.CULPRIT and result.direction is Direction.IMPROVEMENT:
            look, sign, label = "faster", "▼", "Improvement found"
        sentence = result.sentence
        facts.append(
            f"{words.counted(measured(result.search_trials), 'revision')} measured of {result.candidates + 1:,}"
        )
    elif isinstance(result, CompareResult):
        look, sign, label = _COMPARE_LOOKS[result.verdict]
        sentence = result.sentence
    else:
        look, sign, label = "run", "#", "Measured"
        told = (
            "the table says what each changes, and how surely"
            if result.strategies
            else "a table without a verdict (compare gives one)"
        )
        count = words.counted(measured(result.trials), "revision")
        sentence = f"{count} measured side by side{_with_strategies(result)}; {told}."
    facts.append(f"scenario {words.one_line(result.run.scenario, 80)}")
    facts.append(_lost(result.run))
    facts.append(_device_note(result.run).rstrip(".") or "no stand-ins")
    effects = result.effects if isinstance(result, (BisectResult, CompareResult)) else ()
    first = min(effects, key=lambda effect: effect.metric != result.run.metric, default=None)
    return Banner(
        look=look,
        sign=sign,
        label=label,
        sentence=words.shorten(sentence, 1000),
        facts=tuple(facts),
        answers=answers(result),
        question=question(result),
        bar=effect_bar(first) if first else None,
        steps=steps(result),
    )


def measured(trials: Iterable[Trial]) -> int:
    """Count the revisions with at least one completed trial."""
    return len({trial.revision for trial in trials if isinstance(trial.outcome, Completed)})


def _with_strategies(result: AnyResult) -> str:
    strategies = {summary.strategy for summary in result.revisions}
    return f", with {len(strategies)} strategies" if len(strategies) > 1 else ""


def _lost(run: RunInfo) -> str:
    taken = run.lost_samples + run.kept_samples
    if not taken:
        return "no stacks were sampled"
    lost_share = words.share(run.lost_samples, taken)
    return f"{run.lost_samples:,} of {taken:,} stack samples lost ({lost_share})"


def _ends(result: AnyResult) -> tuple[Revision, ...]:
    """Give the two revisions that were named on the command line, the good one first."""
    if isinstance(result, BisectResult):
        return result.good, result.bad
    if isinstance(result, CompareResult):
        return result.baseline, result.candidate
    return ()


def marks_of(result: AnyResult) -> dict[str, str]:
    """Map the commits that play a part to it: `good`, `bad`, `culprit`, `baseline`, `candidate`."""
    if isinstance(result, BisectResult):
        marks = {result.good.commit: "good", result.bad.commit: "bad"}
        return marks | ({result.culprit.revision.commit: "culprit"} if result.culprit else {})
    if isinstance(result, CompareResult):
        return {result.baseline.commit: "baseline", result.candidate.commit: "candidate"}
    return {}


def _suspects(result: BisectResult) -> tuple[Suspect, ...]:
    known = {summary.revision.commit: rows.probability_of(summary, result.posterior) for summary in result.revisions}
    if result.culprit:
        known[result.culprit.revision.commit] = result.culprit.posterior
    return tuple(
        Suspect(
            label=words.one_line(revision.label, 60),
            commit=revision.commit,
            subject=words.one_line(revision.subject, 300),
            posterior=words.share(probability, 1.0) if (probability := known.get(revision.commit)) is not None else "",
        )
        for revision in result.credible_set
    )


def _culprit_view(culprit: Culprit, frames: tuple[rows.FrameRow, ...]) -> CulpritView:
    room = _HUNK_LINES_LIMIT
    hidden = 0
    hunks: list[HunkView] = []
    for hunk in culprit.hunks:
        lines = hunk.text.splitlines()
        shown, room = lines[:room], max(0, room - len(lines))
        hidden += len(lines) - len(shown)
        if shown:
            span = f"@@ -{hunk.old_start},{hunk.old_lines} +{hunk.new_start},{hunk.new_lines} @@"
            heading = words.one_line(f"{hunk.path} {span}", 400)
            hunks.append(HunkView(heading=heading, lines=tuple(_hunk_line(line) for line in shown)))
    revision = culprit.revision
    return CulpritView(
        label=words.one_line(revision.label, 60),
        commit=revision.commit,
        subject=words.one_line(revision.subject, 500),
        author=words.one_line(revision.author, 200),
        committed_at=words.one_line(revision.committed_at, 60),
        posterior=words.share(culprit.posterior, 1.0),
        frames=frames_of(culprit, frames),
        hunks=tuple(hunks),
        hidden_lines=hidden,
    )


def _hunk_line(line: str) -> HunkLine:
    kind = {"+": "added", "-": "removed"}.get(line[:1], "same")
    return HunkLine(kind=kind, text=words.shorten(line, 400))


def _sides(result: AnyResult) -> tuple[Side, ...]:
    """The profiles to look at, before first; a side without any is left out."""
    if isinstance(result, (BisectResult, CompareResult)):
        before, after = "the good side", "the bad side"  # its ends, or the culprit and its parent
        ends = _ends(result)
        if isinstance(result, CompareResult):
            before, after = result.baseline.label, result.candidate.label
        elif result.culprit is not None and (parent := parent_of(result)) is not None:
            before, after = f"{parent.label}, its parent", f"{result.culprit.revision.label}, the culprit"
            ends = parent, result.culprit.revision
        sides = (
            Side(name="Before", label=before, profiles=result.baseline_profiles, gil=gil_of(result.trials, ends[0])),
            Side(name="After", label=after, profiles=result.candidate_profiles, gil=gil_of(result.trials, ends[1])),
        )
        return sides if any(side.profiles for side in sides) else ()
    summaries = {summary.label: summary for summary in result.revisions}
    return tuple(
        Side(
            name=label,
            label=label,
            profiles=profiles,
            gil=gil_of(result.trials, of.revision, of.strategy) if (of := summaries.get(label)) else (),
        )
        for label, profiles in result.profiles
        if profiles
    )
