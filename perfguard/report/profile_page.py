"""The page of profiles that were recorded or read, not measured by a scenario: a flamegraph, findings, and tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.model.result import Finding, GrownFrame
from perfguard.report import assets, rows, words
from perfguard.report.clean import clean
from perfguard.report.document import make_document, write_document
from perfguard.report.fact_table import FactTable
from perfguard.report.flame import CPU_MS_PER_REQUEST, Side, Unit
from perfguard.report.render import SIZE_BUDGET_BYTES, fit_flame
from perfguard.report.view import Banner

if TYPE_CHECKING:
    from perfguard.report.flame import Packed

_MOST_FRAMES = 100
_MOST_ROWS = 500
_CELL_LIMIT = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileReport:
    """Everything the page shows: one side, or two that are compared.

    `sentence` is the answer in one sentence and `facts` what belongs to it. `unit` is what the profiles' costs are in,
    whatever the model calls its fields. `grown_frames` are the functions that were compared, where two sides were.
    """

    title: str
    sentence: str
    facts: tuple[str, ...] = ()
    sides: tuple[Side, ...]
    unit: Unit = CPU_MS_PER_REQUEST
    findings: tuple[Finding, ...] = ()
    grown_frames: tuple[GrownFrame, ...] = ()
    tables: tuple[FactTable, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    command: str


def render_profile(report: ProfileReport, *, budget_bytes: int = SIZE_BUDGET_BYTES) -> str:
    """Give the page of profiles as one offline HTML document.

    Where it would be larger than `budget_bytes`, the cheapest code is folded into its callers, and the page says so.
    Home directories and secrets are redacted.
    """
    shown = clean(report, home=str(Path.home()))
    frames = rows.frame_rows(shown.grown_frames)

    def document(flame: Packed | None) -> str:
        return make_document(
            "profile.html.j2",
            script=assets.viewer_script() if flame else "",
            title=words.one_line(shown.title, 200),
            banner=_banner(shown),
            findings=rows.finding_rows(shown.findings),
            frames=frames[:_MOST_FRAMES],
            hidden_frames=max(0, len(frames) - _MOST_FRAMES),
            tables=[_bounded(table) for table in shown.tables],
            environment=[(words.one_line(k, 100), words.one_line(v, _CELL_LIMIT)) for k, v in shown.environment],
            command=shown.command,
            unit=shown.unit,
            flame=flame,
        )

    return fit_flame(document, shown.sides, shown.grown_frames, budget_bytes=budget_bytes, unit=shown.unit)


def write_profile(report: ProfileReport, path: Path) -> Path:
    """Write the page of profiles to `path` in one step; gives `path`.

    Raises:
        PerfguardError: the file cannot be written there.
    """
    return write_document(render_profile(report), path)


def _banner(report: ProfileReport) -> Banner:
    fired = sum(finding.fired for finding in report.findings)
    if fired:
        look, sign, label = "slower", "!", words.counted(fired, "finding")
    else:
        look, sign, label = "run", "#", "Nothing found" if report.findings else "Profile"
    facts = tuple(words.one_line(fact, 200) for fact in report.facts)
    return Banner(look=look, sign=sign, label=label, sentence=words.shorten(report.sentence, 1000), facts=facts)


def _bounded(table: FactTable) -> FactTable:
    more = len(table.rows) - _MOST_ROWS
    return FactTable(
        title=words.one_line(table.title, 200),
        columns=table.columns,
        rows=tuple(tuple(words.one_line(cell, _CELL_LIMIT) for cell in row) for row in table.rows[:_MOST_ROWS]),
        note=f"{table.note} {more:,} more rows are not shown.".strip() if more > 0 else table.note,
    )
