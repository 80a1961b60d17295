"""Strategies side by side, as the cells that every face of a result prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perfguard.model.scenario import UserMetric
from perfguard.model.strategies import GIL_WAIT, PICKLE, WORKING_CPU, ArmMeaning, ChangeKind
from perfguard.report import words

if TYPE_CHECKING:
    from perfguard.model.strategies import ArmChange, ArmMetric, StrategyTable

_LABEL_LIMIT = 60
_REASON_LIMIT = 600
_SENTENCE_LIMIT = 1000
_NAMES = {WORKING_CPU: ("CPU per request", "ms"), PICKLE: ("Pickling per request", "ms"), GIL_WAIT: ("GIL wait", "%")}
_USER = {metric.value for metric in UserMetric}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCell:
    """One metric of one strategy. `meaning` is `better`, `worse`, `noise`, or empty for what is not compared."""

    mean: str
    change: str
    interval: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLine:
    """One metric of every measured strategy, in the order of the table's `columns`."""

    name: str
    unit: str
    cells: tuple[ArmCell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyView:
    """Everything that is shown of one revision's strategies; `failed` says which could not be measured, and why."""

    label: str
    columns: tuple[str, ...]
    lines: tuple[MetricLine, ...]
    failed: tuple[str, ...]
    note: str
    advice: str


def strategy_view(table: StrategyTable) -> StrategyView:
    """Give the view of one table."""
    arms = [arm for arm in table.arms if arm.metrics]
    cells = [{(each.metric, each.role): each for each in arm.metrics} for arm in arms]
    keys = list(dict.fromkeys(key for of_arm in cells for key in of_arm))
    level = f"{100.0 * table.confidence:g}%"
    return StrategyView(
        label=words.one_line(table.revision.label, _LABEL_LIMIT),
        columns=tuple(arm.strategy.value for arm in arms),
        lines=tuple(
            MetricLine(
                name=metric_label(*key), unit=unit_of(key[0]), cells=tuple(_cell(of_arm.get(key)) for of_arm in cells)
            )
            for key in keys
        ),
        failed=tuple(
            f"{arm.strategy.value}: {arm.untestable} of {words.counted(arm.trials, 'trial')} untestable: "
            f"{words.one_line(arm.untestable_reason, _REASON_LIMIT)}"
            for arm in table.arms
            if arm.untestable
        ),
        note=(
            f"Changes are held against {table.baseline.value} within {words.counted(table.blocks, 'block')}, with a "
            f"paired {level} interval over whole trials; what is dim lies inside the noise. Of "
            f"{len(keys) * max(0, len(arms) - 1)} such intervals one in {round(1.0 / (1.0 - table.confidence))} misses "
            "by chance; the advice is judged for all strategies together."
        ),
        advice=words.one_line(table.advice, _SENTENCE_LIMIT),
    )


def metric_label(metric: str, role: str) -> str:
    """Name a metric of the table, with the process that it is of."""
    name = words.metric_name(metric) if metric in _USER else _NAMES[metric][0]
    if not role:
        return f"{name}, all processes" if metric == WORKING_CPU else name
    return words.one_line(f"{name}, {role}", _LABEL_LIMIT)


def unit_of(metric: str) -> str:
    """Name the unit that the table shows a metric in."""
    return words.metric_unit(metric) if metric in _USER else _NAMES[metric][1]


def shown(metric: str, value: float) -> float:
    """Turn a metric's value into the unit that the table shows it in."""
    return 100.0 * value if metric == GIL_WAIT else value


def _cell(found: ArmMetric | None) -> ArmCell:
    if found is None:
        return ArmCell(mean=words.NOT_MEASURED, change="", interval="", meaning="")
    mean = words.number(shown(found.metric, found.mean))
    if found.change is None:
        return ArmCell(mean=mean, change="", interval="", meaning="")
    change = found.change
    return ArmCell(
        mean=mean,
        change=_told(found.metric, change.kind, change.change),
        interval=_interval(found.metric, change),
        meaning=change.meaning.value,
    )


def _told(metric: str, kind: ChangeKind, change: float) -> str:
    return words.percent_change(change) if kind is ChangeKind.RATIO else words.signed(shown(metric, change))


def _interval(metric: str, change: ArmChange) -> str:
    if change.low is None or change.high is None:
        return "one block"
    return f"{_told(metric, change.kind, change.low)} to {_told(metric, change.kind, change.high)}"


def meaning_of(meaning: str) -> str:
    """Say what a cell's meaning is."""
    return "inside the noise" if meaning == ArmMeaning.NOISE.value else meaning
