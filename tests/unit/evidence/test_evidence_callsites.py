from __future__ import annotations

import pytest
from evidence_samples import Sources

from perfguard.evidence.callrules import GENERIC_RULES, make_call_rules
from perfguard.evidence.callsites import CallClass, CallSites, classify, classify_stack
from perfguard.model.profile import Frame

TRANSPORT = """\
def pack(thing, device):
    buffer = io.BytesIO()
    _pickler(buffer).dump(thing)
    flat = torch.ByteTensor(
        np.frombuffer(buffer.getvalue())
    ).to(device)
    return flat


def unpack(flat, count):
    raw = flat.cpu().numpy()
    return _unpickler(io.BytesIO(raw)).load()


def object_broadcast(things, group):
    sizes, flats = zip(
        *[pack(thing, "cpu") for thing in things]
    )
    broadcast(sizes, group=group)
    broadcast(flats, group=group)
    work.wait()
    return [unpack(flat, 1) for flat in flats]


def reduced(tensor):
    data = tensor.cpu()
    return helper(data)
"""

SERVER = """\
class Loop:
    def forever(self):
        while True:
            todo = self.recv_requests()
            self.serve(todo)

    def recv_requests(self):
        try:
            one = self.inbox.recv_pyobj(zmq.NOBLOCK)
        except zmq.ZMQError:
            pass
        return broadcast_pyobj([one], self.group)

    def serve(self, todo):
        torch.distributed.broadcast_object_list(
            todo, src=0
        )
        self.digest(todo)
        time.sleep(0.01)
        name = ", ".join(todo)
        self.outbox.send(todo)

    def digest(self, todo):
        return hashlib.sha256(todo).hexdigest()

    def quick_hash(self, todo):
        return todo.tobytes()


def broadcast_pyobj(data, group):
    if not data:
        size = torch.tensor([0])
        dist.broadcast(tensor_size, src=0, group=group)
        return []
    text = pickle.dumps(data)
    dist.broadcast(tensor_size, src=0, group=group)
    dist.broadcast(tensor_data, src=0, group=group)
    return text


class Socket:
    def recv_pyobj(self, flags):
        message = self.recv(flags)
        return self._read(message, pickle.loads)

    def _read(self, message, load):
        return load(message)


def collective(tensor, group):
    work = group.broadcast([tensor], options)
    work.wait()
"""

SERVER_RULES = make_call_rules({"poll": {"functions": ["recv_requests"]}}, "test").before(GENERIC_RULES)
SOURCES = Sources({"transport.py": TRANSPORT, "server.py": SERVER, "broken.py": "def f(:\n", "nul.py": "a\x00b"})


def line_of(text, needle):
    """The number of the only line that holds `needle`."""
    (number,) = [number for number, line in enumerate(text.splitlines(), 1) if needle in line]
    return number


def transport(function, needle):
    return Frame(function=function, file="transport.py", line=line_of(TRANSPORT, needle))


def server(function, needle):
    return Frame(function=function, file="server.py", line=line_of(SERVER, needle))


