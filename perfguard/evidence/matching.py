"""The same function under another name: renamed between two revisions, or moved to another file.

Compared by name alone, such a function is one that vanished and one that came from nothing. It is matched

1. by its name in another file, if both sides agree on whom it is called by or calls, or on the file's own name. Several
   of one name are told apart by where the rest of their file went;
2. within its file by what it says: at least 60% of its lines are the same. Without both sides' sources, only where it
   has the very callers and callees of the one that vanished.

Source: 60% is the similarity from which on git, too, takes a file for a rename by default (50%) with a margin, since
functions are shorter than files and share more idioms.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from perfguard.evidence.sourceindex import Scope, SourceIndex, index_source
from perfguard.evidence.stacks import function_name
from perfguard.model.profile import Frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from perfguard.evidence.callsites import SourceLookup
    from perfguard.evidence.cost import StackCosts

    Sources = tuple[SourceLookup, SourceLookup]

Function = tuple[str, str]
"""A function's name and its file."""

_SAME_LINES = 0.6


@dataclass(slots=True)
class _Seen:
    """How one side saw a function: whom it was called by, whom it called (by name), and a line inside it."""

    callers: set[str] = field(default_factory=set)
    callees: set[str] = field(default_factory=set)
    line: int = 0


def match_functions(
    before: Sequence[StackCosts], after: Sequence[StackCosts], sources: Sources | None = None
) -> dict[Function, Function]:
    """Return what functions of one role that only `before` has are called in `after`.

    Args:
        before: the role's trials of the first revision.
        after: those of the second.
        sources: both revisions' source files, if there are any.
    """
    seen_before, seen_after = _seen(before), _seen(after)
    gone = [function for function in seen_before if function not in seen_after]
    came = [function for function in seen_after if function not in seen_before]
    matched = _moved(gone, came, seen_before, seen_after)
    gone = [function for function in gone if function not in matched]
    came = [function for function in came if function not in matched.values()]
    return matched | _renamed(gone, came, matched, (seen_before, seen_after), sources)


def changed_functions(before: Iterable[StackCosts], after: Iterable[StackCosts], sources: Sources) -> frozenset[str]:
    """Return which functions of these stacks do not read the same in both revisions, by `function_key`.

    One that a revision lacks has changed, too. What is no function of a file (a module, a lambda), or is in no file of
    either revision, has not. Comments and blank lines count for nothing.
    """
    lines = {side: _lines(trials) for side, trials in ((0, before), (1, after))}
    return frozenset(
        function_name(*function)
        for function in lines[0].keys() | lines[1].keys()
        for side in (0, 1)
        if function in lines[side] and _is_changed(function, lines[side][function], sources[side], sources[1 - side])
    )


def _lines(trials: Iterable[StackCosts]) -> dict[Function, int]:
    """Return every function of the stacks with a line inside it."""
    return {
        (frame.function, frame.file): frame.line for trial in trials for frames in trial.working for frame in frames
    }


def _is_changed(function: Function, line: int, here: SourceLookup, there: SourceLookup) -> bool:
    text, other = here.source(function[1]), there.source(function[1])
    if text is None or text == other:
        return False
    index = index_source(text)
    scope = _scope(index, function[0], line) if index is not None else None
    if scope is None:
        return False
    other_index = index_source(other) if other is not None else None
    other_scope = other_index.by_name.get(scope.name) if other_index is not None else None
    return other is None or other_scope is None or _code(text, scope) != _code(other, other_scope)


def _scope(index: SourceIndex, function: str, line: int) -> Scope | None:
    """Return the innermost function of that name around a line; a lambda on the same line is another one."""
    name = function.rpartition(".")[2]
    around = [
        scope
        for scope in index.scopes
        if scope.first_line <= line <= scope.last_line and scope.name.rpartition(".")[2] == name
    ]
    return min(around, key=lambda scope: scope.last_line - scope.first_line, default=None)


def _code(text: str, scope: Scope) -> list[str]:
    lines = text.splitlines()[scope.first_line - 1 : scope.last_line]
    return [stripped for each in lines if (stripped := each.strip()) and not stripped.startswith("#")]


