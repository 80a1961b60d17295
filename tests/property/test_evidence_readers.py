"""Readers on anything: a profile or one clear error, and never another exception."""

from __future__ import annotations

import json
import marshal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfguard.evidence.callsites import CallSites
from perfguard.evidence.cost import count_stacks
from perfguard.evidence.reading import read_profile
from perfguard.evidence.sourceindex import index_source
from perfguard.evidence.stacktable import StackTable
from perfguard.evidence.summary import summarise
from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame, Stack
from perfguard.workflows.call_rules import packaged_call_rules

NASTY = [
    "</script>",
    "\x00",
    "process 1:",
    'process 1:"',
    '";',
    "thread (1): ",
    "tid:1",
    ";",
    " ",
    "\n",
    "\r",
    "(",
    ")",
    ":",
    "1",
    "9" * 30,
]
NAMES = st.one_of(st.text(max_size=12), st.lists(st.sampled_from(NASTY), max_size=8).map("".join))
FRAMES = st.fixed_dictionaries({"name": NAMES}, optional={"file": NAMES | st.none(), "line": st.integers() | st.none()})
UNITS = st.sampled_from(["none", "seconds", "milliseconds", "microseconds", "nanoseconds", "bytes", "moons"])
WEIGHTS = st.one_of(st.just(0.01), st.integers(-2, 9), st.floats(allow_nan=False, allow_infinity=False))
PLACES = st.integers(-2, 5)
PROFILES = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("sampled"),
            "name": NAMES,
            "unit": UNITS,
            "samples": st.lists(st.lists(PLACES, max_size=6), max_size=6),
            "weights": st.lists(WEIGHTS, max_size=6),
        }
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("evented"),
            "unit": UNITS,
            "events": st.lists(
                st.fixed_dictionaries({"type": st.sampled_from("OC"), "frame": PLACES, "at": WEIGHTS}), max_size=8
            ),
        }
    ),
)
TABLES = st.dictionaries(
    st.tuples(NAMES, st.integers(-1, 10**7), NAMES) | st.integers() | NAMES,
    st.tuples(*[st.integers() | st.floats() | NAMES] * 4, st.just({})) | st.integers(),
    max_size=4,
)


def read_or_refuse(data):
    """Read and summarise; only a `PerfguardError` may come out."""
    try:
        profile = read_profile(data, name="file")
    except PerfguardError as error:
        refusal = error.message
    else:
        refusal = ""
    if refusal:
        assert refusal.startswith("file")
        assert len(refusal) < 1000
        return
    assert all(stack.samples > 0 for stack in profile.stacks)
    summary = summarise(profile, CallSites(Nothing()), name="file", role="rank-0")
    assert summary.samples == sum(stack.samples for stack in profile.stacks)
    assert 0.0 <= summary.pickle_frac <= 1.0


class Nothing:
    def source(self, _file):
        return None


@given(st.binary(max_size=400))
@settings(max_examples=400)
def test_any_bytes(data):
    read_or_refuse(data)


@given(st.lists(st.one_of(NAMES, st.sampled_from(NASTY)), max_size=12).map("".join), st.integers(0, 20))
@settings(max_examples=400)
def test_any_text_that_looks_like_folded_stacks(text, count):
    read_or_refuse(f"{text} {count}\n".encode(errors="replace"))


@given(st.lists(FRAMES, max_size=5), st.lists(PROFILES, max_size=3))
@settings(max_examples=300)
def test_any_speedscope_file(frames, profiles):
    read_or_refuse(json.dumps({"shared": {"frames": frames}, "profiles": profiles}).encode())


@given(st.lists(FRAMES, max_size=5), st.lists(PROFILES, max_size=3), st.integers(0, 10**6), st.binary(max_size=3))
@settings(max_examples=200)
def test_speedscope_files_that_were_damaged(frames, profiles, place, bytes_in_place):
    data = json.dumps({"shared": {"frames": frames}, "profiles": profiles}).encode()
    place %= len(data)
    read_or_refuse(data[:place] + bytes_in_place + data[place + len(bytes_in_place) + 1 :])


@given(TABLES)
@settings(max_examples=300)
def test_any_marshalled_table(table):
    read_or_refuse(marshal.dumps(table))


@given(TABLES, st.integers(0, 10**6), st.binary(max_size=3))
@settings(max_examples=300)
def test_marshalled_tables_that_were_damaged(table, place, bytes_in_place):
    data = marshal.dumps(table)
    place %= len(data)
    read_or_refuse(data[:place] + bytes_in_place + data[place + len(bytes_in_place) + 1 :])


