from __future__ import annotations

import pytest
from evidence_samples import Sources

from perfguard.evidence.callrules import GENERIC_RULES, CallClass, is_native, make_call_rules, native_class
from perfguard.evidence.callsites import CallSites, classify, classify_stack
from perfguard.model.errors import UsageError
from perfguard.model.profile import Frame
from perfguard.workflows.call_rules import packaged_call_rules, read_call_rules


def line(text, number, file="x.py", **others):
    """The class of a line, taken as the end of a stack."""
    sources = Sources({file: text, **{name.replace("__", "/") + ".py": body for name, body in others.items()}})
    return classify(Frame(function="f", file=file, line=number), sources, packaged_call_rules())


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("Image.open(io.BytesIO(data))", CallClass.IMAGE_DECODE),
        ("decoder.decode(b)", CallClass.IMAGE_DECODE),
        ("cv2.imdecode(raw, 1)", CallClass.IMAGE_DECODE),
        ("decode_jpeg(raw)", CallClass.IMAGE_DECODE),
        ("image.convert('RGB')", CallClass.IMAGE_DECODE),
        ("self.tokenizer(texts)", CallClass.TOKENISE),
        ("self.tokenizer.encode(text)", CallClass.TOKENISE),
        ("self._tokenizer.encode_batch(texts)", CallClass.TOKENISE),
        ("tokenizer.batch_decode(ids)", CallClass.TOKENISE),
        ("self.tokenizer.apply_chat_template(messages)", CallClass.TOKENISE),
        ("self.model.forward(batch)", CallClass.MODEL_FORWARD),
        ("self._call_impl(*args)", CallClass.MODEL_FORWARD),
        ("F.linear(x, w)", CallClass.MODEL_FORWARD),
        ("torch.matmul(a, b)", CallClass.MODEL_FORWARD),
        ("lock.acquire()", CallClass.LOCK),
        ("with self._lock: pass", CallClass.LOCK),
        ("with open(path) as f: pass", CallClass.OTHER),
        ("with self.condition: pass", CallClass.LOCK),
        ("forward_to_peer(x)", CallClass.OTHER),
        ("text.encode()", CallClass.OTHER),
        ("raw.decode('utf-8')", CallClass.OTHER),
        ("block(x)", CallClass.OTHER),
        ("time.sleep(1)", CallClass.SLEEP),
        ("event.wait()", CallClass.SLEEP),
    ],
)
def test_more_classes_by_name(call, expected):
    assert line(call, 1) is expected


@pytest.mark.parametrize(
    ("text", "number", "expected"),
    [
        ("from pickle import dumps\ndef f(x):\n    return dumps(x)\n", 3, CallClass.PICKLE),
        ("from pickle import dumps as d\ndef f(x):\n    return d(x)\n", 3, CallClass.PICKLE),
        ("import pickle as p\ndef f(x):\n    return p.dumps(x)\n", 3, CallClass.PICKLE),
        ("from json import dumps\ndef f(x):\n    return dumps(x)\n", 3, CallClass.OTHER),
        ("def f(x):\n    h = hashlib.sha256()\n    h.update(x)\n", 3, CallClass.HASH),
        ("def f(x):\n    h = {}\n    h.update(x)\n", 3, CallClass.OTHER),
        (
            "send = functools.partial(pickle.dumps, protocol=4)\ndef f(x):\n    send(x)\n",
            3,
            CallClass.PICKLE,
        ),
        (
            "class C:\n    def __init__(self):\n        self.d = pickle.dumps\n    def f(self):\n        self.d(1)\n",
            5,
            CallClass.PICKLE,
        ),
        ("import torch.distributed as td\ndef f(x):\n    td.all_reduce(x)\n", 3, CallClass.COLLECTIVE),
        # A name that is assigned twice, or is a parameter, stands for itself.
        ("go = pickle.dumps\ngo = print\ndef f(x):\n    go(x)\n", 4, CallClass.OTHER),
        ("from pickle import dumps\ndef f(dumps):\n    dumps(1)\n", 3, CallClass.OTHER),
        ("x = y\ny = x\ndef f():\n    x()\n", 4, CallClass.OTHER),
    ],
)
def test_a_name_is_looked_through_to_what_it_stands_for(text, number, expected):
    assert line(text, number) is expected


@pytest.mark.parametrize("call", ["asyncio.sleep(1)", "event.wait()", "lock.acquire()", "sock.recv(4)", "helper(x)"])
def test_what_is_awaited_holds_up_nothing(call):
    assert line(f"async def f(x):\n    await {call}\n", 2) is CallClass.OTHER


def test_pickling_that_is_awaited_still_pickles():
    assert line("async def f(s, x):\n    await s.send(pickle.dumps(x))\n", 2) is CallClass.PICKLE


def test_a_wrapper_in_the_same_file_has_the_class_of_what_it_calls():
    text = "def ship(x):\n    return wrap(x)\ndef wrap(x):\n    return pickle.dumps(x)\ndef f(x):\n    ship(x)\n"

    assert line(text, 6) is CallClass.PICKLE


def test_wrappers_are_followed_two_levels_and_no_further():
    text = "def a(x):\n    b(x)\ndef b(x):\n    c(x)\ndef c(x):\n    pickle.dumps(x)\n\na(1)\nb(1)\n"

    assert line(text, 9) is CallClass.PICKLE
    assert line(text, 8) is CallClass.OTHER


