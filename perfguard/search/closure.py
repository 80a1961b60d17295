"""Which commits can have changed behaviour: those that touch what the server loads, opens or is installed from.

The others collapse into their parent, so that the search chooses among fewer. The files are those that the server
processes report at both ends of the range; what only a revision in between loads is not known beforehand, so the
closure is checked at the end: `hidden_commits` with the files of the culprit's neighbours.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """The commits that can matter, as indices of the range (0 is the good end, which is always kept).

    `representatives[r]` is the first revision of group r; every revision behaves as its group's representative.
    """

    representatives: tuple[int, ...]
    revisions: int

    @property
    def can_matter(self) -> int:
        """How many commits after the good end can have changed behaviour."""
        return len(self.representatives) - 1

    def group(self, index: int) -> int:
        """Return the group of revision `index`: the place of its representative.

        Raises:
            ValueError: there is no such revision.
        """
        if not 0 <= index < self.revisions:
            raise ValueError(f"revision {index} is not one of {self.revisions}")
        return bisect.bisect_right(self.representatives, index) - 1

    def members(self, group: int) -> range:
        """Return the revisions of a group, its representative first.

        Raises:
            ValueError: there is no such group.
        """
        if not 0 <= group < len(self.representatives):
            raise ValueError(f"group {group} is not one of {len(self.representatives)}")
        following = (*self.representatives[1:], self.revisions)[group]
        return range(self.representatives[group], following)

    def describe(self) -> str:
        """Render as `745 commits, 212 can matter`."""
        commits = self.revisions - 1
        return f"{commits} commit{'' if commits == 1 else 's'}, {self.can_matter} can matter"


def close(changed: Sequence[Collection[str]], used: Collection[str], pins: Collection[str] = ()) -> Closure:
    """Collapse every commit that touches nothing that is used into its parent.

    `changed[k]` are the paths that commit k changed against its parent, both names of a renamed file (entry 0, the
    good end's, is ignored); `used` the paths that the server loaded or opened at either end; `pins` patterns
    (`python/pyproject.toml`, `*/requirements*.txt`) of files that decide what is installed or built. All are relative
    to the repository.

    Raises:
        ValueError: `changed` is empty.
    """
    if not changed:
        raise ValueError("a range holds one revision at least")
    known = frozenset(used)
    kept = [0]
    kept += [index for index in range(1, len(changed)) if _matters(changed[index], known, pins)]
    return Closure(representatives=tuple(kept), revisions=len(changed))


def keep_all(revisions: int) -> Closure:
    """Return the closure that collapses nothing, for when it is turned off or not known."""
    return Closure(representatives=tuple(range(revisions)), revisions=revisions)


def hidden_commits(closure: Closure, changed: Sequence[Collection[str]], used: Collection[str]) -> tuple[int, ...]:
    """Return the commits that were collapsed although they touch a file of `used`.

    `used` is what the culprit's neighbours loaded. Empty: the closure holds. Otherwise the answer stands only after a
    search that keeps these too (`close` with the union of the files).
    """
    kept, known = frozenset(closure.representatives), frozenset(used)
    return tuple(
        index for index in range(1, len(changed)) if index not in kept and not known.isdisjoint(changed[index])
    )


def _matters(paths: Collection[str], used: frozenset[str], pins: Collection[str]) -> bool:
    return not used.isdisjoint(paths) or any(fnmatchcase(path, pin) for path in paths for pin in pins)
