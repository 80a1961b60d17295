"""Writes a result as one offline HTML file: no request leaves it, and nothing in it runs but our own viewer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.model.result import BisectResult
from perfguard.model.scenario import Strategy
from perfguard.report import assets
from perfguard.report.charts import posterior_chart, revision_chart, trial_chart
from perfguard.report.clean import AnyResult, clean
from perfguard.report.document import make_document, write_document
from perfguard.report.flame import CPU_MS_PER_REQUEST, Packed, Side, Unit, pack
from perfguard.report.view import build_page, marks_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.model.result import GrownFrame
    from perfguard.model.trial import Trial
    from perfguard.report.drawing import Chart

SIZE_BUDGET_BYTES = 5_000_000
_FEWEST_REVISIONS_FOR_A_LINE = 3


def render_html(result: AnyResult, *, budget_bytes: int = SIZE_BUDGET_BYTES) -> str:
    """Give the whole report as one HTML document.

    Where it would be larger than `budget_bytes`, the smallest stacks are left out of the flamegraph, and the page says
    so; everything else is bounded by itself. Home directories and secrets are redacted.
    """
    shown = clean(result, home=str(Path.home()))
    page = build_page(shown)
    charts = _charts(shown)

    def document(flame: Packed | None) -> str:
        script = assets.viewer_script() if flame else ""
        return make_document("report.html.j2", script=script, charts=charts, page=page, flame=flame)

    return fit_flame(document, page.sides, getattr(shown, "grown_frames", ()), budget_bytes=budget_bytes)


def write_report(result: AnyResult, path: Path) -> Path:
    """Write the report of `result` to `path` in one step, so that no reader ever sees half a file; gives `path`.

    Raises:
        PerfguardError: the file cannot be written there.
    """
    return write_document(render_html(result), path)


def fit_flame(
    document: Callable[[Packed | None], str],
    sides: Sequence[Side],
    grown: Sequence[GrownFrame],
    *,
    budget_bytes: int,
    unit: Unit = CPU_MS_PER_REQUEST,
) -> str:
    """Make a document with the flamegraph of `sides` (None where there are no profiles) that keeps to the budget."""
    if not any(side.profiles for side in sides):
        return document(None)
    flame = pack(sides, grown, budget_bytes=budget_bytes, unit=unit)
    text = document(flame)
    size_bytes = len(text.encode())
    if size_bytes <= budget_bytes:
        return text
    room_bytes = budget_bytes - (size_bytes - len(flame.text)) - 1_000  # the sentence about pruning grows
    return document(pack(sides, grown, budget_bytes=max(0, room_bytes), unit=unit))


def _charts(result: AnyResult) -> tuple[Chart, ...]:
    """Draw revisions where there are enough of them to see a step, and single trials where there are two to compare."""
    has_strategies = any(summary.strategy is not Strategy.AS_COMMITTED for summary in result.revisions)
    if len(result.revisions) >= _FEWEST_REVISIONS_FOR_A_LINE and not has_strategies:
        drawn = [revision_chart(result.revisions, result.run, marks_of(result))]
    else:
        drawn = [trial_chart(*_by_arm(result), result.run)]
    if isinstance(result, BisectResult):
        drawn.insert(0, posterior_chart(result))
    return tuple(chart for chart in drawn if chart is not None)


def _by_arm(result: AnyResult) -> tuple[tuple[Trial, ...], dict[str, str]]:
    """Give the trials under names that tell a revision's strategies apart, and the labels of those, in their order."""
    labels = {
        f"{name} {summary.strategy.value}": summary.label
        for summary in result.revisions
        for name in (summary.revision.commit, summary.revision.label)
    }
    judged = result.search_trials if isinstance(result, BisectResult) else result.trials
    trials = tuple(replace(trial, revision=f"{trial.revision} {trial.strategy}") for trial in judged)
    tried = dict.fromkeys(trial.revision for trial in sorted(trials, key=lambda trial: trial.number))
    by_place = {name: place for place, name in enumerate(labels)}
    ordered = sorted(tried, key=lambda name: by_place.get(name, math.inf))
    return trials, {name: labels.get(name, name) for name in ordered}
