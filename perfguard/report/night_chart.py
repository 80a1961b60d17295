"""The trend of a series of nights: what each head did against its own night's baseline, with the interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator, PercentFormatter

from perfguard.report import words
from perfguard.report.drawing import CLASS, Chart, drawing, new_figure, write_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from perfguard.model.result import Effect

_MOST_LABELS = 12
_LABEL_LIMIT = 16
_CLASSES = {"culprit": "bad", "slower": "bad", "faster": "good", "unknown": "untestable"}
_MARKERS = {"culprit": "D", "slower": "^", "faster": "v", "unknown": "x"}


@dataclass(frozen=True, slots=True, kw_only=True)
class NightPoint:
    """One night in the chart.

    `number` is its place in the series, from 1. `effect` is the head against the night's baseline, None where nothing
    was measured. `culprit` names the commit that this night found first, `accepted` one that a person accepted since
    the night before; both are empty mostly.
    """

    number: int
    started_at: str
    head: str
    look: str
    label: str
    effect: Effect | None
    culprit: str = ""
    accepted: str = ""


def night_chart(points: Sequence[NightPoint], *, metric: str, larger_is_better: bool, name: str) -> Chart | None:
    """Draw the nights in their order; None where none has an effect.

    Each point stands against its own night's baseline, which follows the branch: zero is no change since the newest
    good commit, not since the first night.
    """
    measured = [(point, point.effect) for point in points if point.effect is not None]
    if not measured:
        return None
    better = "larger is better" if larger_is_better else "smaller is better"
    title = f"{words.metric_name(metric)} of each head against its night's baseline ({better})"
    with drawing():
        figure, axes = new_figure(height_in=3.0)
        axes.axhline(0, color="black", linewidth=1.0)
        for point, effect in measured:
            look = f"{CLASS}{_CLASSES.get(point.look, 'point')}"
            interval = [_percent(effect.low), _percent(effect.high)]
            axes.plot([point.number] * 2, interval, color="black", linewidth=2.0, gid=f"{look} interval")
            axes.plot(
                [point.number],
                [_percent(effect.ratio)],
                linestyle="none",
                marker=_MARKERS.get(point.look, "o"),
                markersize=7,
                color="black",
                gid=look,
            )
        axes.margins(y=0.25)  # room for the names
        _name(axes, [(each, each.culprit) for each in points if each.culprit], top=True)
        _name(axes, [(each, f"{each.accepted} ok") for each in points if each.accepted], top=False)
        unmeasured = [point.number for point in points if point.effect is None and point.look == "unknown"]
        axes.plot(
            unmeasured,
            [0.02] * len(unmeasured),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            markersize=7,
            markeredgewidth=2,
            color="black",
            clip_on=False,
            gid=f"{CLASS}untestable",
        )
        axes.set_xlim(points[0].number - 0.6, points[-1].number + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=None))
        axes.set_xlabel("night, oldest first (x: could not be told)")
        axes.set_ylabel(words.one_line(words.metric_name(metric), 40))
        described = f"{title}: {words.counted(len(measured), 'night')} measured. The numbers follow as a table."
        svg = write_svg(figure, name=name, description=described)
    return Chart(
        name=name,
        title=title,
        svg=svg,
        columns=("#", "started", "head", "change", "interval", "verdict", "culprit", "accepted"),
        table=tuple(_cells(point) for point in points),
    )


def _percent(ratio: float) -> float:
    return (ratio - 1.0) * 100.0


def _name(axes: Axes, named: Sequence[tuple[NightPoint, str]], *, top: bool) -> None:
    """Put names at the head or the foot of their nights; the newest ones, where there are too many to read."""
    for point, text in named[-_MOST_LABELS:]:
        look = f"{CLASS}{_CLASSES.get(point.look, 'point') if top else 'good'}"
        axes.axvline(point.number, color="black", linewidth=0.8, linestyle=":", gid=look)
        label = axes.annotate(
            words.one_line(text, _LABEL_LIMIT),
            (point.number, 1.0 if top else 0.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2 if top else 4),
            textcoords="offset points",
            ha="left",
            va="top" if top else "bottom",
            gid=look,
        )
        label.set_in_layout(False)  # a long name must not squeeze the axes


def _cells(point: NightPoint) -> tuple[str, ...]:
    effect = point.effect
    return (
        str(point.number),
        words.one_line(point.started_at, 40),
        words.one_line(point.head, 60),
        words.percent_change(effect.ratio) if effect else "",
        f"{words.percent_change(effect.low)} to {words.percent_change(effect.high)}" if effect else "",
        point.label,
        words.one_line(point.culprit, 60),
        words.one_line(point.accepted, 60),
    )
