"""From frame to commit: which of a culprit's changed lines the growth lies under.

A line that the commit added, or the one that stands where it only took lines away, is *on* a stack when a frame of the
stack was sampled at it. What a commit slowed down without being on the stack itself (a dependency, a setting, data)
shows as growth under none of its lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from perfguard.evidence.calltree import CallTree, build_call_tree
from perfguard.evidence.stacks import function_key
from perfguard.model.revision import Hunk

if TYPE_CHECKING:
    from perfguard.evidence.cost import StackCosts
    from perfguard.evidence.diff import TrialCosts
    from perfguard.model.profile import Frame

# Less than this of the growth is within the noise of the rest.
_MIN_SHARE = 0.1
_WORTH_SAYING = 0.01
_MANIFESTS = ("pyproject.toml", "setup.py", "setup.cfg", "requirements", "poetry.lock", "uv.lock", "Pipfile")


@dataclass(frozen=True, slots=True, kw_only=True)
class LineGrowth:
    """A changed line that stacks ran through: what lies under it after, and how much more that is than before.

    `growth_ms` is in CPU milliseconds per request; a line that is new, and took no other's place, had none before. A
    stack counts for the innermost changed line on it.
    """

    role: str
    function: str
    path: str
    line: int
    is_new: bool
    after_ms: float
    growth_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CulpritLink:
    """How a commit's hunks and the growth fit together, with one sentence that says it.

    `growth_ms` is what the roles that grew cost more per request, `under_ms` how much of it lies under changed lines
    (each stack once), `share` the quotient, at most 1.0 and 0.0 where nothing grew. `lines` has the changed lines on
    grown stacks, the one with the most growth first. `functions` names changed functions that grew though no changed
    line was sampled in them. `manifests` are changed files that pin dependencies.
    """

    sentence: str
    growth_ms: float
    under_ms: float
    share: float
    lines: tuple[LineGrowth, ...]
    functions: tuple[str, ...]
    manifests: tuple[str, ...]


def link_culprit(
    hunks: Sequence[Hunk], before: Sequence[TrialCosts], after: Sequence[TrialCosts], *, label: str = "the commit"
) -> CulpritLink:
    """Join the hunks of a culprit with what grew from its parent to it.

    Args:
        hunks: the commit's hunks; their paths are relative to the repository, files of frames to an import root.
        before: the profiled trials of its parent (or of the good end).
        after: the profiled trials of the culprit (or of the bad end: lines that moved since are then missed).
        label: what to call the commit in the sentence.

    Returns:
        A link whose sentence also says that there is none, or that nothing grew.
    """
    manifests = tuple(sorted({hunk.path for hunk in hunks if _is_manifest(hunk.path)}))
    changed = _Changed(hunks)
    roles = sorted({role for trial in before for role in trial} & {role for trial in after for role in trial})
    lines: list[LineGrowth] = []
    functions: dict[str, float] = {}
    growth_ms = under_ms = 0.0
    for role in roles:
        sides = [[trial[role] for trial in side if role in trial] for side in (before, after)]
        role_growth_ms = _working(sides[1]) - _working(sides[0])
        if role_growth_ms <= 0.0:
            continue
        growth_ms += role_growth_ms
        of_role = _lines(role, changed, sides[0], sides[1])
        lines += of_role
        grown_under_ms = _under(changed, sides[1]) - _under_old(changed, sides[0])
        under_ms += max(0.0, min(grown_under_ms, sum(line.growth_ms for line in of_role if line.growth_ms > 0.0)))
        for name, grown_ms in _grown_functions(changed, sides[0], sides[1]).items():
            functions[name] = functions.get(name, 0.0) + grown_ms
    lines.sort(key=lambda line: (-line.growth_ms, line.path, line.line))
    on_lines = tuple(line for line in lines if line.growth_ms > 0.0)
    share = min(1.0, under_ms / growth_ms) if growth_ms > 0.0 else 0.0
    ranked = sorted(functions, key=lambda name: (-functions[name], name))
    named = tuple(name for name in ranked if functions[name] >= _MIN_SHARE * max(growth_ms, 0.0))
    link = CulpritLink(
        sentence="",
        growth_ms=growth_ms,
        under_ms=under_ms,
        share=share,
        lines=on_lines,
        functions=named,
        manifests=manifests,
    )
    return replace(link, sentence=_sentence(link, label, has_hunks=bool(hunks)))


class _Changed:
    """The lines that hunks added and removed, looked up by the files of frames."""

    def __init__(self, hunks: Sequence[Hunk]) -> None:
        self.added: dict[str, set[int]] = {}
        self.removed: dict[str, set[int]] = {}
        self.touched: dict[str, list[range]] = {}
        self._new: set[tuple[str, int]] = set()
        for hunk in hunks:
            added, removed = _changed_lines(hunk)
            self.added.setdefault(hunk.path, set()).update(added)
            self.removed.setdefault(hunk.path, set()).update(removed)
            self._new.update((hunk.path, line) for line in added if not removed)
            self.touched.setdefault(hunk.path, []).append(
                range(hunk.new_start, hunk.new_start + max(1, hunk.new_lines))
            )
        self._paths: dict[str, str | None] = {}

    def path(self, file: str) -> str | None:
        """Return the changed path that a frame's file is: frames leave off the folders above their import root."""
        if file not in self._paths:
            fitting = [
                path
                for path in self.added
                if path == file or path.endswith(f"/{file}") or (file.startswith("/") and file.endswith(f"/{path}"))
            ]
            # `utils.py` under two roots: the shortest path is the likeliest, being the nearest to an import root.
            self._paths[file] = min(fitting, key=lambda path: (len(path), path)) if fitting and file else None
        return self._paths[file]

    def is_added(self, frame: Frame) -> bool:
        """Tell whether a frame of the culprit was sampled at a line that it added or put in another's place."""
        path = self.path(frame.file)
        return path is not None and frame.line in self.added[path]

    def is_new(self, frame: Frame) -> bool:
        """Tell whether the line was added by a hunk that took nothing away."""
        return (self.path(frame.file) or "", frame.line) in self._new

    def is_removed(self, frame: Frame) -> bool:
        """Tell whether a frame of the parent was sampled at a line that the culprit took away."""
        path = self.path(frame.file)
        return path is not None and frame.line in self.removed[path]