def rename(costs: StackCosts, names: Mapping[Function, Function]) -> StackCosts:
    """Return the costs with functions called by what `names` says; lines stay as they are."""
    if not names:
        return costs
    known: dict[Frame, Frame] = {}

    def renamed(frame: Frame) -> Frame:
        if frame not in known:
            function, file = names.get((frame.function, frame.file), (frame.function, frame.file))
            known[frame] = Frame(function=function, file=file, line=frame.line)
        return known[frame]

    def all_renamed(stacks: Mapping[tuple[Frame, ...], float]) -> dict[tuple[Frame, ...], float]:
        found: dict[tuple[Frame, ...], float] = {}
        for frames, cost_ms in stacks.items():
            key = tuple(renamed(frame) for frame in frames)
            found[key] = found.get(key, 0.0) + cost_ms
        return found

    return replace(costs, working=all_renamed(costs.working), polling=all_renamed(costs.polling))


def _seen(trials: Sequence[StackCosts]) -> dict[Function, _Seen]:
    seen: dict[Function, _Seen] = defaultdict(_Seen)
    for trial in trials:
        for frames in trial.working:
            caller = ""
            previous: _Seen | None = None
            for frame in frames:
                found = seen[frame.function, frame.file]
                found.callers.add(caller)
                found.line = found.line or frame.line
                if previous is not None:
                    previous.callees.add(frame.function)
                caller, previous = frame.function, found
    return dict(seen)


def _moved(
    gone: Sequence[Function],
    came: Sequence[Function],
    before: Mapping[Function, _Seen],
    after: Mapping[Function, _Seen],
) -> dict[Function, Function]:
    """Match functions of one name in different files."""
    by_name: dict[str, tuple[list[Function], list[Function]]] = defaultdict(lambda: ([], []))
    for function in gone:
        by_name[function[0]][0].append(function)
    for function in came:
        by_name[function[0]][1].append(function)
    matched: dict[Function, Function] = {}
    moves: Counter[tuple[str, str]] = Counter()
    for old, new in by_name.values():
        if len(old) == len(new) == 1 and _fits(old[0], new[0], before, after):
            matched[old[0]] = new[0]
            moves[old[0][1], new[0][1]] += 1
    for old, new in by_name.values():
        for function in old:
            open_ones = [each for each in new if each not in matched.values() and moves[function[1], each[1]]]
            if function not in matched and open_ones:
                matched[function] = max(open_ones, key=lambda each: (moves[function[1], each[1]], each))
    return matched


def _fits(old: Function, new: Function, before: Mapping[Function, _Seen], after: Mapping[Function, _Seen]) -> bool:
    """Tell whether one name in two files is one function: by its neighbours, or its file's own name."""
    neighbours_before = (before[old].callers | before[old].callees) - {""}
    neighbours_after = (after[new].callers | after[new].callees) - {""}
    same_file_name = old[1].rpartition("/")[2] == new[1].rpartition("/")[2]
    # `<module>`, `<lambda>` and `__call__` are everybody's name: their neighbours prove nothing.
    if old[0].startswith("<") or old[0].rpartition(".")[2].startswith("__"):
        return same_file_name
    return same_file_name or bool(neighbours_before & neighbours_after)


def _renamed(
    gone: Sequence[Function],
    came: Sequence[Function],
    moved: Mapping[Function, Function],
    seen: tuple[Mapping[Function, _Seen], Mapping[Function, _Seen]],
    sources: Sources | None,
) -> dict[Function, Function]:
    """Match functions of different names in one file, the likest first."""
    files = {old[1]: new[1] for old, new in moved.items()}
    pairs = [
        (likeness, old, new)
        for old in gone
        for new in came
        if new[1] in {old[1], files.get(old[1])}
        if (likeness := _likeness(old, new, seen, sources)) >= _SAME_LINES
    ]
    matched: dict[Function, Function] = {}
    for _, old, new in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if old not in matched and new not in matched.values():
            matched[old] = new
    return matched


def _likeness(
    old: Function,
    new: Function,
    seen: tuple[Mapping[Function, _Seen], Mapping[Function, _Seen]],
    sources: Sources | None,
) -> float:
    before, after = seen[0][old], seen[1][new]
    if sources is not None:
        body_before, body_after = _body(old, before.line, sources[0]), _body(new, after.line, sources[1])
        if body_before and body_after:
            matcher = SequenceMatcher(a=body_before, b=body_after, autojunk=False)
            return matcher.ratio() if matcher.quick_ratio() >= _SAME_LINES else 0.0
    same = before.callers == after.callers and before.callees == after.callees and bool(before.callees)
    return float(same)


def _body(function: Function, line: int, source: SourceLookup) -> list[str]:
    """Return a function's lines below its head, without blanks and indentation."""
    text = source.source(function[1]) if line else None
    index = index_source(text) if text is not None else None
    scope = index.scope_at(line) if index is not None else None
    if text is None or scope is None or not scope.name:
        return []
    return _code(text, scope)[1:]
