"""What a call's name says: the classes of call, and the rules that tell them by dotted name.

The rules here hold for any Python program. A server's own names (its poll loops, its transports) come as data: a parsed
TOML document of this form, tried before the rules here:

    [[call]]
    class = "pickle"            # a value of `CallClass`
    names = "(?:.*[.])?ship"    # a regular expression that the whole dotted name must match
    contains = false            # whether everything beneath the call is of this class too

    [poll]
    functions = ["recv_requests"]   # run on every turn of a loop, with work or without
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from perfguard.model.errors import UsageError


class CallClass(str, Enum):
    """What the call at the end of a stack does.

    `OTHER`: its line was read and is none of these. `UNKNOWN`: its source was not found or does not parse.
    """

    PICKLE = "pickle"
    HASH = "hash"
    TENSOR_COPY = "tensor_copy"
    COLLECTIVE = "collective"
    SOCKET = "socket"
    LOCK = "lock"
    SLEEP = "sleep"
    POLL = "poll"
    IMAGE_DECODE = "image_decode"
    TOKENISE = "tokenise"
    MODEL_FORWARD = "model_forward"
    OTHER = "other"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRule:
    """Calls whose dotted name matches `names` are of `call_class`; where it `contains`, so is all beneath them."""

    names: re.Pattern[str]
    call_class: CallClass
    contains: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRules:
    """Rules in the order in which they are tried, and the functions beneath which a server looks for work."""

    calls: tuple[CallRule, ...]
    poll_functions: frozenset[str] = frozenset()

    def before(self, others: CallRules) -> CallRules:
        """Return rules that try these first and `others` after them."""
        return CallRules(calls=self.calls + others.calls, poll_functions=self.poll_functions | others.poll_functions)


def make_call_rules(document: Mapping[str, Any], where: str) -> CallRules:
    """Make rules of a parsed TOML document; `where` names it in errors.

    Raises:
        UsageError: a field is unknown, missing or of the wrong kind, a class does not exist, or a pattern is none.
    """
    _refuse_unknown(document, {"call", "poll"}, where)
    entries = document.get("call", [])
    if not isinstance(entries, list):
        raise UsageError(f"{where}: `call` must be written [[call]]")
    poll = document.get("poll", {})
    if not isinstance(poll, dict):
        raise UsageError(f"{where}: `poll` must be a table")
    _refuse_unknown(poll, {"functions"}, f"{where}: [poll]")
    functions = poll.get("functions", [])
    if not isinstance(functions, list) or not all(isinstance(name, str) for name in functions):
        raise UsageError(f"{where}: [poll] functions must be a list of function names")
    return CallRules(
        calls=tuple(_make_rule(entry, f"{where}: [[call]] number {number}") for number, entry in enumerate(entries, 1)),
        poll_functions=frozenset(functions),
    )


def _make_rule(entry: Any, where: str) -> CallRule:
    if not isinstance(entry, dict):
        raise UsageError(f"{where} must be a table")
    _refuse_unknown(entry, {"class", "names", "contains"}, where)
    known = [each.value for each in CallClass if each not in {CallClass.OTHER, CallClass.UNKNOWN}]
    if entry.get("class") not in known:
        raise UsageError(f"{where}: class must be one of {', '.join(known)}, not {entry.get('class')!r}")
    names, contains = entry.get("names"), entry.get("contains", False)
    if not isinstance(names, str) or not isinstance(contains, bool):
        raise UsageError(f"{where}: names must be a regular expression and contains true or false")
    try:
        return _rule(CallClass(entry["class"]), names, contains=contains)
    except re.error as error:
        raise UsageError(f"{where}: {names!r} is no regular expression: {error}") from error


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in table:
        if name not in known:
            raise UsageError(f"{where}: unknown field {name}", hint=f"known are {', '.join(sorted(known))}")


def _rule(call_class: CallClass, names: str, *, contains: bool) -> CallRule:
    return CallRule(names=re.compile(rf"(?:{names})\Z"), call_class=call_class, contains=contains)


# A called result keeps its place in a dotted name: `_pickler(f).dump` reads "_pickler().dump", `x[0].to` reads
# "x[].to", and `with lock:` reads "lock.__enter__".
GENERIC_RULES = CallRules(
    calls=(
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
            r"(?:.*[.])?(?:(?:send|recv)_pyobj|(?:broadcast|scatter|gather|all_gather|send|recv)_object(?:_list)?)",
            contains=False,
        ),
        _rule(
            CallClass.HASH,
            r"(?:.*[.])?hashlib[.]\w+(?:\(\)[.]\w+)?|.*[.](?:hex)?digest"
            r"|(?:.*[.])?(?:sha\d+|md5|blake[23]\w*|xxh\w*|crc32)(?:[.]\w+|\(\)[.]update)?"
            r"|(?:.*[.])?(?:\w+_hash|hash_\w+)",
            contains=True,
        ),
        _rule(
            CallClass.COLLECTIVE,
            r"(?:.*[.])?(?:dist|distributed|c10d|group|pg|process_group|\w*_group|\w*comm)[.]"
            r"_?(?:broadcast|all_reduce|allreduce|reduce|reduce_scatter|all_gather|allgather|gather|scatter|all_to_all"
            r"|alltoall|barrier|monitored_barrier|send|recv|isend|irecv)\w*"
            r"|(?:broadcast|all_reduce|reduce_scatter|all_gather|barrier)(?:_single|_into_tensor|_tensor|_coalesced)?"
            r"|(?:.*[.])?_?(?:work|works|handle|handles)(?:\[\])?[.]wait",
            contains=True,
        ),
        _rule(
            CallClass.IMAGE_DECODE,
            r"(?:.*[.])?(?:Image[.](?:open|frombytes|frombuffer)(?:\(\)[.](?:load|convert))?|decoder[.]decode"
            r"|cv2[.]imdecode|imageio[.]\w*imread|skimage[.]io[.]imread"
            r"|decode_(?:image|jpeg|png|webp|gif|avif|heic)|simplejpeg[.]decode_\w+|(?:img|image)[.]convert)",
            contains=True,
        ),
        _rule(
            CallClass.TOKENISE,
            r"(?:.*[._])?\w*[tT]okenizer(?:\(\))?"
            r"(?:[.](?:encode|decode|tokenize|__call__|convert_tokens_to_ids|apply_chat_template)\w*)?"
            r"|.*[.](?:encode_batch|encode_batch_fast|decode_batch|batch_decode|batch_encode_plus|apply_chat_template)"
            r"|(?:.*[.])?tiktoken[.]\w+(?:\(\)[.]\w+)?",
            contains=True,
        ),
        _rule(
            CallClass.MODEL_FORWARD,
            r"(?:.*[.])?(?:forward|_call_impl|_wrapped_call_impl)|(?:F|nn[.]functional|torch[.]nn[.]functional)[.]\w+"
            r"|torch[.](?:matmul|mm|bmm|addmm|einsum|scaled_dot_product_attention)",
            contains=True,
        ),
        _rule(
            CallClass.LOCK,
            r".*[.]acquire|(?:.*[.])?\w*(?:[lL]ock|[mM]utex|[sS]emaphore|[cC]ondition|_cond|_cv)(?:\(\))?[.]__enter__",
            contains=False,
        ),
        _rule(CallClass.SLEEP, r"(?:.*[.])?(?:time|asyncio|gevent)[.]sleep|sleep", contains=True),
        _rule(
            CallClass.SLEEP,
            r".*[.](?:wait|wait_for)|(?:.*[.])?\w*(?:[tT]hread|[pP]rocess)\w*(?:\(\))?[.]join|(?:.*[.])?select[.]\w+"
            r"|.*[.]select",
            contains=False,
        ),
        _rule(CallClass.POLL, r".*[.](?:get_nowait|poll)", contains=False),
        _rule(
            CallClass.SOCKET,
            r".*[.](?:send|recv|sendall|sendmsg|recvmsg|recv_into|sendto|recvfrom)"
            r"|.*[.](?:send|recv)_(?:multipart|string|json|bytes)|(?:.*[.])?(?:socket|sock|transport)[.]\w+",
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
)

# Native frames (`py-spy record --native`) name the C function and its shared object; where they exist they settle what
# the line only suggests.
_NATIVE: tuple[tuple[re.Pattern[str], CallClass], ...] = (
    (re.compile(r"_?(?:_pickle_|Pickler_|Unpickler_|pickle_)\w+|.* \((?:.*/)?_pickle\b.*"), CallClass.PICKLE),
    (
        re.compile(
            r"(?:EVP_Digest|SHA\d|sha\d|Blake|blake|_?MD5|md5|XXH)\w*|.* \((?:.*/)?_(?:sha|md5|blake|hashlib)\w*[.].*"
        ),
        CallClass.HASH,
    ),
    (re.compile(r"(?:gloo|c10d|nccl|mpi)(?:::|[A-Z_]).*|.* \((?:.*/)?lib(?:nccl|gloo|mpi)\b.*"), CallClass.COLLECTIVE),
    (
        re.compile(r"(?:jpeg_|png_|WebP|ImagingJpeg|ImagingZip)\w+|.* \((?:.*/)?lib(?:jpeg|png|webp)\w*[.-].*"),
        CallClass.IMAGE_DECODE,
    ),
    (re.compile(r"take_gil|pthread_mutex_lock|__lll_lock_wait|PyThread_acquire_lock\w*"), CallClass.LOCK),
)
_NATIVE_FILE = re.compile(
    r".*(?:[.](?:so(?:[.]\d+)*|c|cc|cpp|cxx|cu|h|hpp|rs|pyd)|\[\w+\])\Z|(?:.*/)?(?:libc|ld-linux|libpython)\b.*"
)


def is_native(file: str) -> bool:
    """Tell whether a frame's file is compiled code: a shared object, what it was compiled from, or the kernel."""
    return not file.endswith(".py") and _NATIVE_FILE.match(file) is not None


def native_class(function: str, file: str) -> CallClass | None:
    """Class a native frame by its function and shared object, or None where they say nothing."""
    text = f"{function} ({file})"
    return next((call_class for names, call_class in _NATIVE if names.match(text)), None)


def first_match(rules: Sequence[CallRule], names: Sequence[str]) -> CallRule | None:
    """Return the first rule that one of `names` matches; names earlier in the list are tried first."""
    for name in names:
        for rule in rules:
            if rule.names.match(name):
                return rule
    return None