def _changed_lines(hunk: Hunk) -> tuple[set[int], set[int]]:
    """Return the numbers of the lines that a hunk added (in the new file) and removed (in the old one)."""
    added: set[int] = set()
    removed: set[int] = set()
    old, new = hunk.old_start, hunk.new_start
    for line in hunk.text.split("\n"):
        if line.startswith("+"):
            added.add(new)
            new += 1
        elif line.startswith("-"):
            removed.add(old)
            old += 1
        elif line.startswith(" "):
            old, new = old + 1, new + 1
    return added, removed


def _lines(role: str, changed: _Changed, before: Sequence[StackCosts], after: Sequence[StackCosts]) -> list[LineGrowth]:
    """Charge every stack to the innermost changed line on it: callers of it that changed too add nothing."""
    totals = _by_innermost(after, changed.is_added)
    # A line that replaced another is charged only with what it costs more: the function's own changed lines before.
    replaced: dict[str, float] = {}
    for frame, before_ms in _by_innermost(before, changed.is_removed).items():
        replaced[function_key(frame)] = replaced.get(function_key(frame), 0.0) + before_ms
    by_function: dict[str, float] = {}
    for frame, after_ms in totals.items():
        by_function[function_key(frame)] = by_function.get(function_key(frame), 0.0) + after_ms
    tree = build_call_tree(before, after)
    lines = []
    for frame, after_ms in totals.items():
        function = function_key(frame)
        growth_ms = after_ms - replaced.get(function, 0.0) * after_ms / by_function[function]
        if growth_ms > 0.0:
            growth_ms *= _real_share(tree, function)
        line = LineGrowth(
            role=role,
            function=frame.function,
            path=changed.path(frame.file) or frame.file,
            line=frame.line,
            is_new=changed.is_new(frame),
            after_ms=after_ms,
            growth_ms=growth_ms,
        )
        lines.append(line)
    return lines


