"""What a sampled line was calling: pickling, hashing, copying, waiting for other ranks, or polling for work.

Pickle, hashes and transports are C code and leave no Python frame of their own, so a profiler shows their caller. The
line it was sampled at is looked up in that revision's own source and its calls are classed by their dotted names.

One call decides a frame, and one frame a stack:

1. Of the calls that begin on the sampled line (failing that, the smallest that spans it), the first class in `_ORDER`
   wins. Where a Python function was entered from the line, only calls of that function's name are asked, if any is.
2. A stack has the class of its innermost frame whose call *contains* everything beneath it: a stack that ends inside a
   broadcast that is inside an object broadcast waits for another rank, and does not pickle; one that ends in a tensor's
   `__reduce_ex__` inside `pickle.dumps` pickles.
3. Copies and socket calls only count at the leaf, and give way to a containing frame: a copy made to be pickled is
   pickling. Names of whole object transports (`broadcast_object_list`, `recv_pyobj`) also count at the leaf only:
   beneath them, the Python frames tell their parts apart.
4. Beneath a server's receive loop, whatever neither pickles, hashes, copies nor moves a payload between ranks is
   polling: a server that spins when idle spends its time there. A collective that moves only a size is part of the
   spinning.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from perfguard.model.profile import Frame


class CallClass(str, Enum):
    """What the call at the end of a stack does. `UNKNOWN`: its source was not found or does not parse."""

    PICKLE = "pickle"
    HASH = "hash"
    TENSOR_COPY = "tensor_copy"
    COLLECTIVE = "collective"
    SOCKET = "socket"
    SLEEP = "sleep"
    POLL = "poll"
    OTHER = "other"
    UNKNOWN = "unknown"


class SourceLookup(Protocol):
    """The source files of one revision, by the names that its stacks use."""

    def source(self, file: str) -> str | None:
        """Return the whole text of `file`, or None where there is none (built-in, frozen or native code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """Calls whose dotted name matches `names` are of `call_class`; where it `contains`, so is all beneath them."""

    names: re.Pattern[str]
    call_class: CallClass
    contains: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A call in a source file: its dotted name, its arguments' names, the line it begins on and the lines it spans."""

    name: str
    arguments: tuple[str, ...]
    line: int
    first_line: int
    last_line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """The class of one frame. `payload` is False for a collective that moves only a size."""

    call_class: CallClass
    contains: bool
    payload: bool = True


def _rule(call_class: CallClass, names: str, *, contains: bool) -> _Rule:
    return _Rule(names=re.compile(rf"(?:{names})\Z"), call_class=call_class, contains=contains)


# A called result keeps its place in a dotted name: `_pickler(f).dump` reads "_pickler().dump", `x[0].to` reads
# "x[].to".
_RULES: tuple[_Rule, ...] = (
    _rule(
        CallClass.PICKLE,
        r"(?:.*[.])?_?(?:c|cloud)?[pP]ickle[.](?:dumps?|loads?)"
        r"|(?:.*[.])?(?:dill|cloudpickle|ForkingPickler|_ForkingPickler)[.](?:dumps?|loads?)"
        r"|.*_?(?:[uU]n)?[pP]ickler(?:\(\))?[.](?:dump|load)"
        r"|torch[.](?:save|load)"
        r"|(?:.*[.])?(?:_object_to_tensor|_tensor_to_object)",
        contains=True,
    ),
    _rule(
        CallClass.PICKLE,
        r"(?:.*[.])?(?:(?:send|recv)_pyobj|broadcast_pyobj|point_to_point_pyobj"
        r"|(?:broadcast|scatter|gather|all_gather|send|recv)_object(?:_list)?)",
        contains=False,
    ),
    _rule(
        CallClass.HASH,
        r"(?:.*[.])?hashlib[.]\w+|.*[.](?:hex)?digest|(?:.*[.])?(?:sha\d+|md5|blake[23]\w*|xxh\w*|crc32)(?:[.]\w+)?"
        r"|(?:.*[.])?(?:\w+_hash|hash_\w+)",
        contains=True,
    ),
    _rule(
        CallClass.COLLECTIVE,
        r"(?:.*[.])?(?:dist|distributed|c10d|group|pg|process_group|\w*_group|\w*comm)[.]"
        r"_?(?:broadcast|all_reduce|allreduce|reduce|reduce_scatter|all_gather|allgather|gather|scatter|all_to_all|alltoall|barrier"
        r"|monitored_barrier|send|recv|isend|irecv)\w*"
        r"|(?:broadcast|all_reduce|reduce_scatter|all_gather|barrier)(?:_single|_into_tensor|_tensor|_coalesced)?"
        r"|(?:.*[.])?_?(?:work|works|handle|handles)(?:\[\])?[.]wait",
        contains=True,
    ),
    _rule(CallClass.SLEEP, r"(?:.*[.])?(?:time|asyncio|gevent)[.]sleep|sleep", contains=True),
    _rule(
        CallClass.SLEEP,
        r".*[.](?:wait|wait_for|acquire)|(?:.*[.])?\w*(?:thread|process)\w*[.]join|(?:.*[.])?select[.]\w+|.*[.]select",
        contains=False,
    ),
    _rule(CallClass.POLL, r".*[.](?:get_nowait|poll)", contains=False),
    _rule(
        CallClass.SOCKET,
        r".*[.](?:send|recv|sendall|sendmsg|recvmsg|recv_into|sendto|recvfrom)|.*[.](?:send|recv)_(?:multipart|string|json|bytes)"
        r"|(?:.*[.])?(?:socket|sock|transport)[.]\w+",
        contains=False,
    ),
    _rule(
        CallClass.TENSOR_COPY,
        r".*[.](?:to|cpu|cuda|clone|contiguous|copy_|pin_memory|tobytes)"
        r"|(?:torch|np|numpy)[.](?:cat|concat|concatenate|stack|copy|ascontiguousarray|from_numpy|empty_like|copyto)"
        r"|torch[.]\w*Tensor|bytes|bytearray|memoryview|copy[.]deepcopy",
        contains=False,
    ),
)
_NOT_BLOCKING = re.compile(r"(?:.*[.])?(?:NOBLOCK|DONTWAIT|MSG_DONTWAIT)\Z")
_RECEIVE = re.compile(r".*[.]recv\w*\Z")
_SIZE = re.compile(r"(?:.*[._])?(?:size|sizes|length|numel|header)(?:_\w+)?\Z")
_HASH_FUNCTION = re.compile(r"\w*(?:^|_)hash(?:_\w+)?\Z")
# Source: SGLang's scheduler loop; both run on every turn of it, requests or none.
_POLL_FUNCTIONS = frozenset({"recv_requests", "self_check_during_idle"})
_NO_CALL = _Verdict(call_class=CallClass.OTHER, contains=False)
_NO_SOURCE = _Verdict(call_class=CallClass.UNKNOWN, contains=False)


def classify(frame: Frame, source: SourceLookup) -> CallClass:
    """Class the call that `frame` was sampled in, taken as the end of its stack."""
    return _judge_line(frame, source, callee=None).call_class


def classify_stack(frames: Sequence[Frame], source: SourceLookup) -> CallClass:
    """Class a whole stack (root first) by the order that this module's docstring gives.

    Returns:
        `UNKNOWN` where no frame decides and the leaf's source is missing.
    """
    return CallSites(source).stack(frames).call_class


@dataclass(frozen=True, slots=True, kw_only=True)
class StackClass:
    """A stack's class, and the frame whose line decided it (None for stacks of class OTHER or UNKNOWN).

    Pickling inside pickling (a tensor's storage, say) belongs to the outermost line that pickles.
    """

    call_class: CallClass
    site: Frame | None


class CallSites:
    """Classes the stacks of one revision; remembers each line that it has looked at."""

    def __init__(self, source: SourceLookup) -> None:
        self._source = source
        self._judged: dict[tuple[Frame, str | None], _Verdict] = {}

    def stack(self, frames: Sequence[Frame]) -> StackClass:
        """Class a stack (root first); an empty one is UNKNOWN."""
        if not frames:
            return StackClass(call_class=CallClass.UNKNOWN, site=None)
        leaf = self._judge(frames[-1], None)
        decided, index = self._innermost_containing(frames, leaf)
        loop = _innermost_poll_loop(frames)
        if loop is not None and not _is_work(decided) and not self._moves_payload(frames, loop):
            return StackClass(call_class=CallClass.POLL, site=frames[loop])
        if decided.call_class in {CallClass.OTHER, CallClass.UNKNOWN}:
            return StackClass(call_class=decided.call_class, site=None)
        if decided.call_class is CallClass.PICKLE:
            index = self._outermost_pickling(frames, index)
        return StackClass(call_class=decided.call_class, site=frames[index])

    def _innermost_containing(self, frames: Sequence[Frame], leaf: _Verdict) -> tuple[_Verdict, int]:
        last = len(frames) - 1
        if leaf.contains:
            return leaf, last
        for index in range(last - 1, -1, -1):
            verdict = self._judge(frames[index], _bare_name(frames[index + 1].function))
            if verdict.contains:
                return verdict, index
        return leaf, last

    def _outermost_pickling(self, frames: Sequence[Frame], inner: int) -> int:
        """Return the frame that asked for the pickling at `inner`: a pickler calls picklers for what it finds."""
        outer = inner
        for index in range(inner - 1, -1, -1):
            verdict = self._judge(frames[index], _bare_name(frames[index + 1].function))
            if verdict.contains and verdict.call_class is not CallClass.PICKLE:
                break
            if verdict.contains:
                outer = index
        return outer

    def _moves_payload(self, frames: Sequence[Frame], loop: int) -> bool:
        """Tell whether a collective beneath the loop moves more than a size, by the line that first calls one."""
        for index in range(loop, len(frames)):
            callee = _bare_name(frames[index + 1].function) if index + 1 < len(frames) else None
            verdict = self._judge(frames[index], callee)
            if verdict.call_class is CallClass.COLLECTIVE:
                return verdict.payload
        return False

    def _judge(self, frame: Frame, callee: str | None) -> _Verdict:
        key = (frame, callee)
        if key not in self._judged:
            self._judged[key] = _judge_line(frame, self._source, callee=callee)
        return self._judged[key]


def _is_work(verdict: _Verdict) -> bool:
    """Tell what is done for a request even in a receive loop.

    The name of a transport alone may stand for an empty turn.
    """
    if verdict.call_class is CallClass.PICKLE:
        return verdict.contains
    return verdict.call_class in {CallClass.HASH, CallClass.TENSOR_COPY}


def _innermost_poll_loop(frames: Sequence[Frame]) -> int | None:
    for index in range(len(frames) - 1, -1, -1):
        if _bare_name(frames[index].function) in _POLL_FUNCTIONS:
            return index
    return None


def _judge_line(frame: Frame, source: SourceLookup, *, callee: str | None) -> _Verdict:
    text = source.source(frame.file) if frame.line else None
    index = None if text is None else _index(text)
    if index is None:
        return _NO_SOURCE
    calls = index.at(frame.line)
    if callee is not None:
        calls = [call for call in calls if _bare_name(call.name) == callee] or calls
    verdicts = [_judge_call(call, frame) for call in calls]
    return min(verdicts, key=_precedence, default=_NO_CALL)


def _judge_call(call: _Call, frame: Frame) -> _Verdict:
    if _RECEIVE.match(call.name) and any(_NOT_BLOCKING.match(argument) for argument in call.arguments):
        return _Verdict(call_class=CallClass.POLL, contains=True)
    if call.name.endswith(".tobytes") and _HASH_FUNCTION.match(_bare_name(frame.function)):
        return _Verdict(call_class=CallClass.HASH, contains=False)
    # A loader handed over as an argument is run by what it is handed to: `self._read(message, pickle.loads)`.
    for rule in _RULES:
        handed_over = rule.call_class is CallClass.PICKLE and rule.contains
        names = (call.name, *call.arguments) if handed_over else (call.name,)
        if any(rule.names.match(name) for name in names):
            payload = not (call.arguments and _SIZE.match(call.arguments[0]))
            return _Verdict(call_class=rule.call_class, contains=rule.contains, payload=payload)
    return _NO_CALL


_ORDER = {
    call_class: place
    for place, call_class in enumerate(
        [
            CallClass.POLL,
            CallClass.PICKLE,
            CallClass.HASH,
            CallClass.COLLECTIVE,
            CallClass.SLEEP,
            CallClass.SOCKET,
            CallClass.TENSOR_COPY,
            CallClass.OTHER,
            CallClass.UNKNOWN,
        ]
    )
}


def _precedence(verdict: _Verdict) -> int:
    return _ORDER[verdict.call_class]


def _bare_name(name: str) -> str:
    """Return the last part of a dotted or qualified name: `Scheduler.recv_requests` is `recv_requests`."""
    return name.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileIndex:
    """The calls of a file: by the line they begin on, and by scope for lines inside a call that spans several."""

    by_line: dict[int, list[_Call]]
    scopes: tuple[tuple[int, int, tuple[_Call, ...]], ...]

    def at(self, line: int) -> list[_Call]:
        """Return the calls that begin on `line`, or else the smallest call of the innermost scope that spans it."""
        if line in self.by_line:
            return self.by_line[line]
        around = [scope for scope in self.scopes if scope[0] <= line <= scope[1]]
        if not around:
            return []
        _, _, calls = min(around, key=lambda scope: scope[1] - scope[0])
        spanning = [call for call in calls if call.first_line <= line <= call.last_line]
        return [min(spanning, key=lambda call: call.last_line - call.first_line)] if spanning else []


@lru_cache(maxsize=256)
def _index(text: str) -> _FileIndex | None:
    try:
        # Foreign source may hold escapes that the parser warns of; that is its authors' affair, not our user's.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    by_line: dict[int, list[_Call]] = {}
    scopes = []
    for scope, nodes in _scopes(tree):
        calls = tuple(_read_call(node) for node in nodes)
        for call in calls:
            by_line.setdefault(call.line, []).append(call)
        first, last = (0, text.count("\n") + 1) if isinstance(scope, ast.Module) else _span(scope)
        scopes.append((first, last, calls))
    return _FileIndex(by_line=by_line, scopes=tuple(scopes))


def _scopes(tree: ast.Module) -> Iterator[tuple[ast.AST, list[ast.Call]]]:
    """Yield every scope with the calls made in it and in no scope inside it."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        scope = waiting.pop()
        calls: list[ast.Call] = []
        nodes = list(ast.iter_child_nodes(scope))
        while nodes:
            node = nodes.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
                waiting.append(node)
                continue
            if isinstance(node, ast.Call):
                calls.append(node)
            nodes.extend(ast.iter_child_nodes(node))
        yield scope, calls


def _span(node: ast.AST) -> tuple[int, int]:
    first: int = getattr(node, "lineno", 0)
    return first, getattr(node, "end_lineno", None) or first


def _read_call(node: ast.Call) -> _Call:
    first, last = _span(node)
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    # A chained call runs at the line of its own name, not where the chain began.
    line = node.func.end_lineno or first if isinstance(node.func, ast.Attribute) else first
    return _Call(
        name=_dotted(node.func),
        arguments=tuple(_dotted(argument) for argument in arguments),
        line=line,
        first_line=first,
        last_line=last,
    )


def _dotted(node: ast.expr) -> str:
    """Spell an expression as a dotted name; what is no name, call or item becomes empty."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{_dotted(node.func)}()"
    if isinstance(node, ast.Subscript):
        return f"{_dotted(node.value)}[]"
    return ""
