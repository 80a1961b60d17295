"""How every chart is drawn: matplotlib draws, the page's style sheet colours, and the SVG stands in the page.

Text stays text, nothing in the SVG needs an inline style (the page's CSP forbids it), black becomes `currentColor`,
and the same data gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

CLASS = "class:"  # a gid that begins so names the look of an element, not its id
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawn chart, and its numbers as a table. `svg` is trusted markup: every text in it is escaped."""

    name: str
    title: str
    svg: str
    columns: tuple[str, ...]
    table: tuple[tuple[str, ...], ...]


@contextmanager
def drawing() -> Iterator[None]:
    """Set matplotlib up for one drawing; a glyph that it cannot measure is the browser's to draw."""
    with warnings.catch_warnings(), mpl.rc_context(_RC):
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from", category=UserWarning)
        yield


def new_figure(*, height_in: float = 3.6) -> tuple[Figure, Axes]:
    """Make an empty chart of 9 by `height_in` inches; it scales with the page."""
    figure = Figure(figsize=(9.0, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(visible=True, axis="y", color="black", linewidth=0.6, gid=f"{CLASS}grid")
    axes.set_axisbelow(True)
    axes.margins(y=0.15)
    return figure, axes


def write_svg(figure: Figure, *, name: str, description: str) -> str:
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
        if own.startswith(CLASS):
            del element.attrib["id"]
            element.set("class", own.removeprefix(CLASS))
        else:
            element.set("id", f"{name}-{own}")
    for key, value in element.attrib.items():
        if value.startswith("url(#"):
            element.set(key, f"url(#{name}-{value[5:]}")
        elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
