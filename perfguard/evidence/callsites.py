"""What a sampled line was calling: pickling, hashing, copying, waiting for other ranks, or polling for work.

Pickle, hashes and transports are C code and leave no Python frame of their own, so a profiler shows their caller. The
line it was sampled at is looked up in that revision's own source and its calls are classed by their dotted names.

One call decides a frame, and one frame a stack:

1. Of the calls that begin on the sampled line (failing that, the smallest that spans it), the first class in `_ORDER`
   wins. Where a Python function was entered from the line, only calls of that function's name are asked, if any is.
   Sleeps, locks and sockets that are awaited hold up nothing and do not count. A name that no rule knows is asked
   again as what it stands for in its file (`from pickle import dumps as d`), and at the end of a stack a thin wrapper
   has the class of what it calls, over two levels and across imports.
2. A stack has the class of its innermost frame whose call *contains* everything beneath it: a stack that ends inside a
   broadcast that is inside an object broadcast waits for another rank, and does not pickle; one that ends in a tensor's
   `__reduce_ex__` inside `pickle.dumps` pickles. Native frames, where there are any, decide by their function and
   shared object, and otherwise leave it to the innermost Python frame.
3. Copies, locks and socket calls only count at the leaf, and give way to a containing frame: a copy made to be pickled
   is pickling. Names of whole object transports (`broadcast_object_list`, `recv_pyobj`) also count at the leaf only:
   beneath them, the Python frames tell their parts apart.
4. Beneath a server's receive loop (`CallRules.poll_functions`), whatever neither pickles, hashes, copies nor moves a
   payload between ranks is polling: a server that spins when idle spends its time there. A collective that moves only a
   size is part of the spinning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from perfguard.evidence.callrules import GENERIC_RULES, CallClass, CallRules, first_match, is_native, native_class
from perfguard.evidence.sourceindex import Call, Scope, SourceIndex, index_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from perfguard.evidence.stacktable import Ints, StackTable
    from perfguard.model.profile import Frame

__all__ = ["CallClass", "CallSites", "SourceLookup", "StackClass", "classify", "classify_stack"]


class SourceLookup(Protocol):
    """The source files of one revision, by the names that its stacks use."""

    def source(self, file: str) -> str | None:
        """Return the whole text of `file`, or None where there is none (built-in, frozen or native code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackClass:
    """A stack's class, and the frame whose line decided it (None for stacks of class OTHER or UNKNOWN).

    Pickling inside pickling (a tensor's storage, say) belongs to the outermost line that pickles.
    """

    call_class: CallClass
    site: Frame | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """The class of one frame. `payload` is False for a collective that moves only a size."""

    call_class: CallClass
    contains: bool
    payload: bool = True


_NOT_BLOCKING = re.compile(r"(?:.*[.])?(?:NOBLOCK|DONTWAIT|MSG_DONTWAIT)\Z")
_RECEIVE = re.compile(r".*[.]recv\w*\Z")
_SIZE = re.compile(r"(?:.*[._])?(?:size|sizes|length|numel|header)(?:_\w+)?\Z")
_HASH_FUNCTION = re.compile(r"\w*(?:^|_)hash(?:_\w+)?\Z")
_WAITS = frozenset({CallClass.SLEEP, CallClass.LOCK, CallClass.SOCKET})
_NO_CALL = _Verdict(call_class=CallClass.OTHER, contains=False)
_NO_SOURCE = _Verdict(call_class=CallClass.UNKNOWN, contains=False)
# The callee of the innermost frame: none.
_LEAF = -1
_UNKNOWN_CLASS = StackClass(call_class=CallClass.UNKNOWN, site=None)
# A function of more statements does work of its own; its call does not stand for one thing.
_WRAPPER_STATEMENTS = 6
_WRAPPER_LEVELS = 2
_ORDER = {
    call_class: place
    for place, call_class in enumerate(
        [
            CallClass.POLL,
            CallClass.PICKLE,
            CallClass.HASH,
            CallClass.COLLECTIVE,
            CallClass.IMAGE_DECODE,
            CallClass.TOKENISE,
            CallClass.MODEL_FORWARD,
            CallClass.LOCK,
            CallClass.SLEEP,
            CallClass.SOCKET,
            CallClass.TENSOR_COPY,
            CallClass.OTHER,
            CallClass.UNKNOWN,
        ]
    )
}


def classify(frame: Frame, source: SourceLookup, rules: CallRules = GENERIC_RULES) -> CallClass:
    """Class the call that `frame` was sampled in, taken as the end of its stack."""
    return CallSites(source, rules).line(frame).call_class


def classify_stack(frames: Sequence[Frame], source: SourceLookup, rules: CallRules = GENERIC_RULES) -> CallClass:
    """Class a whole stack (root first) by the order that this module's docstring gives.

    Returns:
        `UNKNOWN` where no frame decides and the leaf's source is missing.
    """
    return CallSites(source, rules).stack(frames).call_class


class CallSites:
    """Classes the stacks of one revision; remembers each line that it has looked at."""

    def __init__(self, source: SourceLookup, rules: CallRules = GENERIC_RULES) -> None:
        self._lines = _LineJudge(source, rules)
        self._numbers: dict[Frame, int] = {}
        self._frames: list[Frame] = []
        self._poll_numbers: set[int] = set()
        self._native_numbers: set[int] = set()
        self._names: list[str] = []
        self._judged: list[_Line | None] = []
        self._poll_functions = rules.poll_functions

    def line(self, frame: Frame) -> StackClass:
        """Class one frame, taken as the end of a stack, without asking its callers."""
        return _stack_class(self._verdict(self._number(frame), _LEAF), frame)

    def stack(self, frames: Sequence[Frame]) -> StackClass:
        """Class a stack (root first); an empty one is UNKNOWN."""
        return self._class_of([self._number(frame) for frame in frames]) if frames else _UNKNOWN_CLASS

    def table(self, table: StackTable) -> list[StackClass]:
        """Class all stacks of a table; each distinct pair of caller and callee is looked at once."""
        if not table.stacks:
            return []
        numbers = np.array([self._number(frame) for frame in table.frames], dtype=np.int64)
        flat = numbers[table.index]
        callees = np.append(flat[1:], 0)
        callees[table.ends - 1] = _LEAF
        # `_LEAF` is -1: a leaf is a pair of its own.
        width = len(self._frames) + 1
        pairs, pair_index = np.unique(flat * width + callees + 1, return_inverse=True)
        verdicts = [self._verdict(int(pair) // width, int(pair) % width - 1) for pair in pairs.tolist()]
        contains = np.array([verdict.contains for verdict in verdicts], dtype=np.bool_)[pair_index.reshape(-1)]
        deciding = np.maximum.reduceat(np.where(contains, np.arange(len(flat)), -1), table.starts)
        special = self._special(table, flat)
        found: list[StackClass] = []
        pair_at = pair_index.reshape(-1)
        for n, (start, end, place) in enumerate(
            zip(table.starts.tolist(), table.ends.tolist(), deciding.tolist(), strict=True)
        ):
            place = place if place >= 0 else end - 1  # noqa: PLW2901 - without one that contains, the leaf decides
            verdict = verdicts[pair_at[place]]
            if special[n] or verdict.call_class is CallClass.PICKLE:
                found.append(self._class_of(flat[start:end].tolist()))
            else:
                found.append(_stack_class(verdict, self._frames[flat[place]]))
        return found

    def _special(self, table: StackTable, flat: Ints) -> list[bool]:
        """Mark the stacks that end in native code or run beneath a poll loop: their leaf is not all that counts."""
        native = np.zeros(len(self._frames), dtype=np.bool_)
        native[list(self._native_numbers)] = True
        polls = np.zeros(len(self._frames), dtype=np.bool_)
        polls[list(self._poll_numbers)] = True
        marked: list[bool] = (native[flat[table.ends - 1]] | table.per_stack(polls[flat])).tolist()
        return marked

    def _class_of(self, numbers: Sequence[int]) -> StackClass:
        last = self._innermost_python(numbers)
        leaf = self._verdict(numbers[last], _LEAF)
        decided, index = self._innermost_containing(numbers, leaf, last)
        loop = self._innermost_poll_loop(numbers)
        if loop is not None and not _is_work(decided) and not self._moves_payload(numbers, loop, last):
            return StackClass(call_class=CallClass.POLL, site=self._frames[numbers[loop]])
        if decided.call_class is CallClass.PICKLE:
            index = self._outermost_pickling(numbers, index)
        return _stack_class(decided, self._frames[numbers[index]])

    def _number(self, frame: Frame) -> int:
        number = self._numbers.get(frame)
        if number is None:
            number = len(self._frames)
            self._numbers[frame] = number
            self._frames.append(frame)
            self._names.append(_bare_name(frame.function))
            self._judged.append(None)
            if self._names[number] in self._poll_functions:
                self._poll_numbers.add(number)
            if is_native(frame.file):
                self._native_numbers.add(number)
        return number

    def _verdict(self, number: int, callee: int) -> _Verdict:
        """Judge a frame by its number, entered from it the frame `callee` (`_LEAF`: none)."""
        line = self._judged[number]
        if line is None:
            line = self._judged[number] = self._lines.judge(self._frames[number])
        return line.leaf if callee == _LEAF else line.by_callee.get(self._names[callee], line.otherwise)

    def _innermost_python(self, numbers: Sequence[int]) -> int:
        """Return the frame that the sample ends at: the innermost that is not native, or a native one that decides."""
        index = len(numbers) - 1
        while index > 0 and numbers[index] in self._native_numbers:
            if self._verdict(numbers[index], _LEAF).contains:
                break
            index -= 1
        return index

    def _innermost_containing(self, numbers: Sequence[int], leaf: _Verdict, last: int) -> tuple[_Verdict, int]:
        if leaf.contains:
            return leaf, last
        for index in range(last - 1, -1, -1):
            verdict = self._verdict(numbers[index], numbers[index + 1])
            if verdict.contains:
                return verdict, index
        return leaf, last

    def _outermost_pickling(self, numbers: Sequence[int], inner: int) -> int:
        """Return the frame that asked for the pickling at `inner`: a pickler calls picklers for what it finds."""
        outer = inner
        for index in range(inner - 1, -1, -1):
            verdict = self._verdict(numbers[index], numbers[index + 1])
            if verdict.contains and verdict.call_class is not CallClass.PICKLE:
                break
            if verdict.contains or numbers[outer] in self._native_numbers:
                outer = index
        return outer

    def _innermost_poll_loop(self, numbers: Sequence[int]) -> int | None:
        if self._poll_numbers.isdisjoint(numbers):
            return None
        return max(index for index, number in enumerate(numbers) if number in self._poll_numbers)

    def _moves_payload(self, numbers: Sequence[int], loop: int, last: int) -> bool:
        """Tell whether a collective beneath the loop moves more than a size, by the line that first calls one."""
        for index in range(loop, last + 1):
            verdict = self._verdict(numbers[index], numbers[index + 1] if index < last else _LEAF)
            if verdict.call_class is CallClass.COLLECTIVE:
                return verdict.payload
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """The verdicts on one line: where a function was entered from it by name, or another one, and at a stack's end."""

    by_callee: Mapping[str, _Verdict]
    otherwise: _Verdict
    leaf: _Verdict


class _LineJudge:
    """Judges single lines by the calls on them."""

    def __init__(self, source: SourceLookup, rules: CallRules) -> None:
        self._source = source
        self._rules = rules
        self._loaders = [rule for rule in rules.calls if rule.call_class is CallClass.PICKLE and rule.contains]

    def judge(self, frame: Frame) -> _Line:
        """Judge the line that a frame was sampled at, whatever was entered from it."""
        if is_native(frame.file):
            call_class = native_class(frame.function, frame.file)
            native = _NO_SOURCE if call_class is None else _Verdict(call_class=call_class, contains=True)
            return _Line(by_callee={}, otherwise=native, leaf=native)
        index = self._index(frame.file) if frame.line else None
        if index is None:
            return _Line(by_callee={}, otherwise=_NO_SOURCE, leaf=_NO_SOURCE)
        by_callee: dict[str, _Verdict] = {}
        verdicts = []
        for call in index.at(frame.line):
            verdict = self._judge_call(call, frame, index)
            verdicts.append(verdict)
            name = _bare_name(call.name)
            by_callee[name] = min(by_callee.get(name, verdict), verdict, key=_precedence)
        otherwise = min(verdicts, key=_precedence, default=_NO_CALL)
        leaf = self._judge_wrappers(frame, index) if otherwise.call_class is CallClass.OTHER else otherwise
        return _Line(by_callee=by_callee, otherwise=otherwise, leaf=leaf)

    def _judge_call(self, call: Call, frame: Frame, index: SourceIndex) -> _Verdict:
        if _RECEIVE.match(call.name) and any(_NOT_BLOCKING.match(argument) for argument in call.arguments):
            return _Verdict(call_class=CallClass.POLL, contains=True)
        if call.name.endswith(".tobytes") and _HASH_FUNCTION.match(_bare_name(frame.function)):
            return _Verdict(call_class=CallClass.HASH, contains=False)
        verdict = self._judge_name(call.name, call)
        if verdict is not _NO_CALL:
            return verdict
        meaning = index.meaning(call.name, call.scope)
        return self._judge_name(meaning, call) if meaning != call.name else _NO_CALL

    def _judge_name(self, name: str, call: Call) -> _Verdict:
        # A loader handed over as an argument is run by what it is handed to: `self._read(message, pickle.loads)`.
        rule = first_match(self._rules.calls, [name])
        if rule is None or rule not in self._loaders:
            rule = first_match(self._loaders, call.arguments) or rule
        if rule is None:
            return _NO_CALL
        if call.awaited and rule.call_class in _WAITS:
            return _NO_CALL
        payload = not (call.arguments and _SIZE.match(call.arguments[0]))
        return _Verdict(call_class=rule.call_class, contains=rule.contains, payload=payload)

    def _judge_wrappers(self, frame: Frame, index: SourceIndex) -> _Verdict:
        found = [self._judge_wrapper(call, frame, index, _WRAPPER_LEVELS) for call in index.at(frame.line)]
        return min(found, key=_precedence, default=_NO_CALL)

    def _judge_wrapper(self, call: Call, frame: Frame, index: SourceIndex, levels: int) -> _Verdict:
        """Class a call by what the function behind it calls, where that is in reach and does little else.

        It never contains: had the sample been taken inside it, its own frames would tell.
        """
        found = self._find_function(index.meaning(call.name, call.scope), call, frame.file, index)
        if found is None or found[0].statements > _WRAPPER_STATEMENTS:
            return _NO_CALL
        scope, file, its_index = found
        inside = replace(frame, file=file, function=scope.name)
        verdict = min(
            (self._judge_call(each, inside, its_index) for each in scope.calls), key=_precedence, default=_NO_CALL
        )
        if verdict.call_class is CallClass.OTHER and levels > 1:
            deeper = (self._judge_wrapper(each, inside, its_index, levels - 1) for each in scope.calls)
            verdict = min(deeper, key=_precedence, default=_NO_CALL)
        return replace(verdict, contains=False)

    def _find_function(
        self, name: str, call: Call, file: str, index: SourceIndex
    ) -> tuple[Scope, str, SourceIndex] | None:
        """Find the function that a dotted name calls: in the same file, or in a module that the lookup holds."""
        local = index.callee(name, call.scope)
        if local is not None:
            return local, file, index
        for path, function in _module_places(name, file):
            its_index = self._index(path)
            if its_index is not None and function in its_index.by_name:
                return its_index.by_name[function], path, its_index
        return None

    def _index(self, file: str) -> SourceIndex | None:
        text = self._source.source(file)
        return None if text is None else index_source(text)


def _module_places(name: str, file: str) -> list[tuple[str, str]]:
    """Return where the function of an imported dotted name may be: (file, qualified name), the likeliest first."""
    dots = len(name) - len(name.lstrip("."))
    parts = name[dots:].split(".")
    if (len(parts) < 2 and not dots) or not all(part.isidentifier() for part in parts):  # noqa: PLR2004 - a module and a function
        return []
    folders = file.split("/")[:-dots] if dots else []
    places = []
    for split in (len(parts) - 1, len(parts) - 2):
        if split > 0 or (dots and split == 0):
            module, function = "/".join([*folders, *parts[:split]]), ".".join(parts[split:])
            places += [(f"{module}.py", function), (f"{module}/__init__.py", function)]
    return places


def _stack_class(verdict: _Verdict, frame: Frame) -> StackClass:
    decides = verdict.call_class not in {CallClass.OTHER, CallClass.UNKNOWN}
    return StackClass(call_class=verdict.call_class, site=frame if decides else None)


def _is_work(verdict: _Verdict) -> bool:
    """Tell what is done for a request even in a receive loop.

    The name of a transport alone may stand for an empty turn.
    """
    if verdict.call_class is CallClass.PICKLE:
        return verdict.contains
    return verdict.call_class in {
        CallClass.HASH,
        CallClass.TENSOR_COPY,
        CallClass.IMAGE_DECODE,
        CallClass.TOKENISE,
        CallClass.MODEL_FORWARD,
    }


def _precedence(verdict: _Verdict) -> int:
    return _ORDER[verdict.call_class]


def _bare_name(name: str) -> str:
    """Return the last part of a dotted or qualified name: `Scheduler.recv_requests` is `recv_requests`."""
    return name.rpartition(".")[2]
