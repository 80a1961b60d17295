"""A result as Markdown, for a pull request or a job's summary: the verdict, the effects, what fired, the top frames.

What comes from outside (names, subjects, reasons) stands in code spans: nothing in it becomes markup, a mention or a
link to somebody's issue. The text stays under the limit of the places it is posted to.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.report import words
from perfguard.report.clean import AnyResult, clean
from perfguard.report.strategies import meaning_of
from perfguard.report.view import Page, build_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from perfguard.report.fact_table import FactTable
    from perfguard.report.strategies import ArmCell, StrategyView

# Source: GitHub cuts a comment at 65,536 characters.
MOST_BYTES = 60_000
_MOST_FRAMES = 10
_MOST_REVISIONS = 40
_MOST_SUSPECTS = 20
_NAME_LIMIT = 160
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~$&])")
_TICKS = re.compile(r"`+")


def to_markdown(result: AnyResult, *, report: str | None = None, most_bytes: int = MOST_BYTES) -> str:
    """Give `result` as GitHub-flavoured Markdown of at most `most_bytes` bytes of UTF-8.

    `report` is where the HTML report can be found, and is linked if given. Home directories and secrets are redacted.
    The verdict comes first; where there is no room, the last sections go, and the text says so.
    """
    page = build_page(clean(result, home=str(Path.home())))
    sections = [
        _verdict(page, report),
        _effects(page),
        _culprit(page),
        _fix(page),
        *(_strategies(view) for view in page.strategies),
        _findings(page),
        _frames(page),
        _revisions(page),
        *(fact_table(each) for each in page.load_parts),
        _reproduce(page),
    ]
    kept = [section for section in sections if section]
    shown = len(kept)
    while True:
        left_out = "" if shown == len(kept) else "\n*More stands in the report: this text was cut to fit.*\n"
        text = "\n".join([*kept[:shown], left_out]).rstrip() + "\n"
        if len(text.encode()) <= most_bytes or shown == 1:
            return text
        shown -= 1


def _verdict(page: Page, report: str | None) -> str:
    banner = page.banner
    lines = [f"## {banner.sign} {banner.label}", "", f"**{prose(banner.sentence)}**", ""]
    lines.append(" · ".join(prose(fact) for fact in banner.facts))
    if report:
        lines += ["", f"[The whole report]({report.replace(' ', '%20').replace(')', '%29').replace('(', '%28')})"]
    return "\n".join([*lines, ""])


def _effects(page: Page) -> str:
    if not page.effects:
        return ""
    rows = (
        (code_span(row.metric), f"**{row.change}**", row.interval, _meaning(row.meaning), str(row.pairs))
        for row in page.effects
    )
    return table("Effects", ("Metric", ">Change", "Interval", "Meaning", ">Pairs"), rows)


def _meaning(meaning: str) -> str:
    return "inside the noise" if meaning == "noise" else meaning


def _culprit(page: Page) -> str:
    if page.culprit:
        commit = page.culprit
        lines = [
            "### The commit",
            "",
            f"{code_span(commit.label)} {code_span(commit.subject)}  ",
            f"by {code_span(commit.author)}, {code_span(commit.committed_at)}, posterior {commit.posterior}",
            "",
            *(f"- {code_span(hunk.heading)}" for hunk in commit.hunks[:_MOST_SUSPECTS]),
        ]
        return "\n".join([*lines, ""])
    if not page.suspects:
        return ""
    rows = (
        (code_span(each.label), code_span(each.subject), each.posterior or words.NOT_MEASURED) for each in page.suspects
    )
    return table("Cannot be told apart", ("Revision", "Subject", ">Posterior"), list(rows)[:_MOST_SUSPECTS])


def _fix(page: Page) -> str:
    if page.fix is None:
        return ""
    lines = ["### What gives it back", "", prose(page.fix.sentence), ""]
    lines += [line for note in page.fix.notes for line in (prose(note), "")]
    lines += [f"- {code_span(row.path)}: {prose(row.reason)} {code_span(row.functions)}" for row in page.fix.conflicts]
    if page.fix.conflicts:
        lines.append("")
    if page.fix.patch:
        lines += [f"The revert as a patch lies in the run's folder: {code_span(page.fix.patch)}", ""]
    if not page.fix.rows:
        return "\n".join(lines)
    unit = f" ({page.metric_unit})" if page.metric_unit else ""
    columns = ("Measured", "Part", f">{page.metric}{unit}", ">Gives back", "Interval", "Verdict", ">Trials")
    cells = (
        (
            code_span(row.label),
            row.part,
            row.metric,
            row.back,
            row.interval,
            row.verdict + (f": {code_span(row.reason)}" if row.reason else ""),
            str(row.trials),
        )
        for row in page.fix.rows
    )
    return "\n".join([*lines, table("", columns, cells)])


def _strategies(view: StrategyView) -> str:
    lines = [f"### Strategies of {code_span(view.label)}", "", f"**{prose(view.advice)}**", ""]
    lines += [f"- {code_span(failed)}" for failed in view.failed]
    if view.failed:
        lines.append("")
    rows = (
        (
            prose(line.name) + (f" ({prose(line.unit)})" if line.unit else ""),
            *(_strategy_cell(cell) for cell in line.cells),
        )
        for line in view.lines
    )
    columns = ("Metric", *(f">{name}" for name in view.columns))
    return "\n".join([*lines, table("", columns, rows), prose(view.note), ""]) if view.columns else "\n".join(lines)


def _strategy_cell(cell: ArmCell) -> str:
    if not cell.change:
        return cell.mean
    change = cell.change if cell.meaning == "noise" else f"**{cell.change}**"
    return f"{cell.mean}, {change}<br>{cell.interval}<br>{meaning_of(cell.meaning)}"


def _findings(page: Page) -> str:
    fired = [row for row in page.findings if row.fired]
    if not fired:
        return ""
    lines = ["### Findings", ""]
    for row in fired:
        lines.append(f"- {code_span(row.rule)} in {code_span(row.role)}: {prose(words.one_line(row.effect, 600))}")
        lines += [
            f"  - {code_span(each.what)}: {each.before} → {each.after} {prose(each.unit)}" for each in row.evidence[:5]
        ]
    return "\n".join([*lines, ""])


def _frames(page: Page) -> str:
    grown = [row for row in page.frames if row.significant]
    if not grown:
        return "No function's cost changed by more than the noise.\n" if page.frames else ""
    rows = (
        (
            code_span(row.frame),
            code_span(row.role),
            row.before,
            row.after,
            f"{'▲' if row.grew else '▼'} {row.change}",
            row.interval,
        )
        for row in grown[:_MOST_FRAMES]
    )
    title = "Functions whose cost changed, CPU ms per request"
    return table(title, ("Function", "Process", ">Before", ">After", ">Change", "Interval"), rows)


def _revisions(page: Page) -> str:
    if not page.revisions:
        return ""
    unit = f" ({page.metric_unit})" if page.metric_unit else ""
    rows = [
        (
            code_span(row.label),
            row.mark,
            row.metric,
            row.metric_interval,
            row.posterior,
            str(row.trials),
            f"untestable: {code_span(row.untestable_reason)}" if row.untestable else code_span(row.subject),
        )
        for row in page.revisions
    ]
    columns = ("Revision", "Part", f">{page.metric}{unit}", "Interval", ">Posterior", ">Trials", "Subject")
    return _folded("Revisions", table("", columns, rows[:_MOST_REVISIONS]))


def _reproduce(page: Page) -> str:
    fence = "`" * max(3, 1 + max((len(ticks) for ticks in _TICKS.findall(page.run.command)), default=0))
    command = f"{fence}\n{words.shorten(page.run.command, 4_000)}\n{fence}\n"
    rows = [(code_span(name), code_span(value)) for name, value in page.environment]
    rows += [("stand-in", code_span(each)) for each in page.stand_ins]
    return _folded("Reproduce, and environment", command + "\n" + table("", ("What", "Value"), rows))


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{body}\n</details>\n"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; a column whose name begins with `>` holds numbers."""
    lines = [f"### {title}", ""] if title else []
    lines.append("| " + " | ".join(prose(name.lstrip(">")) for name in columns) + " |")
    lines.append("|" + "|".join("--:" if name.startswith(">") else "---" for name in columns) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, ""])


def fact_table(facts: FactTable) -> str:
    """Write a table of facts, and its note under it."""
    rows = ([prose(cell) for cell in row] for row in facts.rows)
    return f"{table(prose(facts.title), facts.columns, rows)}\n{prose(facts.note)}"


def code_span(text: str) -> str:
    """Write foreign text as a code span that also holds in a table."""
    line = words.one_line(text, _NAME_LIMIT)
    if not line:
        return ""
    fence = "`" * (1 + max((len(ticks) for ticks in _TICKS.findall(line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}".replace("|", "\\|")


def prose(text: str) -> str:
    """Write a sentence in which nothing is markup; a mention is broken by a word joiner."""
    return _SPECIAL.sub(r"\\\1", words.one_line(text, 1_200)).replace("@", "@\u2060")
