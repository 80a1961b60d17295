"""The trend of one scenario's metric over its runs, each point in the look of its verdict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from perfguard.report import words
from perfguard.report.drawing import CLASS, Chart, drawing, new_figure, write_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEWEST_POINTS = 2
_MARKERS = {"culprit": "D", "slower": "^", "faster": "v", "unknown": "x"}
_CLASSES = {"culprit": "bad", "slower": "bad", "faster": "good", "unknown": "untestable"}


def trend_chart(
    points: Sequence[tuple[str, str, float | None, str]], *, scenario: str, metric: str, name: str
) -> Chart | None:
    """Draw (started at, revision, metric, look) in their order; None where fewer than two have a value."""
    shown = [
        (place, value, look)
        for place, (_, _, value, look) in enumerate(points, start=1)
        if value is not None and math.isfinite(value)
    ]
    if len(shown) < _FEWEST_POINTS:
        return None
    unit = words.metric_unit(metric)
    title = f"{words.metric_name(metric)} of {words.one_line(scenario, 80)}"
    with drawing():
        figure, axes = new_figure(height_in=2.4)
        line = [place for place, _, _ in shown], [value for _, value, _ in shown]
        axes.plot(*line, color="black", linewidth=1.0, gid=f"{CLASS}grid")
        for look in dict.fromkeys(look for _, _, look in shown):
            places = [place for place, _, each in shown if each == look]
            values = [value for _, value, each in shown if each == look]
            axes.plot(
                places,
                values,
                linestyle="none",
                marker=_MARKERS.get(look, "o"),
                markersize=7,
                color="black",
                gid=f"{CLASS}{_CLASSES.get(look, 'point')}",
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("run, oldest first")
        axes.set_ylabel(f"{words.one_line(words.metric_name(metric), 40)}{f' ({unit})' if unit else ''}")
        svg = write_svg(
            figure, name=name, description=f"{title} over {len(shown)} runs. The numbers follow as a table."
        )
    table = tuple(
        (str(place), words.one_line(started, 40), words.one_line(revision, 60), words.number(value), look)
        for place, (started, revision, value, look) in enumerate(points, start=1)
    )
    return Chart(
        name=name, title=title, svg=svg, columns=("#", "started", "revision", unit or metric, "verdict"), table=table
    )
