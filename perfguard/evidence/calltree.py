"""The call paths of two sides in one tree: which function explains the growth, and which holds work that merely moved.

Costs are means over trials, in CPU milliseconds per request. A function is *new* where the first side spent next to
nothing in it. The *stable caller* of a call path is the innermost frame above it that is not new: both sides ran it.

A growth is *supported* as far as the stable caller above it grew too. Code that is wrapped in a new function, renamed
or moved to a sibling makes a frame grow from nothing while its stable caller stays as it was. A caller is the same on
both sides also where a function was put in above it, or taken out. What starts a thread or works off a pool's queue
runs anything, so it is no stable caller: work that moved to another thread is held against the whole role.
Source: the cost-shift filter of FBDetect (SOSP 2024): a callee's loss is another's gain under a stable parent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perfguard.evidence.stacks import function_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from perfguard.evidence.cost import StackCosts
    from perfguard.model.profile import Frame

# Rather over half, so that only one child can qualify.
_EXPLAINS = 0.6
# A function that cost this share of what it costs after was as good as absent (a stray sample, a path that is rarely
# taken).
_NEW_SHARE = 0.05
# A new function that takes over old work and adds a fifth to it is still the place to look; less is within the noise of
# the work.
_MIN_SUPPORT = 0.2
# Files whose functions run whatever they are given.
_RUNNERS = ("threading.py)", "concurrent/futures/thread.py)")


@dataclass(slots=True, kw_only=True)
class Node:
    """One call path: the mean cost of everything beneath it on either side."""

    name: str
    before_ms: float = 0.0
    after_ms: float = 0.0
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def growth_ms(self) -> float:
        """After minus before."""
        return self.after_ms - self.before_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTree:
    """One role's call paths under a nameless root.

    `growth_ms` is the growth of every function's total, `supported_ms` how much of it its stable callers show too, and
    `new` the functions that are new.
    """

    root: Node
    growth_ms: dict[str, float]
    supported_ms: dict[str, float]
    new: frozenset[str]

    def reverse(self) -> CallTree:
        """Return the tree with its sides exchanged: what shrank grew."""
        return _finish(_swapped(self.root))

    def is_moved(self, name: str) -> bool:
        """Tell whether a function that grew holds work which was done elsewhere before."""
        return self.supported_ms[name] < _MIN_SUPPORT * self.growth_ms[name]

    def explaining(self) -> str | None:
        """Return the function that explains why the role costs more, or None where it does not.

        Walks from the root to the child that grew most while that child has at least 60% of its parent's growth. The
        outermost function on the way that is new, and not merely moved, is where the new work is entered; without one,
        the innermost function of the way is where the old work became dearer.
        """
        if self.root.growth_ms <= 0.0:
            return None
        node, way = self.root, []
        while (child := _carrier(node)) is not None:
            way.append(child.name)
            node = child
        entered = (name for name in way if name in self.new and not self.is_moved(name))
        return next(entered, way[-1] if way else None)

    def mere_callers(self) -> frozenset[str]:
        """Return the functions that are not new and whose growth, over all paths, one callee explains."""
        by_edge: dict[tuple[str, str], float] = {}
        for _, parent, child in _edges(self.root):
            edge = (parent.name, child.name)
            by_edge[edge] = by_edge.get(edge, 0.0) + child.growth_ms
        return frozenset(
            caller
            for (caller, callee), growth_ms in by_edge.items()
            if caller not in {"", callee}
            and caller not in self.new
            and growth_ms >= _EXPLAINS * self.growth_ms[caller] > 0.0
        )


def build_call_tree(before: Sequence[StackCosts], after: Sequence[StackCosts]) -> CallTree:
    """Put both sides' working stacks of one role into a tree, by function: lines move between revisions."""
    root = Node(name="")
    names: dict[Frame, str] = {}
    for side, trials in enumerate((before, after)):
        for trial in trials:
            for frames, cost_ms in trial.working.items():
                for frame in frames:
                    if frame not in names:
                        names[frame] = function_key(frame)
                _add(root, [names[frame] for frame in frames], side, cost_ms / len(trials))
    return _finish(root)


