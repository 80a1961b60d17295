"""The page of a study: heat maps first, then the threshold, the claims, and every number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.report import words
from perfguard.report.clean import clean
from perfguard.report.document import make_document, write_document
from perfguard.report.study_chart import winner_chart
from perfguard.report.study_rows import (
    break_even_table,
    cell_table,
    claim_table,
    left_out_note,
    limit_table,
    pages_table,
    ratio_table,
    received_table,
    untestable_notes,
)
from perfguard.report.view import Banner

if TYPE_CHECKING:
    from perfguard.model.study import StudyResult


def render_study(result: StudyResult) -> str:
    """Give the page as one offline HTML document. Home directories and secrets are redacted."""
    shown = clean(result, home=str(Path.home()))
    charts = [
        chart
        for ranks in shown.spec.ranks
        for pages in shown.spec.memory_pages
        if (chart := winner_chart(shown, ranks, pages)) is not None
    ]
    tables = (cell_table(shown), ratio_table(shown), pages_table(shown), limit_table(shown), received_table(shown))
    return make_document(
        "study.html.j2",
        script="",
        charts=charts,
        title=f"Study of {words.one_line(shown.revision.label, 60)}: {words.one_line(shown.spec.name, 60)}",
        banner=_banner(shown),
        notes=[note for note in (left_out_note(shown), *untestable_notes(shown)) if note],
        threshold=shown.threshold.sentence,
        break_evens=break_even_table(shown),
        claims=claim_table(shown),
        tables=[table for table in tables if table is not None],
        target=shown.spec.target.value,
        spec=shown.spec,
        legend=[(place, strategy.value) for place, strategy in enumerate(shown.spec.strategies)],
        environment=shown.run.environment,
        stand_ins=shown.run.stand_ins,
        run=shown.run,
        wall=words.seconds(shown.run.wall_s),
        command=shown.run.command,
    )


def write_study(result: StudyResult, path: Path) -> Path:
    """Write the page to `path` in one step; gives `path`.

    Raises:
        PerfguardError: the file cannot be written there.
    """
    return write_document(render_study(result), path)


def _banner(result: StudyResult) -> Banner:
    facts = (
        words.counted(len(result.trials), "trial"),
        words.counted(len({trial.block for trial in result.trials}), "block"),
        words.counted(len({trial.start for trial in result.trials}), "start") + " of every strategy",
        words.seconds(result.run.wall_s),
        result.spec.target.value,
    )
    return Banner(look="run", sign="#", label="Measured", sentence=words.shorten(result.sentence, 1000), facts=facts)
