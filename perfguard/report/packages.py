"""Which code is whose: the package of a frame's file, and which package is the server's own.

A reader who hides library frames wants the server's frames left. Profilers write paths in many ways (absolute, or from
the import path's entry on), so the package is told from the shape of the path.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

STANDARD_LIBRARY = "(standard library)"
_FILE = re.compile(r"\((?P<file>[^()]*?)(?::\d+)?\)\Z")
_INSTALLED = re.compile(r"(?:.*/)?(?:site|dist)-packages/(?P<rest>.+)")
_STANDARD = re.compile(r"(?:.*/)?lib(?:64)?/python\d[^/]*/")


def package_of(frame: str) -> str:
    """Name the top-level package of a frame `function (file:line)`; an empty string where it has no file."""
    match = _FILE.search(frame)
    if match is None:
        return ""
    file = match["file"]
    installed = _INSTALLED.match(file)
    if installed is None and (file.startswith("<") or _STANDARD.match(file)):
        return STANDARD_LIBRARY
    parts = (installed["rest"] if installed else file).split("/")
    if file.startswith(("/", "~")) and installed is None:
        parts = parts[-2:]  # of an absolute path only the last directory says what the code belongs to
    name = parts[0].removesuffix(".py")
    is_standard = name in sys.stdlib_module_names and not file.startswith(("/", "~"))
    return STANDARD_LIBRARY if is_standard else name


def own_package(stacks: Iterable[tuple[tuple[str, ...], float]]) -> str:
    """Name the package that the server is: the outermost one of a stack that is no standard library, by time.

    A server's entry point lies above every library that it calls. An empty string where no stack has such a frame.
    """
    packages: dict[str, str] = {}
    weights: dict[str, float] = defaultdict(float)
    for frames, ms in stacks:
        for frame in frames:
            if frame not in packages:
                packages[frame] = package_of(frame)
            package = packages[frame]
            if package and package != STANDARD_LIBRARY:
                weights[package] += ms
                break
    return max(sorted(weights), key=lambda package: weights[package], default="")
