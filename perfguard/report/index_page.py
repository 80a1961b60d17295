"""The index of many runs: a strip of verdicts, the trend of every scenario's metric, and a table to look things up."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from perfguard.model.result import BisectVerdict, CompareVerdict, Effect, RunInfo
from perfguard.report import assets, words
from perfguard.report.clean import clean
from perfguard.report.document import make_document, write_document
from perfguard.report.trend import trend_chart

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perfguard.report.drawing import Chart

_MOST_CHARTS = 20
_MOST_ROWS = 5_000
_LOOKS = {
    BisectVerdict.CULPRIT: ("culprit", "▲", "Culprit found"),
    BisectVerdict.NO_CHANGE: ("no-change", "=", "No change"),
    BisectVerdict.UNKNOWN: ("unknown", "?", "Unknown"),
    CompareVerdict.SLOWER: ("slower", "▲", "Slower"),
    CompareVerdict.FASTER: ("faster", "▼", "Faster"),
    CompareVerdict.NO_CHANGE: ("no-change", "=", "No change"),
    CompareVerdict.UNKNOWN: ("unknown", "?", "Unknown"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One run: where its report lies (`path`, relative to the index), and what it said.

    `verdict` is None for a run without one. `metric_mean` is the run's metric on what it judged (the candidate, or the
    bad end), for the trend. `revision` names that, and `untestable` the revisions that could not be judged, with why.
    """

    path: str
    kind: str
    run: RunInfo
    verdict: BisectVerdict | CompareVerdict | None
    sentence: str
    effect: Effect | None = None
    metric_mean: float | None = None
    revision: str = ""
    untestable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRow:
    """One run as the page shows it."""

    href: str
    number: int
    started_at: str
    scenario: str
    kind: str
    look: str
    sign: str
    label: str
    sentence: str
    change: str
    change_frac: float | None
    revision: str
    untestable: tuple[tuple[str, str], ...]
    wall: str


def render_index(entries: Iterable[IndexEntry], *, title: str = "perfguard: all runs") -> str:
    """Give the index as one offline HTML document, the newest run first. Secrets and home directories are redacted."""
    # A path that was redacted would lead nowhere.
    shown = (replace(clean(entry, home=str(Path.home())), path=entry.path) for entry in entries)
    ordered = sorted(shown, key=lambda each: each.run.started_at)
    table = [_row(entry, number) for number, entry in enumerate(ordered, start=1)]
    counts: dict[str, int] = defaultdict(int)
    for row in table:
        counts[row.label] += 1
    strips: dict[str, list[IndexRow]] = defaultdict(list)
    for row in table:
        strips[row.scenario].append(row)
    return make_document(
        "index.html.j2",
        script=assets.index_script(),
        charts=_charts(ordered),
        title=words.one_line(title, 200),
        rows=table[::-1][:_MOST_ROWS],
        hidden_rows=max(0, len(table) - _MOST_ROWS),
        counts=sorted(counts.items()),
        strips=sorted(strips.items()),
    )


def write_index(entries: Iterable[IndexEntry], path: Path, *, title: str = "perfguard: all runs") -> Path:
    """Write the index to `path` in one step; gives `path`.

    Raises:
        PerfguardError: the file cannot be written there.
    """
    return write_document(render_index(entries, title=title), path)


def _row(entry: IndexEntry, number: int) -> IndexRow:
    look, sign, label = _LOOKS[entry.verdict] if entry.verdict else ("run", "#", "Measured")
    ratio = entry.effect.ratio if entry.effect else None
    return IndexRow(
        href=_href(entry.path),
        number=number,
        started_at=words.one_line(entry.run.started_at, 40),
        scenario=words.one_line(entry.run.scenario, 100),
        kind=words.one_line(entry.kind, 30),
        look=look,
        sign=sign,
        label=label,
        sentence=words.one_line(entry.sentence, 400),
        change=words.percent_change(ratio) if entry.effect else "",
        change_frac=ratio - 1.0 if ratio is not None else None,
        revision=words.one_line(entry.revision, 60),
        untestable=tuple((words.one_line(name, 60), words.one_line(why, 300)) for name, why in entry.untestable),
        wall=words.seconds(entry.run.wall_s),
    )


def _href(path: str) -> str:
    """Write a path as a link that can only lead to a file: no scheme, and no other host."""
    escaped = quote(re.sub(r"^/{2,}", "/", path), safe="/", errors="backslashreplace")
    return escaped if escaped.startswith(("/", ".")) else f"./{escaped}"


def _charts(entries: list[IndexEntry]) -> list[Chart]:
    groups: dict[tuple[str, str], list[IndexEntry]] = defaultdict(list)
    for entry in entries:
        if entry.metric_mean is not None:
            groups[entry.run.scenario, entry.run.metric].append(entry)
    drawn = []
    for place, ((scenario, metric), group) in enumerate(sorted(groups.items())[:_MOST_CHARTS]):
        points = [
            (each.run.started_at, each.revision, each.metric_mean, _LOOKS[each.verdict][0] if each.verdict else "run")
            for each in group
        ]
        chart = trend_chart(points, scenario=scenario, metric=metric, name=f"trend-{place}")
        drawn.append(chart)
    return [chart for chart in drawn if chart is not None]