def test_a_method_is_found_in_its_own_class():
    text = (
        "class One:\n    def go(self):\n        self.put()\n    def put(self):\n        pickle.dumps(1)\n"
        "class Two:\n    def go(self):\n        self.put()\n    def put(self):\n        print(1)\n"
    )

    assert (line(text, 3), line(text, 8)) == (CallClass.PICKLE, CallClass.OTHER)


@pytest.mark.parametrize(
    ("head", "call"),
    [
        ("from util.wire import pack", "pack(1)"),
        ("import util.wire", "util.wire.pack(1)"),
        ("from util import wire", "wire.pack(1)"),
        ("from .wire import pack", "pack(1)"),
        ("from . import wire", "wire.pack(1)"),
    ],
)
def test_wrappers_are_followed_across_imports(head, call):
    wire = "def pack(x):\n    return pickle.dumps(x)\n"

    assert line(f"{head}\n{call}\n", 2, file="util/here.py", util__wire=wire) is CallClass.PICKLE


def test_a_function_that_does_much_is_no_wrapper():
    body = "".join(f"    work_{number}(x)\n" for number in range(8))
    text = f"def serve(x):\n{body}    pickle.dumps(x)\nserve(1)\n"

    assert line(text, 11) is CallClass.OTHER


def test_functions_that_call_each_other_end():
    assert line("def a():\n    b()\ndef b():\n    a()\na()\n", 5) is CallClass.OTHER


def test_a_wrapper_decides_only_at_the_end_of_a_stack():
    text = "def pack(x):\n    return pickle.dumps(x)\ndef f(x):\n    pack(x)\n"
    inside = Frame(function="gone", file="gone.py", line=1)
    sources = Sources({"x.py": text})

    assert classify_stack((Frame(function="f", file="x.py", line=4), inside), sources) is CallClass.UNKNOWN


def test_native_frames_corroborate():
    text = "def f(x):\n    ship(x)\n    pickle.dumps(x)\n"
    sources = Sources({"x.py": text})
    caller = Frame(function="f", file="x.py", line=2)
    save = Frame(function="save", file="/build/Modules/_pickle.c", line=4363)
    libc = Frame(function="0x7f26", file="/usr/lib/x86_64-linux-gnu/libc.so.6", line=0)

    found = CallSites(sources).stack((caller, save, libc))

    assert (found.call_class, found.site) == (CallClass.PICKLE, caller)
    assert classify_stack((caller, libc), sources) is CallClass.OTHER
    assert classify_stack((Frame(function="f", file="x.py", line=3), libc), sources) is CallClass.PICKLE
    assert classify_stack((libc,), sources) is CallClass.UNKNOWN


@pytest.mark.parametrize(
    ("function", "file", "expected"),
    [
        ("_pickle_dumps", "/build/Modules/clinic/_pickle.c.h", CallClass.PICKLE),
        ("save_long", "/lib/_pickle.cpython-311-x86_64-linux-gnu.so", CallClass.PICKLE),
        ("EVP_DigestUpdate", "/lib/libcrypto.so.3", CallClass.HASH),
        ("gloo::broadcast", "libtorch_cpu.so", CallClass.COLLECTIVE),
        ("jpeg_read_scanlines", "libjpeg.so.62", CallClass.IMAGE_DECODE),
        ("memcpy", "libc.so.6", None),
    ],
)
def test_native_functions_are_classed(function, file, expected):
    assert native_class(function, file) is expected
    assert is_native(file)


def test_a_servers_own_rules_go_first():
    own = make_call_rules({"call": [{"class": "hash", "names": "pickle[.]dumps", "contains": True}]}, "own")
    sources = Sources({"x.py": "pickle.dumps(1)"})
    frame = Frame(function="f", file="x.py", line=1)

    assert classify(frame, sources, own.before(GENERIC_RULES)) is CallClass.HASH
    assert classify(frame, sources, GENERIC_RULES) is CallClass.PICKLE


def test_the_packaged_rules_know_sglangs_names():
    rules = packaged_call_rules()

    assert {"recv_requests", "self_check_during_idle"} <= rules.poll_functions
    assert line("broadcast_pyobj(x)", 1) is CallClass.PICKLE
    assert (
        classify(Frame(function="f", file="x.py", line=1), Sources({"x.py": "broadcast_pyobj(x)"})) is CallClass.OTHER
    )


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"calls": []}, "unknown field calls"),
        ({"call": {}}, "[[call]]"),
        ({"call": ["x"]}, "number 1 must be a table"),
        ({"call": [{"class": "nothing", "names": "x"}]}, "class must be one of"),
        ({"call": [{"class": "other", "names": "x"}]}, "class must be one of"),
        ({"call": [{"class": "hash"}]}, "names must be"),
        ({"call": [{"class": "hash", "names": "("}]}, "no regular expression"),
        ({"call": [{"class": "hash", "names": "x", "contains": 1}]}, "true or false"),
        ({"call": [{"class": "hash", "names": "x", "more": 1}]}, "unknown field more"),
        ({"poll": []}, "must be a table"),
        ({"poll": {"functions": [1]}}, "list of function names"),
        ({"poll": {"names": []}}, "unknown field names"),
    ],
)
def test_wrong_rules_are_named(document, says):
    with pytest.raises(UsageError) as raised:
        make_call_rules(document, "rules.toml")
    assert says in raised.value.message
    assert raised.value.message.startswith("rules.toml")


def test_a_file_of_rules_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("[[call\n")

    for path, says in ((broken, "not valid TOML"), (tmp_path / "gone.toml", "cannot read")):
        with pytest.raises(UsageError, match=says):
            read_call_rules(path)
