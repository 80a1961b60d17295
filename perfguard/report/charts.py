"""The charts of a result: its revisions, its trials, and how probable every commit is the one to blame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from perfguard.report import words
from perfguard.report.drawing import CLASS, Chart, drawing, new_figure, write_svg
from perfguard.report.rows import metric_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

    from perfguard.model.result import BisectResult, RevisionSummary, RunInfo
    from perfguard.model.trial import Trial

_LABEL_LIMIT = 16
_MOST_LABELS = 14
_MOST_LEVEL_LABELS = 5
_SMALLEST_BAR = 1e-4
_MOST_LIKELY = 20
_MARKERS = ("o", "s", "D", "^", "v", "P")


def revision_chart(revisions: Sequence[RevisionSummary], run: RunInfo, marks: Mapping[str, str]) -> Chart | None:
    """Draw the user metric of every revision with its interval, in first-parent order; None where none was measured.

    `marks` maps a commit to its part (`good`, `bad`, `culprit`, ...), which is written beside its point.
    """
    ordered = sorted(revisions, key=lambda summary: summary.index)
    values = [_positive(summary.metric_mean) for summary in ordered]
    if not any(value is not None for value in values):
        return None
    with drawing():
        figure, axes = new_figure()
        for place, (summary, value) in enumerate(zip(ordered, values, strict=True)):
            _draw_revision(axes, place, summary, value, marks.get(summary.revision.commit, ""))
        _mark_untestable(axes, [place for place, value in enumerate(values) if value is None])
        keep = {i for i, summary in enumerate(ordered) if summary.revision.commit in marks}
        _label_places(axes, [summary.label for summary in ordered], keep)
        axes.set_ylabel(_axis(run.metric))
        axes.set_xlabel("revision, oldest first")
        title = f"{words.metric_name(run.metric)} per revision"
        better = "larger is better" if run.larger_is_better else "smaller is better"
        tested = sum(value is not None for value in values)
        described = (
            f"{title}, {better}: {tested} measured, {len(values) - tested} untestable. The numbers follow as a table."
        )
        svg = write_svg(figure, name="revisions", description=described)
    table = tuple(
        (
            str(summary.index),
            words.one_line(summary.label, 60),
            marks.get(summary.revision.commit, ""),
            words.number(summary.metric_mean) if value is not None else "untestable",
            words.number(summary.metric_low),
            words.number(summary.metric_high),
        )
        for summary, value in zip(ordered, values, strict=True)
    )
    columns = ("#", "revision", "part", words.metric_unit(run.metric) or run.metric, "low", "high")
    note = f"{title} ({better}; x: untestable)" if tested < len(values) else f"{title} ({better})"
    return Chart(name="revisions", title=note, svg=svg, columns=columns, table=table)


def trial_chart(trials: Sequence[Trial], labels: Mapping[str, str], run: RunInfo) -> Chart | None:
    """Draw the user metric of every trial in running order, a marker for each revision; None where none was measured.

    `labels` maps a trial's revision to what people call it, in the order of the legend.
    """
    ordered = sorted(trials, key=lambda trial: trial.number)
    values = [_positive(metric_of(trial, run.metric)) for trial in ordered]
    if not any(value is not None for value in values):
        return None
    with drawing():
        figure, axes = new_figure()
        for turn, (revision, label) in enumerate(labels.items()):
            points = [
                (trial.number, value)
                for trial, value in zip(ordered, values, strict=True)
                if trial.revision == revision and value is not None
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    linestyle="none",
                    marker=_MARKERS[turn % len(_MARKERS)],
                    color="black",
                    label=words.one_line(label, 30).lstrip("_") or "revision",
                    gid=f"{CLASS}series-{turn % len(_MARKERS)}",
                )
        _mark_untestable(axes, [trial.number for trial, value in zip(ordered, values, strict=True) if value is None])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("trial, in the order they ran")
        axes.set_ylabel(_axis(run.metric))
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
        _colour_legend(axes)
        title = f"{words.metric_name(run.metric)} per trial"
        svg = write_svg(figure, name="trials", description=f"{title} in running order. The numbers follow as a table.")
    table = tuple(
        (
            str(trial.number),
            str(trial.block),
            words.one_line(labels.get(trial.revision, trial.revision), 60),
            words.number(value) if value is not None else "untestable",
        )
        for trial, value in zip(ordered, values, strict=True)
    )
    columns = ("trial", "block", "revision", words.metric_unit(run.metric) or run.metric)
    return Chart(name="trials", title=title, svg=svg, columns=columns, table=table)


def posterior_chart(result: BisectResult) -> Chart | None:
    """Draw how probable each revision of the range is the one that made the difference; None without a posterior.

    Under the bars a strip tells what was looked at: a tick for a tested revision, an x for an untestable one.
    """
    values = [value if math.isfinite(value) else 0.0 for value in result.posterior]
    if not any(value > 0 for value in values):
        return None
    known = {summary.index: summary for summary in result.revisions}
    culprit = next(
        (
            place
            for place, each in known.items()
            if result.culprit and each.revision.commit == result.culprit.revision.commit
        ),
        None,
    )
    title = f"Posterior over {words.counted(len(values), 'revision')}: where the stacks changed"
    if result.culprit is not None and result.culprit.posterior < max(values):
        title += f"; with the check against its parent, {words.share(result.culprit.posterior, 1.0)}"
    with drawing():
        figure, axes = new_figure(height_in=2.6)
        shown = [place for place, value in enumerate(values) if value >= _SMALLEST_BAR]
        for look, places in (
            ("culprit", [place for place in shown if place == culprit]),
            ("point", [place for place in shown if place != culprit]),
        ):
            heights = [values[place] for place in places]
            axes.vlines(places, 0, heights, color="black", linewidth=_bar_width(len(values)), gid=f"{CLASS}{look}")
        if culprit is not None and culprit < len(values):
            label = words.one_line(known[culprit].revision.label, 30)
            named = axes.annotate(
                f"{label}, {words.share(values[culprit], 1.0)}", (culprit, values[culprit]), xytext=(0, 4),
                textcoords="offset points", ha=_side(culprit, len(values)), gid=f"{CLASS}culprit",
            )  # fmt: skip
            named.set_in_layout(False)  # a long label must not squeeze the axes
        tested = [place for place, each in known.items() if each.metric_mean is not None]
        untestable = [place for place, each in known.items() if each.metric_mean is None and each.untestable]
        for look, marker, size, places in (("good", "|", 9, tested), ("untestable", "x", 6, untestable)):
            axes.plot(
                places,
                [-0.04] * len(places),
                linestyle="none",
                marker=marker,
                markersize=size,
                color="black",
                clip_on=False,
                transform=axes.get_xaxis_transform(),
                gid=f"{CLASS}{look}",
            )
        axes.tick_params(axis="x", pad=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(-1, len(values))
        axes.set_ylim(0, min(1.15, 1.3 * max(values)))
        axes.set_ylabel("probability")
        axes.set_xlabel("revision, oldest first (| tested, x untestable)")
        described = f"{title}. The numbers follow as a table."
        svg = write_svg(figure, name="posterior", description=described)
    likely = sorted(range(len(values)), key=lambda place: (-values[place], place))[:_MOST_LIKELY]
    table = tuple(
        (
            str(place),
            words.one_line(known[place].revision.label, 60) if place in known else "",
            words.share(values[place], 1.0),
            "tested" if place in tested else "untestable" if place in untestable else "",
        )
        for place in sorted(likely)
        if values[place] > 0
    )
    return Chart(
        name="posterior", title=title, svg=svg, columns=("#", "revision", "posterior", "looked at"), table=table
    )


def _bar_width(count: int) -> float:
    """Give the bars' width in points: they fill the chart, but neither vanish nor merge."""
    return min(14.0, max(1.5, 450.0 / count))


