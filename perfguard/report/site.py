"""Writes the guard's site: an index and a page a series. Every file is offline and complete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.report.document import make_document, write_document
from perfguard.report.night_chart import night_chart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.report.site_view import SeriesPage

INDEX = "index.html"


def render_site_index(pages: Sequence[SeriesPage]) -> str:
    """Give the first page: what the newest night of every series says."""
    return make_document("site_index.html.j2", script="", title="perfguard: the nights", pages=pages)


def render_series(page: SeriesPage) -> str:
    """Give the page of a series."""
    chart = night_chart(page.points, metric=page.metric, larger_is_better=page.larger_is_better, name="trend")
    return make_document(
        "site_series.html.j2",
        script="",
        charts=[chart] if chart else [],
        title=f"{page.scenario} on {page.branch}",
        page=page,
        index=INDEX,
    )


def write_site(pages: Sequence[SeriesPage], folder: Path) -> Path:
    """Write the pages into `folder`, the index last; gives the index.

    Raises:
        PerfguardError: a file cannot be written there.
    """
    for page in pages:
        write_document(render_series(page), folder / page.path)
    return write_document(render_site_index(pages), folder / INDEX)
