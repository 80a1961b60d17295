"""The table of strategies on a terminal: strategies as columns where there is room, else a line for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from perfguard.report.strategies import ArmCell, StrategyView

_STYLES = {"better": "blue", "worse": "red", "noise": "dim"}
_METRIC_COLUMNS = 38
_ARM_COLUMNS = 20


def print_strategies(view: StrategyView, console: Console) -> None:
    """Print one revision's strategies: the table, what could not be measured, and the advice under it."""
    console.print()
    console.print(Text(f"Strategies of {view.label}", style="bold"))
    if view.columns:
        fits = console.width >= _METRIC_COLUMNS + _ARM_COLUMNS * len(view.columns)
        console.print(_wide(view) if fits else _long(view))
        console.print(Text(f"{'*: beyond the noise. ' if fits else ''}{view.note}", style="dim"))
    for line in view.failed:
        console.print(Text(f"Untestable: {line}", style="magenta"))
    console.print(Text(view.advice, style="bold"))


def _wide(view: StrategyView) -> Table:
    table = _table()
    table.add_column("Metric", no_wrap=True)
    for name in view.columns:
        table.add_column(name, justify="right", no_wrap=True)
    for line in view.lines:
        table.add_row(Text(_named(line.name, line.unit)), *map(_cell, line.cells))
    return table


def _cell(cell: ArmCell) -> Text:
    if not cell.change:
        return Text(cell.mean)
    # Not by colour alone: what lies beyond the noise has a star.
    mark = " " if cell.meaning == "noise" else "*"
    text = f"{cell.mean}  {cell.change}{mark}\n{cell.interval} "
    return Text(text, style=_STYLES[cell.meaning], justify="right")


def _long(view: StrategyView) -> Table:
    table = _table()
    table.add_column("Metric", overflow="fold")
    table.add_column("Strategy", no_wrap=True)
    for name in ("Mean", "Change"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Interval", no_wrap=True)
    table.add_column("Meaning", no_wrap=True)
    for line in view.lines:
        for place, (strategy, cell) in enumerate(zip(view.columns, line.cells, strict=True)):
            cells = (
                _named(line.name, line.unit) if place == 0 else "",
                strategy,
                cell.mean,
                cell.change,
                cell.interval,
            )
            table.add_row(*map(Text, (*cells, cell.meaning)), style=_STYLES.get(cell.meaning, ""))
    return table


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")


def _named(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name
