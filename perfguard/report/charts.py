"""Charts as inline SVG: matplotlib draws, the page's style sheet colours.

Text stays text, nothing in the SVG needs an inline style (the page's CSP forbids it), black becomes `currentColor`,
and the same data gives the same bytes.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from perfguard.report import words
from perfguard.report.rows import metric_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from perfguard.model.result import RevisionSummary, RunInfo
    from perfguard.model.trial import Trial

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "perfguard",
    "text.parse_math": False,
    "font.size": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_CLASS = "class:"
_LABEL_LIMIT = 16
_MOST_LABELS = 14
_MOST_LEVEL_LABELS = 5
_MARKERS = ("o", "s", "D", "^", "v", "P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawn chart, and its numbers as a table. `svg` is trusted markup: every text in it is escaped."""

    name: str
    title: str
    svg: str
    columns: tuple[str, ...]
    table: tuple[tuple[str, ...], ...]


def revision_chart(revisions: Sequence[RevisionSummary], run: RunInfo, marks: Mapping[str, str]) -> Chart | None:
    """Draw the user metric of every revision with its interval, in first-parent order; None where none was measured.

    `marks` maps a commit to its part (`good`, `bad`, `culprit`, ...), which is written beside its point.
    """
    ordered = sorted(revisions, key=lambda summary: summary.index)
    values = [_positive(summary.metric_mean) for summary in ordered]
    if not any(value is not None for value in values):
        return None
    with _drawing():
        figure, axes = _figure()
        for place, (summary, value) in enumerate(zip(ordered, values, strict=True)):
            _draw_revision(axes, place, summary, value, marks.get(summary.revision.commit, ""))
        _mark_untestable(axes, [place for place, value in enumerate(values) if value is None])
        keep = {i for i, summary in enumerate(ordered) if summary.revision.commit in marks}
        _label_places(axes, [summary.revision.label for summary in ordered], keep)
        axes.set_ylabel(_axis(run.metric))
        axes.set_xlabel("revision, oldest first")
        title = f"{words.metric_name(run.metric)} per revision"
        better = "larger is better" if run.larger_is_better else "smaller is better"
        tested = sum(value is not None for value in values)
        described = (
            f"{title}, {better}: {tested} measured, {len(values) - tested} untestable. The numbers follow as a table."
        )
        svg = _write(figure, name="revisions", description=described)
    table = tuple(
        (
            str(summary.index),
            words.one_line(summary.revision.label, 60),
            marks.get(summary.revision.commit, ""),
            words.number(summary.metric_mean) if value is not None else "untestable",
            words.number(summary.metric_low),
            words.number(summary.metric_high),
        )
        for summary, value in zip(ordered, values, strict=True)
    )
    columns = ("#", "revision", "part", words.metric_unit(run.metric) or run.metric, "low", "high")
    note = f"{title} ({better}; x: untestable)" if tested < len(values) else f"{title} ({better})"
    return Chart(name="revisions", title=note, svg=svg, columns=columns, table=table)


def trial_chart(trials: Sequence[Trial], labels: Mapping[str, str], run: RunInfo) -> Chart | None:
    """Draw the user metric of every trial in running order, a marker for each revision; None where none was measured.

    `labels` maps a trial's revision to what people call it, in the order of the legend.
    """
    ordered = sorted(trials, key=lambda trial: trial.number)
    values = [_positive(metric_of(trial, run.metric)) for trial in ordered]
    if not any(value is not None for value in values):
        return None
    with _drawing():
        figure, axes = _figure()
        for turn, (revision, label) in enumerate(labels.items()):
            points = [
                (trial.number, value)
                for trial, value in zip(ordered, values, strict=True)
                if trial.revision == revision and value is not None
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    linestyle="none",
                    marker=_MARKERS[turn % len(_MARKERS)],
                    color="black",
                    label=words.one_line(label, 30).lstrip("_") or "revision",
                    gid=f"{_CLASS}series-{turn % len(_MARKERS)}",
                )
        _mark_untestable(axes, [trial.number for trial, value in zip(ordered, values, strict=True) if value is None])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial, in the order they ran")
        axes.set_ylabel(_axis(run.metric))
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
        _colour_legend(axes)
        title = f"{words.metric_name(run.metric)} per trial"
        svg = _write(figure, name="trials", description=f"{title} in running order. The numbers follow as a table.")
    table = tuple(
        (
            str(trial.number),
            str(trial.block),
            words.one_line(labels.get(trial.revision, trial.revision), 60),
            words.number(value) if value is not None else "untestable",
        )
        for trial, value in zip(ordered, values, strict=True)
    )
    columns = ("trial", "block", "revision", words.metric_unit(run.metric) or run.metric)
    return Chart(name="trials", title=title, svg=svg, columns=columns, table=table)