def _side(place: int, count: int) -> str:
    return "left" if place < count / 4 else "right" if place > count * 3 / 4 else "center"


def _positive(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _axis(metric: str) -> str:
    unit = words.metric_unit(metric)
    return f"{words.one_line(words.metric_name(metric), 40)}{f' ({unit})' if unit else ''}"


def _draw_revision(axes: Axes, place: int, summary: RevisionSummary, value: float | None, mark: str) -> None:
    if value is None:
        return
    low, high = _positive(summary.metric_low), _positive(summary.metric_high)
    look = f"{CLASS}{mark or 'point'}"
    if low is not None and high is not None and low <= high:
        axes.plot([place, place], [low, high], color="black", linewidth=2.0, gid=f"{look} interval")
    marker, size = ("D", 8) if mark == "culprit" else ("o", 6)
    axes.plot([place], [value], marker=marker, markersize=size, color="black", gid=look)
    if mark:
        top = high if high is not None and high >= value else value
        axes.annotate(mark, (place, top), xytext=(0, 6), textcoords="offset points", ha="center", gid=look)


def _mark_untestable(axes: Axes, places: Sequence[int]) -> None:
    """Put an x at the foot of the chart: an untestable trial has no value, and must not look like a small one."""
    for turn, place in enumerate(places):
        axes.plot(
            [place],
            [0.02],
            transform=axes.get_xaxis_transform(),
            marker="x",
            markersize=7,
            markeredgewidth=2,
            color="black",
            clip_on=False,
            linestyle="none",
            label="untestable" if turn == 0 else "_",
            gid=f"{CLASS}untestable",
        )


def _label_places(axes: Axes, labels: Sequence[str], keep: set[int]) -> None:
    """Label the places on the x axis; where there are too many, those of `keep` and every n-th between."""
    step = max(1, math.ceil(len(labels) / _MOST_LABELS))
    shown = [
        place
        for place in range(len(labels))
        if place in keep or (place % step == 0 and not any(abs(place - kept) < step for kept in keep))
    ]
    few = len(shown) <= _MOST_LEVEL_LABELS
    axes.set_xticks(
        shown,
        [words.one_line(labels[place], _LABEL_LIMIT) for place in shown],
        rotation=0 if few else 35,
        ha="center" if few else "right",
        rotation_mode="anchor",
    )
    axes.set_xlim(-0.6, max(0, len(labels) - 1) + 0.6)


def _colour_legend(axes: Axes) -> None:
    legend = axes.get_legend()
    by_label = {line.get_label(): line.get_gid() for line in axes.get_lines()}
    if legend is not None:
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_gid(by_label.get(handle.get_label()))
