"""The chart of strategies: what each changes beside the revision as it was committed, with its interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from perfguard.model.strategies import PICKLE, WORKING_CPU, ChangeKind
from perfguard.report import words
from perfguard.report.drawing import CLASS, Chart, drawing, new_figure, write_svg
from perfguard.report.strategies import metric_label, shown, unit_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.model.strategies import ArmChange, StrategyTable

_LOOKS = {"better": "good", "worse": "bad", "noise": "point"}


def strategy_charts(tables: Sequence[StrategyTable], metric: str) -> tuple[Chart, ...]:
    """Draw, for every table, the changes of the run's metric, and of the CPU and the pickling that stand behind it."""
    drawn = (
        _chart(table, each, place)
        for place, table in enumerate(tables)
        for each in dict.fromkeys((metric, WORKING_CPU, PICKLE))
    )
    return tuple(chart for chart in drawn if chart is not None)


def _chart(table: StrategyTable, metric: str, place: int) -> Chart | None:
    changes = [
        (arm.strategy.value, line.change)
        for arm in table.arms
        for line in arm.metrics
        if (line.metric, line.role) == (metric, "") and line.change is not None
    ]
    if not changes:
        return None
    is_ratio = changes[0][1].kind is ChangeKind.RATIO
    unit = "%" if is_ratio else unit_of(metric)
    revision = words.one_line(table.revision.label, 40)
    title = f"{revision}: {metric_label(metric, '')}, change beside {table.baseline.value} ({unit})"
    name = f"strategies-{place}-{metric}"
    with drawing():
        figure, axes = new_figure(height_in=1.0 + 0.42 * len(changes))
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x", color="black", linewidth=0.6, gid=f"{CLASS}grid")
        axes.axvline(0.0, color="black", linewidth=1.2)
        for row, (_, change) in enumerate(changes):
            middle, low, high = _bounds(metric, change)
            look = f"{CLASS}{_LOOKS[change.meaning.value]}"
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color="black", linewidth=2.4, gid=f"{look} interval")
            # Not by colour alone: what lies inside the noise is an open circle.
            is_noise = change.meaning.value == "noise"
            fill = "none" if is_noise else "black"
            axes.plot([middle], [row], marker="o", markersize=7, color="black", markerfacecolor=fill, gid=look)
        axes.set_yticks(range(len(changes)), [strategy for strategy, _ in changes])
        axes.set_ylim(len(changes) - 0.5, -0.5)
        axes.set_xlabel(f"change ({unit}); an open circle lies inside the noise")
        svg = write_svg(figure, name=name, description=f"{title}, with intervals. The numbers follow as a table.")
    rows = tuple(
        (
            strategy,
            *(words.signed(value) if value is not None else "" for value in _bounds(metric, change)),
            str(change.blocks),
            change.meaning.value,
        )
        for strategy, change in changes
    )
    columns = ("strategy", f"change ({unit})", "low", "high", "blocks", "meaning")
    return Chart(name=name, title=title, svg=svg, columns=columns, table=rows)


def _bounds(metric: str, change: ArmChange) -> tuple[float, float | None, float | None]:
    def told(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return 100.0 * (value - 1.0) if change.kind is ChangeKind.RATIO else shown(metric, value)

    return told(change.change) or 0.0, told(change.low), told(change.high)
