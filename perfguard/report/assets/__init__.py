"""The page's style sheet and its viewer, as they are put into a report: inline, without a build step."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_IMPORT = re.compile(r"""^import [^;]*? from "\./(?P<name>[\w-]+)\.js";\n""", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
_COMMENT_LINE = re.compile(r"^\s*//.*\n", re.MULTILINE)


@cache
def style() -> str:
    """Give the style sheet of every page."""
    return _read("report.css")


@cache
def viewer_script() -> str:
    """Give the viewer's modules as one classic script.

    A module stands after those it imports, all in one scope: a name may be exported once only, and renaming imports are
    not supported. Comments stay in the sources.
    """
    return _bundle("main")


@cache
def index_script() -> str:
    """Give the script that sorts and filters the index of many runs."""
    return _bundle("index")


def _bundle(entry: str) -> str:
    ordered: list[str] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in above:
            raise ValueError(f"the viewer's modules import each other in a circle: {' > '.join((*above, name))}")
        source = _read(f"viewer/{name}.js")
        for match in _IMPORT.finditer(source):
            visit(match["name"], (*above, name))
        ordered.append(name)

    visit(entry, ())
    bodies = [_COMMENT_LINE.sub("", _EXPORT.sub("", _IMPORT.sub("", _read(f"viewer/{name}.js")))) for name in ordered]
    return '(() => {\n"use strict";\n' + "\n".join(bodies) + "})();\n"


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