def _add(root: Node, names: Sequence[str], side: int, cost_ms: float) -> None:
    node = root
    if side == 0:
        node.before_ms += cost_ms
    else:
        node.after_ms += cost_ms
    for name in names:
        child = node.children.get(name)
        if child is None:
            child = node.children[name] = Node(name=name)
        node = child
        if side == 0:
            node.before_ms += cost_ms
        else:
            node.after_ms += cost_ms


def _finish(root: Node) -> CallTree:
    totals: dict[str, list[float]] = {}
    for path, _, child in _edges(root):
        if all(node.name != child.name for node in path):  # a recursion is part of its outermost call
            total = totals.setdefault(child.name, [0.0, 0.0])
            total[0] += child.before_ms
            total[1] += child.after_ms
    new = frozenset(name for name, (before_ms, after_ms) in totals.items() if before_ms <= _NEW_SHARE * after_ms)
    gone = {name for name, (before_ms, after_ms) in totals.items() if after_ms <= _NEW_SHARE * before_ms}
    return CallTree(
        root=root,
        growth_ms={name: after_ms - before_ms for name, (before_ms, after_ms) in totals.items()},
        supported_ms=_supported(root, totals, new, _aligned(root, new | gone)),
        new=new,
    )


def _swapped(node: Node) -> Node:
    """Copy a tree with its sides exchanged."""
    copy = Node(name=node.name)
    waiting = [(node, copy)]
    while waiting:
        source, target = waiting.pop()
        target.before_ms, target.after_ms = source.after_ms, source.before_ms
        for name, child in source.children.items():
            target.children[name] = Node(name=name)
            waiting.append((child, target.children[name]))
    return copy


def _carrier(node: Node) -> Node | None:
    """Return the child that grew most if it explains its parent's growth."""
    child = max(node.children.values(), key=lambda child: child.growth_ms, default=None)
    if child is None or child.growth_ms <= 0.0 or child.growth_ms < _EXPLAINS * node.growth_ms:
        return None
    return child


def _edges(root: Node) -> Iterator[tuple[tuple[Node, ...], Node, Node]]:
    """Yield every (path from the root to the parent, parent, child)."""
    waiting: list[tuple[Node, ...]] = [(root,)]
    while waiting:
        path = waiting.pop()
        for child in path[-1].children.values():
            yield path, path[-1], child
            waiting.append((*path, child))


def _aligned(root: Node, one_sided: Collection[str]) -> dict[int, Node]:
    """Return, by the `id` of every node, the one for the same callers once functions of one side only are left out."""
    nodes = {id(root): Node(name="", before_ms=root.before_ms, after_ms=root.after_ms)}
    for _, parent, child in _edges(root):
        above = nodes[id(parent)]
        if child.name in one_sided:
            nodes[id(child)] = above
            continue
        node = above.children.setdefault(child.name, Node(name=child.name))
        node.before_ms += child.before_ms
        node.after_ms += child.after_ms
        nodes[id(child)] = node
    return nodes


def _supported(
    root: Node, names: dict[str, list[float]], new: frozenset[str], aligned: dict[int, Node]
) -> dict[str, float]:
    """Sum, for each function, over its stable callers: its growth beneath the caller, but at most the caller's own."""
    beneath: dict[tuple[str, int], float] = {}
    stable: dict[int, Node] = {}
    for path, _, child in _edges(root):
        if any(node.name == child.name for node in path):
            continue  # a recursion is part of its outermost call
        inner = next(node for node in reversed(path) if node.name not in new and not node.name.endswith(_RUNNERS))
        caller = aligned[id(inner)]
        stable[id(caller)] = caller
        key = (child.name, id(caller))
        beneath[key] = beneath.get(key, 0.0) + child.growth_ms
    supported = dict.fromkeys(names, 0.0)
    for (name, caller_id), growth_ms in beneath.items():
        supported[name] += min(growth_ms, stable[caller_id].growth_ms) if growth_ms > 0.0 else growth_ms
    return supported
