"""Call trees of several sides as one, flat and in preorder: a depth and a frame a node, and a self time a side.

Flat lists, not objects: a report may hold hundreds of thousands of nodes, and a stack may be deeper than Python's own.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Numbers = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The merged call tree of one role. `depth` counts from 0, the sides' self times stand in `self_ms[side][node]`.

    `classes[side][node]` is the number of what is known of the stack that ends in a node, its class and its thread (0:
    nothing); `classes` is empty where nothing is known. `weights[node]` is the largest total of any side: what a node
    is worth keeping for.
    """

    depth: list[int]
    frame: list[int]
    self_ms: list[list[float]]
    classes: list[list[int]]
    weights: list[float]

    @property
    def stacks(self) -> int:
        """How many distinct stacks there are: nodes with a self time on any side."""
        return sum(1 for selfs in zip(*self.self_ms, strict=True) if any(selfs))


def merge(sides: Sequence[Mapping[Numbers, tuple[float, int]]]) -> Tree:
    """Merge the stacks of every side, each root first with its self time and class, into one tree.

    Siblings are in the order of their numbers.
    """
    depth: list[int] = []
    frame: list[int] = []
    self_ms: list[list[float]] = [[] for _ in sides]
    classes: list[list[int]] = [[] for _ in sides]
    previous: Numbers = ()
    for stack in sorted(set().union(*sides)):
        shared = _shared_length(previous, stack)
        added = len(stack) - shared
        depth += range(shared, len(stack))
        frame += stack[shared:]
        for side, selfs, marks in zip(sides, self_ms, classes, strict=True):
            ms, mark = side.get(stack, (0.0, 0))
            selfs.extend([*[0.0] * (added - 1), ms])
            marks.extend([*[0] * (added - 1), mark])
        previous = stack
    is_classed = any(any(marks) for marks in classes)
    weights = [max(totals) for totals in zip(*(_totals(depth, selfs) for selfs in self_ms), strict=True)]
    return Tree(depth=depth, frame=frame, self_ms=self_ms, classes=classes if is_classed else [], weights=weights)


def _shared_length(one: Numbers, other: Numbers) -> int:
    """Count the frames that two stacks share from the root on; by halving, since neighbours share most."""
    most = min(len(one), len(other))
    return bisect_left(range(most), 1, key=lambda n: one[: n + 1] != other[: n + 1])


def _totals(depth: list[int], self_ms: list[float]) -> list[float]:
    """Sum the self times under every node: children come after their parents."""
    totals = self_ms.copy()
    open_ms: list[float] = []  # what the nodes seen so far add to their parents, by depth
    for node in range(len(depth) - 1, -1, -1):
        level = depth[node]
        while len(open_ms) <= level + 1:
            open_ms.append(0.0)
        totals[node] += open_ms[level + 1]
        open_ms[level + 1] = 0.0
        open_ms[level] += totals[node]
    return totals


def pruned(tree: Tree, floor_ms: float, frame: int) -> Tree:
    """Take out all nodes of less than `floor_ms`; each caller gets one node `frame` that holds their time."""
    kept = _Growing(tree, frame)
    for node, level in enumerate(tree.depth):
        kept.close_from(level)
        if tree.weights[node] >= floor_ms:
            kept.keep(node)
        else:
            kept.fold(node)
    kept.close_from(-1)
    weights = [max(totals) for totals in zip(*(_totals(kept.depth, selfs) for selfs in kept.self_ms), strict=True)]
    return Tree(depth=kept.depth, frame=kept.frame, self_ms=kept.self_ms, classes=kept.classes, weights=weights)


class _Growing:
    """What is left of a tree, written node by node; `_deepest` is the depth of the innermost node still open."""

    def __init__(self, tree: Tree, lost_frame: int) -> None:
        self._tree = tree
        self._lost_frame = lost_frame
        self._lost_ms: dict[int, list[float]] = {}  # by the depth of the caller that it is folded into
        self._deepest = -1
        self.depth: list[int] = []
        self.frame: list[int] = []
        self.self_ms: list[list[float]] = [[] for _ in tree.self_ms]
        self.classes: list[list[int]] = [[] for _ in tree.classes]

    def keep(self, node: int) -> None:
        tree = self._tree
        self._write(tree.depth[node], tree.frame[node], [selfs[node] for selfs in tree.self_ms])
        for marks, theirs in zip(self.classes, tree.classes, strict=True):
            marks.append(theirs[node])
        self._deepest = tree.depth[node]

    def fold(self, node: int) -> None:
        lost = self._lost_ms.setdefault(self._deepest, [0.0] * len(self._tree.self_ms))
        for side, selfs in enumerate(self._tree.self_ms):
            lost[side] += selfs[node]

    def close_from(self, depth: int) -> None:
        """Close the open nodes of this depth and below, the innermost first; -1 is the root of all."""
        while self._deepest >= depth:
            if lost := self._lost_ms.pop(self._deepest, None):
                self._write(self._deepest + 1, self._lost_frame, lost)
                for marks in self.classes:
                    marks.append(0)
            self._deepest -= 1

    def _write(self, depth: int, frame: int, self_ms: list[float]) -> None:
        self.depth.append(depth)
        self.frame.append(frame)
        for selfs, ms in zip(self.self_ms, self_ms, strict=True):
            selfs.append(ms)