def _real_share(tree: CallTree, function: str) -> float:
    """Return how much of a function's growth its stable callers show too; the rest was done elsewhere before."""
    grown_ms = tree.growth_ms[function]
    return min(1.0, max(0.0, tree.supported_ms[function] / grown_ms)) if grown_ms > 0.0 else 1.0


def _by_innermost(side: Sequence[StackCosts], is_changed: Callable[[Frame], bool]) -> dict[Frame, float]:
    costs: dict[Frame, float] = {}
    for trial in side:
        for frames, cost_ms in trial.working.items():
            frame = next((frame for frame in reversed(frames) if is_changed(frame)), None)
            if frame is not None:
                costs[frame] = costs.get(frame, 0.0) + cost_ms / len(side)
    return costs


def _grown_functions(changed: _Changed, before: Sequence[StackCosts], after: Sequence[StackCosts]) -> dict[str, float]:
    """Return how much functions grew that hunks reach into, though they were sampled at none of the changed lines."""
    totals_before, totals_after = _totals(before), _totals(after)
    reached: set[str] = set()
    for trial in after:
        for frames in trial.working:
            for frame in frames:
                path = changed.path(frame.file)
                if path is not None and any(frame.line in lines for lines in changed.touched[path]):
                    reached.add(function_key(frame))
    grown = {name: totals_after[name] - totals_before.get(name, 0.0) for name in reached}
    return {name: grown_ms for name, grown_ms in grown.items() if grown_ms > 0.0}


def _totals(side: Sequence[StackCosts]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for trial in side:
        for name, cost_ms in trial.frame_totals().items():
            totals[name] = totals.get(name, 0.0) + cost_ms / len(side)
    return totals


def _working(side: Sequence[StackCosts]) -> float:
    return fmean(trial.working_ms for trial in side)


def _under(changed: _Changed, side: Sequence[StackCosts]) -> float:
    return fmean(
        sum(cost_ms for frames, cost_ms in trial.working.items() if any(map(changed.is_added, frames)))
        for trial in side
    )


def _under_old(changed: _Changed, side: Sequence[StackCosts]) -> float:
    return fmean(
        sum(cost_ms for frames, cost_ms in trial.working.items() if any(map(changed.is_removed, frames)))
        for trial in side
    )


def _is_manifest(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(_MANIFESTS)


def _sentence(link: CulpritLink, label: str, *, has_hunks: bool) -> str:
    if link.growth_ms <= 0.0:
        return f"No role costs more per request after {label}, so there is no growth to explain."
    if link.lines and link.share >= _MIN_SHARE:
        return _sentence_of_lines(link, label)
    if link.functions:
        return (
            f"No changed line was sampled on a grown stack, but {label} changed {link.functions[0]}, which grew: look "
            "at what it now calls, or how often."
        )
    if not has_hunks:
        return f"{_capital(label)} changes no text: look at dependencies, data or the build."
    look = f"it changes {', '.join(link.manifests)}: " if link.manifests else ""
    return f"No changed line is on a grown stack; {look}look at dependencies, settings or data."


def _sentence_of_lines(link: CulpritLink, label: str) -> str:
    by_line: dict[tuple[str, int], float] = {}
    for line in link.lines:
        by_line[line.path, line.line] = by_line.get((line.path, line.line), 0.0) + line.growth_ms
    path, number = max(by_line, key=lambda place: (by_line[place], place))
    top = next(line for line in link.lines if (line.path, line.line) == (path, number))
    share = min(1.0, by_line[path, number] / link.growth_ms)
    beside = f", {link.share:.0%} under all its changed lines" if link.share - share >= _WORTH_SAYING else ""
    return (
        f"{_capital(label)} {'added' if top.is_new else 'changed'} line {number} of {path} ({top.function}); "
        f"{share:.0%} of the growth of {link.growth_ms:.2f} ms/request is under it{beside}."
    )


def _capital(label: str) -> str:
    return label[:1].upper() + label[1:]