RECEIVE = server("Loop.recv_requests", "return broadcast_pyobj([one]")
IN_COLLECTIVE = Frame(function="collective", file="server.py", line=line_of(SERVER, "group.broadcast([tensor]"))
EMPTY_BROADCAST = Frame(function="broadcast_pyobj", file="server.py", line=line_of(SERVER, "size = torch.tensor") + 1)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (transport("pack", "_pickler(buffer)"), CallClass.PICKLE),
        (transport("pack", "torch.ByteTensor("), CallClass.TENSOR_COPY),
        (transport("pack", "np.frombuffer"), CallClass.OTHER),
        (transport("pack", ").to(device)"), CallClass.TENSOR_COPY),
        (transport("pack", "io.BytesIO()"), CallClass.OTHER),
        (transport("pack", "return flat"), CallClass.OTHER),
        (transport("unpack", "_unpickler"), CallClass.PICKLE),
        (transport("object_broadcast", "broadcast(flats"), CallClass.COLLECTIVE),
        (transport("object_broadcast", "work.wait()"), CallClass.COLLECTIVE),
        (server("Loop.serve", "broadcast_object_list"), CallClass.PICKLE),
        (server("Loop.serve", "todo, src=0"), CallClass.PICKLE),
        (server("Loop.serve", "time.sleep"), CallClass.SLEEP),
        (server("Loop.serve", ".join(todo)"), CallClass.OTHER),
        (server("Loop.serve", "outbox.send"), CallClass.SOCKET),
        (server("Loop.digest", "hashlib"), CallClass.HASH),
        (server("Loop.quick_hash", "tobytes"), CallClass.HASH),
        (server("Loop.recv_requests", "NOBLOCK"), CallClass.POLL),
        (server("broadcast_pyobj", "pickle.dumps"), CallClass.PICKLE),
        (server("Socket.recv_pyobj", "pickle.loads"), CallClass.PICKLE),
        (Frame(function="f", file="gone.py", line=3), CallClass.UNKNOWN),
        (Frame(function="f", file="broken.py", line=1), CallClass.UNKNOWN),
        (Frame(function="f", file="nul.py", line=1), CallClass.UNKNOWN),
        (Frame(function="f", file="server.py", line=0), CallClass.UNKNOWN),
        (Frame(function="f", file="server.py", line=10_000), CallClass.OTHER),
    ],
)
def test_a_line_is_classed_by_its_call(frame, expected):
    assert classify(frame, SOURCES) is expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("cloudpickle.dumps(x)", CallClass.PICKLE),
        ("ForkingPickler.loads(x)", CallClass.PICKLE),
        ("torch.load(f)", CallClass.PICKLE),
        ("json.loads(x)", CallClass.OTHER),
        ("self.pickle_jar.open(x)", CallClass.OTHER),
        ("self.sock.recv(4)", CallClass.SOCKET),
        ("self.sock.recv(4, zmq.DONTWAIT)", CallClass.POLL),
        ("queue.get_nowait()", CallClass.POLL),
        ("dist.all_reduce(x)", CallClass.COLLECTIVE),
        ("functools.reduce(add, x)", CallClass.OTHER),
        ("self.group.barrier()", CallClass.COLLECTIVE),
        ("self._event.wait(1)", CallClass.SLEEP),
        ("handles[0].wait()", CallClass.COLLECTIVE),
        ("tensor_hash(x)", CallClass.HASH),
        ("x[0].contiguous()", CallClass.TENSOR_COPY),
        ("rows.append(x.clone())", CallClass.TENSOR_COPY),
    ],
)
def test_calls_by_name(call, expected):
    assert classify(Frame(function="f", file="x.py", line=1), Sources({"x.py": call})) is expected


def test_a_lambda_inside_a_call_is_not_that_call():
    text = "pickle.dumps(\n    lambda x: (\n        x\n    )\n)\n"

    assert classify(Frame(function="<lambda>", file="x.py", line=3), Sources({"x.py": text})) is CallClass.OTHER


def test_a_wait_inside_an_object_broadcast_is_no_pickling():
    frames = (
        server("Loop.serve", "broadcast_object_list"),
        transport("object_broadcast", "broadcast(flats"),
        IN_COLLECTIVE,
    )

    assert classify_stack(frames, SOURCES) is CallClass.COLLECTIVE


def test_the_pickler_inside_an_object_broadcast_is_pickling():
    frames = (
        server("Loop.serve", "broadcast_object_list"),
        transport("object_broadcast", "*[pack(thing"),
        transport("pack", "_pickler(buffer)"),
    )

    assert classify_stack(frames, SOURCES) is CallClass.PICKLE


def test_a_copy_that_a_pickler_asked_for_is_pickling_and_belongs_to_the_picklers_line():
    pickler = transport("pack", "_pickler(buffer)")
    frames = (pickler, Frame(function="__reduce_ex__", file="transport.py", line=line_of(TRANSPORT, "tensor.cpu()")))

    verdict = CallSites(SOURCES).stack(frames)

    assert (verdict.call_class, verdict.site) == (CallClass.PICKLE, pickler)