def _positive(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@contextmanager
def _drawing() -> Iterator[None]:
    """Set matplotlib up for one drawing; a glyph that it cannot measure is the browser's to draw."""
    with warnings.catch_warnings(), mpl.rc_context(_RC):
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(visible=True, axis="y", color="black", linewidth=0.6, gid=f"{_CLASS}grid")
    axes.set_axisbelow(True)
    axes.margins(y=0.15)
    return figure, axes


def _axis(metric: str) -> str:
    unit = words.metric_unit(metric)
    return f"{words.one_line(words.metric_name(metric), 40)}{f' ({unit})' if unit else ''}"


def _draw_revision(axes: Axes, place: int, summary: RevisionSummary, value: float | None, mark: str) -> None:
    if value is None:
        return
    low, high = _positive(summary.metric_low), _positive(summary.metric_high)
    look = f"{_CLASS}{mark or 'point'}"
    if low is not None and high is not None and low <= high:
        axes.plot([place, place], [low, high], color="black", linewidth=2.0, gid=f"{look} interval")
    marker, size = ("D", 8) if mark == "culprit" else ("o", 6)
    axes.plot([place], [value], marker=marker, markersize=size, color="black", gid=look)
    if mark:
        top = high if high is not None and high >= value else value
        axes.annotate(mark, (place, top), xytext=(0, 6), textcoords="offset points", ha="center", gid=look)


def _mark_untestable(axes: Axes, places: Sequence[int]) -> None:
    """Put an x at the foot of the chart: an untestable trial has no value, and must not look like a small one."""
    for turn, place in enumerate(places):
        axes.plot(
            [place],
            [0.02],
            transform=axes.get_xaxis_transform(),
            marker="x",
            markersize=7,
            markeredgewidth=2,
            color="black",
            clip_on=False,
            linestyle="none",
            label="untestable" if turn == 0 else "_",
            gid=f"{_CLASS}untestable",
        )


def _label_places(axes: Axes, labels: Sequence[str], keep: set[int]) -> None:
    """Label the places on the x axis; where there are too many, those of `keep` and every n-th between."""
    step = max(1, math.ceil(len(labels) / _MOST_LABELS))
    shown = [
        place
        for place in range(len(labels))
        if place in keep or (place % step == 0 and not any(abs(place - kept) < step for kept in keep))
    ]
    few = len(shown) <= _MOST_LEVEL_LABELS
    axes.set_xticks(
        shown,
        [words.one_line(labels[place], _LABEL_LIMIT) for place in shown],
        rotation=0 if few else 35,
        ha="center" if few else "right",
        rotation_mode="anchor",
    )
    axes.set_xlim(-0.6, max(0, len(labels) - 1) + 0.6)


def _colour_legend(axes: Axes) -> None:
    legend = axes.get_legend()
    by_label = {line.get_label(): line.get_gid() for line in axes.get_lines()}
    if legend is not None:
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_gid(by_label.get(handle.get_label()))


def _write(figure: Figure, *, name: str, description: str) -> str:
    """Write `figure` as an SVG element that stands in a page: without prolog, metadata, styles or foreign ids."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ET.fromstring(written.getvalue())  # noqa: S314 - matplotlib has just written it
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _style_to_attributes(element)
        _own_ids(element, name)
        for key in ("fill", "stroke"):
            if element.get(key) in ("#000000", "black"):
                element.set(key, "currentColor")
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-label", description)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return ET.tostring(root, encoding="unicode")


def _style_to_attributes(element: ET.Element) -> None:
    """Turn `style="fill: none"` into `fill="none"`: a CSP without unsafe-inline drops style attributes."""
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = declaration.partition(":")
        key, value = key.strip(), value.strip()
        if key == "font":
            size = re.search(r"[\d.]+px", value)
            element.set("font-size", size[0] if size else "11px")
        elif key and key != "font-family":
            element.set(key, value)
    is_text = element.tag == f"{{{_SVG}}}text"
    if is_text and "fill" not in element.attrib:
        element.set("fill", "currentColor")
    if not is_text and element.tag == f"{{{_SVG}}}path" and "fill" not in element.attrib:
        element.set("fill", "currentColor")


def _own_ids(element: ET.Element, name: str) -> None:
    """Make ids unique in the page, and turn the gids that name a look into classes."""
    if own := element.get("id"):
        if own.startswith(_CLASS):
            del element.attrib["id"]
            element.set("class", own.removeprefix(_CLASS))
        else:
            element.set("id", f"{name}-{own}")
    for key, value in element.attrib.items():
        if value.startswith("url(#"):
            element.set(key, f"url(#{name}-{value[5:]}")
        elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