@pytest.mark.parametrize("name", ["n" * 10_000_000, "</script>" * 100_000, "\x00" * 100_000, ";" * 100_000])
@pytest.mark.parametrize("kind", ["folded", "speedscope"])
def test_huge_and_hostile_names(name, kind):
    if kind == "folded":
        read_or_refuse(f"main (a.py:1);{name} (b.py:2) 7\n".encode())
        return
    frames = [{"name": name, "file": name, "line": 1}]
    sampled = {"type": "sampled", "name": name, "unit": "none", "samples": [[0], [0, 0]], "weights": [1, 2]}
    read_or_refuse(json.dumps({"shared": {"frames": frames}, "profiles": [sampled]}).encode())


@given(st.lists(st.lists(st.integers(0, 3), max_size=40), min_size=1, max_size=6))
@settings(max_examples=100)
def test_stacks_that_go_in_circles(samples):
    frames = [{"name": f"f{n}", "file": "a.py", "line": n} for n in range(4)]
    profile = {"type": "sampled", "name": "t", "unit": "none", "samples": samples, "weights": [1] * len(samples)}
    data = json.dumps({"shared": {"frames": frames}, "profiles": [profile]}).encode()

    read_or_refuse(data)
    recursive = read_profile(data, name="file")
    costs = count_stacks(recursive.stacks, role="r", sample_ms=1.0, is_polling=lambda _: False)
    # A frame that recurs counts once a stack, so that no function costs more than the whole.
    assert all(total <= costs.working_ms for total in costs.frame_totals().values())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.lists(st.integers(0, 3), max_size=30))
def test_evented_speedscope_that_opens_and_closes_in_any_order(opened, closed):
    frames = [{"name": f"f{n}"} for n in range(4)]
    events = [{"type": "O", "frame": frame, "at": n} for n, frame in enumerate(opened)]
    events += [{"type": "C", "frame": frame, "at": len(opened) + n} for n, frame in enumerate(closed)]
    profile = {"type": "evented", "name": "t", "unit": "seconds", "startValue": 0, "endValue": 99, "events": events}
    read_or_refuse(json.dumps({"shared": {"frames": frames}, "profiles": [profile]}).encode())


SOURCE_LINES = [
    "def f(x):",
    "    pickle.dumps(x)",
    "    h = hashlib.sha256()",
    "    h.update(x)",
    "    return g(x)",
    "    with lock:",
    "        pass",
    "def g(x):",
    "    return f(x)",
    "class C:",
    "    def m(self):",
    "        self.d = pickle.dumps",
    "        self.d(1)",
    "        return self.m()",
    "from a import b as c",
    "c(c)",
    "x = x",
    "y = x",
    "x = y",
    "y()",
]


@given(st.lists(st.sampled_from(SOURCE_LINES), max_size=25), st.integers(0, 30))
@settings(max_examples=300)
def test_any_source_is_indexed_or_refused_and_every_line_is_classed(lines, line):
    text = "\n".join(lines)

    class Source:
        def source(self, _file):
            return text

    index = index_source(text)
    frame = Frame(function="f", file="a.py", line=line)
    found = CallSites(Source(), packaged_call_rules()).line(frame)
    assert index is not None or found.call_class.value == "unknown"


FUNCTIONS = st.sampled_from(["serve", "recv_requests", "broadcast", "dump", "leaf"])
STACKS = st.lists(
    st.builds(
        Stack,
        thread=st.just(""),
        tid=st.just(0),
        frames=st.lists(
            st.builds(
                Frame,
                function=FUNCTIONS,
                file=st.sampled_from(["app.py", "gone.py", "libc.so.6", "_pickle.so"]),
                line=st.integers(0, 12),
            ),
            max_size=7,
        ).map(tuple),
        samples=st.integers(1, 9),
    ),
    max_size=12,
)
APP = """\
def serve(x):
    broadcast(x)
    dump(x)
    x.to(y)
    pickle.dumps(x)
def recv_requests():
    dist.broadcast(size)
    dist.broadcast(payload)
def broadcast(x):
    hashlib.sha256(x)
    dist.broadcast(x)
"""


@given(STACKS)
@settings(max_examples=400)
def test_a_table_of_stacks_is_classed_as_its_stacks_are_one_by_one(stacks):
    class Source:
        def source(self, file):
            return APP if file == "app.py" else None

    table = StackTable(stacks)
    sites = CallSites(Source(), packaged_call_rules())
    one_by_one = CallSites(Source(), packaged_call_rules())

    assert sites.table(table) == [one_by_one.stack(stack.frames) for stack in stacks if stack.frames]
