"""Which commits are likelier culprits, from the frames that grew between the ends of the range.

A commit that edits a function that grew weighs most, one that edits its file weighs more, and no commit ever weighs
nothing: evidence steers the search, it does not filter it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from perfguard.model.result import GrownFrame
from perfguard.model.revision import Hunk

# Weights beside 1 for a commit that touches nothing of what grew. A frame that is new counts fully, one that grew by a
# tenth counts a tenth: the main loop grows with everything below it, and tells little.
FUNCTION_WEIGHT = 30.0
# For the commit that writes a function which the good end did not have: hardly another can have made it grow. What a
# wrong weight costs is bounded elsewhere, by mixing every prior with an even one.
WRITTEN_WEIGHT = 400.0
# A frame that grew by this share of itself was not there before.
_NEW_SHARE = 0.99
FILE_WEIGHT = 6.0

_DEFINITION = re.compile(r"^[ +-]?\s*(?:async\s+)?def\s+(\w+)")
_FRAME = re.compile(r"^(?P<function>.*?) \((?P<file>[^()]*)\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one commit changed: paths relative to the repository, and (path, function) pairs that its hunks touch.

    `written` are those functions whose definition a hunk adds and none takes away.
    """

    files: frozenset[str]
    functions: frozenset[tuple[str, str]]
    written: frozenset[tuple[str, str]] = frozenset()


def change_of(hunks: Sequence[Hunk]) -> Change:
    """Return what a commit's hunks touch; a function is seen where its `def` stands in the hunk or its context."""
    lines = [
        (line[:1], (hunk.path, match[1]))
        for hunk in hunks
        for line in hunk.text.splitlines()
        if (match := _DEFINITION.match(line))
    ]
    added, kept = ({key for sign, key in lines if (sign == "+") is new} for new in (True, False))
    return Change(
        files=frozenset(hunk.path for hunk in hunks),
        functions=frozenset(added | kept),
        written=frozenset(added - kept),
    )


def evidence_prior(changes: Sequence[Change], grown: Sequence[GrownFrame]) -> tuple[float, ...]:
    """Return one weight a revision: `changes[k]` is commit k's (entry 0, the good end's, gets weight 0).

    `grown` are the frames of the endpoints' comparison; those that did not grow beyond the noise are ignored, and
    without any the weights are equal.
    """
    shares: dict[tuple[str, str], float] = {}
    for frame in grown:
        growth = frame.after_ms_per_request - frame.before_ms_per_request
        match = _FRAME.match(frame.frame)
        if not frame.significant or growth <= 0.0 or match is None:
            continue
        # Later Pythons name a frame with its class; a hunk does not.
        key = (match["file"], match["function"].rpartition(".")[2])
        shares[key] = max(shares.get(key, 0.0), growth / frame.after_ms_per_request)
    return (0.0, *(_weight(change, shares) for change in changes[1:]))


def _weight(change: Change, shares: dict[tuple[str, str], float]) -> float:
    edited = max(
        (share for (file, name), share in shares.items() if _touches(change.functions, file, name)),
        default=0.0,
    )
    written = any(
        share >= _NEW_SHARE and _touches(change.written, file, name) for (file, name), share in shares.items()
    )
    beside = max(
        (share for (file, _), share in shares.items() if any(_same_file(path, file) for path in change.files)),
        default=0.0,
    )
    return 1.0 + FUNCTION_WEIGHT * edited + FILE_WEIGHT * beside + WRITTEN_WEIGHT * written


def _touches(functions: Collection[tuple[str, str]], file: str, name: str) -> bool:
    return any(touched.rpartition(".")[2] == name and _same_file(path, file) for path, touched in functions)


def _same_file(path: str, file: str) -> bool:
    """Whether a path of the repository (`python/pkg/a.py`) is what a frame calls by its import path (`pkg/a.py`)."""
    return path == file or path.endswith("/" + file)