def test_nested_pickling_belongs_to_the_outermost_line_that_pickles():
    outer = server("broadcast_pyobj", "pickle.dumps")
    inner = transport("pack", "_pickler(buffer)")

    assert CallSites(SOURCES).stack((outer, inner)).site == outer


def test_a_copy_beside_a_pickler_is_a_copy():
    frames = (transport("object_broadcast", "*[pack(thing"), transport("pack", ").to(device)"))

    assert classify_stack(frames, SOURCES) is CallClass.TENSOR_COPY


def test_an_empty_receive_is_polling_down_to_the_library():
    leaf = server("Socket.recv_pyobj", "self.recv(flags)")
    frames = (server("Loop.forever", "self.recv_requests()"), server("Loop.recv_requests", "NOBLOCK"), leaf)

    assert classify_stack(frames, SOURCES, SERVER_RULES) is CallClass.POLL


def test_unpickling_a_received_request_is_no_polling():
    frames = (
        server("Loop.recv_requests", "NOBLOCK"),
        server("Socket.recv_pyobj", "pickle.loads"),
        server("Socket._read", "load(message)"),
    )

    assert classify_stack(frames, SOURCES, SERVER_RULES) is CallClass.PICKLE


@pytest.mark.parametrize("beneath", [(), (IN_COLLECTIVE,)])
def test_broadcasting_an_empty_list_is_polling(beneath):
    assert classify_stack((RECEIVE, EMPTY_BROADCAST, *beneath), SOURCES, SERVER_RULES) is CallClass.POLL


def test_the_entry_of_the_transport_alone_is_polling_in_a_receive_loop():
    assert classify_stack((RECEIVE,), SOURCES, SERVER_RULES) is CallClass.POLL


def test_pickling_and_payloads_in_a_receive_loop_are_work():
    payload = server("broadcast_pyobj", "tensor_data")

    assert (
        classify_stack((RECEIVE, server("broadcast_pyobj", "pickle.dumps")), SOURCES, SERVER_RULES) is CallClass.PICKLE
    )
    assert classify_stack((RECEIVE, payload, IN_COLLECTIVE), SOURCES, SERVER_RULES) is CallClass.COLLECTIVE


def test_the_same_broadcast_outside_a_receive_loop_is_a_collective():
    assert (
        classify_stack((server("Loop.forever", "serve(todo)"), EMPTY_BROADCAST), SOURCES, SERVER_RULES)
        is CallClass.COLLECTIVE
    )


def test_a_stack_without_source_is_unknown_unless_a_caller_contains_it():
    gone = Frame(function="f", file="gone.py", line=3)

    assert classify_stack((gone,), SOURCES) is CallClass.UNKNOWN
    assert classify_stack((), SOURCES) is CallClass.UNKNOWN
    assert classify_stack((server("broadcast_pyobj", "pickle.dumps"), gone), SOURCES) is CallClass.PICKLE


def test_where_a_function_was_entered_only_its_own_call_is_asked():
    text = "def outer(x):\n    inner(pickle.dumps(x))\n\ndef inner(y):\n    y += 1\n"
    sources = Sources({"x.py": text})
    outer = Frame(function="outer", file="x.py", line=2)

    assert classify_stack((outer,), sources) is CallClass.PICKLE
    assert classify_stack((outer, Frame(function="inner", file="x.py", line=5)), sources) is CallClass.OTHER


def test_foreign_source_may_be_sloppy_or_too_deep(recwarn):
    sloppy = Sources({"x.py": 'pickle.dumps("\\d")\n', "deep.py": "f(" * 3000 + ")" * 3000})

    assert classify(Frame(function="f", file="x.py", line=1), sloppy) is CallClass.PICKLE
    assert classify(Frame(function="f", file="deep.py", line=1), sloppy) is CallClass.UNKNOWN
    assert not recwarn.list
