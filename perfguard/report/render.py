"""Writes a result as one offline HTML file: no request leaves it, and nothing in it runs but our own viewer."""

from __future__ import annotations

import base64
import hashlib
import math
import os
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from perfguard import __version__
from perfguard.model.errors import PerfguardError
from perfguard.model.result import SCHEMA_VERSION, BisectResult
from perfguard.report import assets
from perfguard.report.charts import posterior_chart, revision_chart, trial_chart
from perfguard.report.drawing import Chart
from perfguard.report.clean import AnyResult, clean
from perfguard.report.flame import Packed, pack
from perfguard.report.view import Page, build_page, marks_of

SIZE_BUDGET_BYTES = 5_000_000
_FEWEST_REVISIONS_FOR_A_LINE = 3


def render_html(result: AnyResult, *, budget_bytes: int = SIZE_BUDGET_BYTES) -> str:
    """Give the whole report as one HTML document.

    Where it would be larger than `budget_bytes`, the smallest stacks are left out of the flamegraph, and the page says
    so; everything else is bounded by itself. Home directories and secrets are redacted.
    """
    shown = clean(result, home=str(Path.home()))
    page = build_page(shown)
    charts = _charts(shown)
    grown = getattr(shown, "grown_frames", ())
    flame = pack(page.sides, grown, budget_bytes=budget_bytes) if page.sides else None
    document = _document(page, charts, flame)
    size_bytes = len(document.encode())
    if flame is not None and size_bytes > budget_bytes:
        room_bytes = budget_bytes - (size_bytes - len(flame.text)) - 1_000  # the sentence about pruning grows
        document = _document(page, charts, pack(page.sides, grown, budget_bytes=max(0, room_bytes)))
    return document


def write_report(result: AnyResult, path: Path) -> Path:
    """Write the report of `result` to `path` in one step, so that no reader ever sees half a file; gives `path`.

    Raises:
        PerfguardError: the file cannot be written there.
    """
    document = render_html(result)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(document, encoding="utf-8")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise PerfguardError(
            f"cannot write the report to {path}: {error.strerror or error}",
            hint="name a file in a directory that exists and that you may write to",
        ) from error
    return path


def _charts(result: AnyResult) -> tuple[Chart, ...]:
    """Draw revisions where there are enough of them to see a step, and single trials where there are two to compare."""
    if len(result.revisions) >= _FEWEST_REVISIONS_FOR_A_LINE:
        drawn = [revision_chart(result.revisions, result.run, marks_of(result))]
    else:
        known = {
            name: summary.revision.label
            for summary in result.revisions
            for name in (summary.revision.commit, summary.revision.label)
        }
        tried = dict.fromkeys(trial.revision for trial in sorted(result.trials, key=lambda trial: trial.number))
        by_index = {name: place for place, name in enumerate(known)}
        ordered = sorted(tried, key=lambda revision: by_index.get(revision, math.inf))
        drawn = [trial_chart(result.trials, {each: known.get(each, each) for each in ordered}, result.run)]
    if isinstance(result, BisectResult):
        drawn.insert(0, posterior_chart(result))
    return tuple(chart for chart in drawn if chart is not None)


def _document(page: Page, charts: tuple[Chart, ...], flame: Packed | None) -> str:
    style, script = assets.style(), assets.viewer_script()
    policy = (
        f"default-src 'none'; style-src '{_csp_hash(style)}'; script-src '{_csp_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            charts=[(chart, Markup(chart.svg)) for chart in charts],  # noqa: S704 - built by `charts`, escaped there
            flame=flame,
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            policy=policy,
            version=__version__,
            schema_version=SCHEMA_VERSION,
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("perfguard.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
