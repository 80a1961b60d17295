from __future__ import annotations

import cProfile
import io
import json
import marshal
import pstats

import pytest

from perfguard.evidence.reading import ProfileFormat, WeightUnit, detect_format, read_profile
from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame

SCRIPT = "</script><script>alert(1)</script>"


def speedscope(profiles, frames=("a", "b", "c"), **more):
    shared = {"frames": [frame if isinstance(frame, dict) else {"name": frame} for frame in frames]}
    return json.dumps({"shared": shared, "profiles": profiles, **more}).encode()


def sampled(samples, weights, unit="seconds", name="t"):
    return {"type": "sampled", "name": name, "unit": unit, "samples": samples, "weights": weights}


def evented(events, unit="microseconds"):
    return {"type": "evented", "unit": unit, "events": [{"type": kind, "frame": n, "at": at} for kind, n, at in events]}


def read(data):
    return read_profile(data, name="file")


def functions(profile):
    return {tuple(frame.function for frame in stack.frames): stack.samples for stack in profile.stacks}


def cprofile_bytes():
    def spin():
        return sum(range(1000))

    profiler = cProfile.Profile()
    profiler.runcall(lambda: [spin() for _ in range(7)])
    stats = pstats.Stats(profiler, stream=io.StringIO())
    return marshal.dumps(stats.stats), stats.stats


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"f (a.py:1) 3\n", ProfileFormat.FOLDED),
        (b"\xef\xbb\xbff (a.py:1) 3\n", ProfileFormat.FOLDED),
        (b'  {"shared": {}}', ProfileFormat.SPEEDSCOPE),
        (b"{}", ProfileFormat.SPEEDSCOPE),
        (marshal.dumps({("f.py", 1, "g"): (1, 1, 0.1, 0.1, {})}), ProfileFormat.CPROFILE),
        (marshal.dumps({}), ProfileFormat.CPROFILE),
        (b"{lambda} (a.py:1) 3", ProfileFormat.FOLDED),
    ],
)
def test_a_format_is_known_by_content(data, expected):
    assert detect_format(data, "file") is expected


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"\x1f\x8b\x08\x00", "gunzip"),
        (b"PERFILE2\x00", "stackcollapse-perf.pl"),
        (b"<!DOCTYPE html><html>", "--format raw"),
        (b'<?xml version="1.0"?><svg>', "--format raw"),
        (b"SQLite format 3\x00", "database"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(data, says):
    with pytest.raises(PerfguardError) as raised:
        read(data)
    assert says in f"{raised.value.message} {raised.value.hint}"
    assert "file" in raised.value.message


def test_collapsed_stacks_of_any_tool_have_functions_only():
    profile = read(b"java;[libjvm.so];Foo::bar(int, char*) 12\nswapper;do_idle_[k] 3\n")

    assert functions(profile) == {("java", "[libjvm.so]", "Foo::bar(int, char*)"): 12, ("swapper", "do_idle_[k]"): 3}
    assert all(stack.thread == "" for stack in profile.stacks)


def test_python_315_collapsed_output():
    text = b"tid:4242;app.py:<module>:3;app.py:serve:12;<GC> 5\ntid:140245;app.py:<module>:3 2\n"

    profile = read(text)

    assert profile.stacks[0].frames == (
        Frame(function="<module>", file="app.py", line=3),
        Frame(function="serve", file="app.py", line=12),
        Frame(function="<GC>", file="", line=0),
    )
    assert (profile.stacks[0].tid, profile.stacks[1].tid) == (4242, 140245)


def test_python_315_thread_addresses_tell_threads_apart_but_are_no_os_ids():
    profile = read(b"tid:140245000000001;a.py:f:1 5\ntid:140245000000002;a.py:f:1 5\n")

    assert [stack.tid for stack in profile.stacks] == [0, 0]
    assert len({stack.thread for stack in profile.stacks}) == 2


def test_files_written_on_windows_are_read():
    assert functions(read(b"f;g 3\r\nf;h 1\r\n")) == {("f", "g"): 3, ("f", "h"): 1}


def test_nul_and_script_in_names_stay_as_they_are():
    profile = read(f"f\x00;{SCRIPT} 3".encode())

    assert functions(profile) == {("f\x00", SCRIPT): 3}


def test_a_name_of_ten_megabytes_is_a_name():
    name = b"x" * 10_000_000

    (stack,) = read(name + b" (" + name + b":7) 3\n").stacks

    assert (len(stack.frames[0].function), len(stack.frames[0].file), stack.frames[0].line) == (10**7, 10**7, 7)


def test_ten_megabytes_of_parentheses_are_a_name():
    (stack,) = read(b"(" * 2_000_000 + b")" * 2_000_000 + b" 3\n").stacks

    assert stack.samples == 3


def test_many_process_frames_in_one_record_take_no_long_time():
    text = 'process 1:"";' * 100_000 + "thread (7): w;f (a.py:1) 2"

    (stack,) = read(text.encode()).stacks

    assert (stack.tid, stack.samples) == (7, 2)


def test_a_command_that_is_never_closed_is_an_error_and_takes_no_long_time():
    text = 'process 1:"python -c ' + '\nprint("x"' * 50_000

    with pytest.raises(PerfguardError, match="never closed"):
        read(text.encode())


def test_speedscope_samples_of_one_interval_are_counted():
    profile = read(speedscope([sampled([[0, 1], [0], [0, 1]], [0.01, 0.01, 0.01], name='Thread 17 "w;x"')]))

    assert functions(profile) == {("a", "b"): 2, ("a",): 1}
    assert (profile.unit, profile.interval_s) == (WeightUnit.SAMPLES, pytest.approx(0.01))
    assert (profile.stacks[0].thread, profile.stacks[0].tid) == ("w;x", 17)


def test_speedscope_by_py_spy_with_threads_repeats_the_thread_as_a_frame():
    frames = ["thread (17): w", {"name": "f", "file": "/lib/a.py", "line": 3, "col": None}]

    profile = read_profile(
        speedscope([sampled([[0, 1]], [0.01], name='Thread 17 "w"')], frames), name="file", strip_prefixes=["/lib"]
    )

    assert profile.stacks[0].frames == (Frame(function="f", file="a.py", line=3),)
    assert (profile.stacks[0].thread, profile.stacks[0].tid) == ("w", 17)


def test_speedscope_samples_of_uneven_weight_become_microseconds():
    profile = read(speedscope([sampled([[0, 1], [0], [0, 1]], [1.5, 2.0, 0.25], unit="milliseconds")]))

    assert functions(profile) == {("a", "b"): 1750, ("a",): 2000}
    assert (profile.unit, profile.interval_s) == (WeightUnit.MICROSECONDS, None)


def test_speedscope_counts_without_a_unit_are_samples():
    profile = read(speedscope([sampled([[0, 1], [0]], [7, 2], unit="none")]))

    assert functions(profile) == {("a", "b"): 7, ("a",): 2}
    assert profile.unit is WeightUnit.SAMPLES


def test_speedscope_events_become_the_time_in_each_stack():
    events = [("O", 0, 0), ("O", 1, 10), ("C", 1, 30), ("O", 1, 35), ("C", 1, 40), ("C", 0, 100)]

    assert functions(read(speedscope([evented(events)]))) == {("a",): 75, ("a", "b"): 25}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"shared": {"frames": []}, "profiles": [', "no speedscope file"),
        (b'{"nodes": []}', "no speedscope file"),
        (b'[{"ph": "X"}]', "no speedscope file"),
        (b'{"shared": ' + b"[" * 100_000 + b"]" * 100_000 + b', "profiles": []}', "speedscope|nested"),
        (speedscope([sampled([[0, 3]], [1])]), "names frame 3"),
        (speedscope([sampled([[0, -1]], [1])]), "frame"),
        (speedscope([sampled([[0, True]], [1])]), "no list of frames"),
        (speedscope([sampled([[0, "b"]], [1])]), "no list of frames"),
        (speedscope([sampled([0], [1])]), "no list of frames"),
        (speedscope([sampled([[0]], [])]), "1 samples, but 0 weights"),
        (speedscope([sampled([[0]], [-1])]), "negative"),
        (speedscope([sampled([[0]], [1e300])]), "beyond all measure"),
        (speedscope([sampled([[0]], [1], unit="bytes")]), "counts bytes"),
        (speedscope([sampled([[0]], [1], unit="none"), sampled([[0]], [1])]), "counts beside times"),
        (speedscope([{"type": "graph", "unit": "seconds"}]), "unknown type"),
        (speedscope([evented([("O", 0, 0), ("O", 1, 1), ("C", 0, 2)])]), "not the innermost"),
        (speedscope([evented([("C", 0, 0)])]), "not the innermost"),
        (speedscope([evented([("O", 0, 5), ("C", 0, 4)])]), "back in time"),
        (speedscope([evented([("O", 0, 5)])]), "1 frames open"),
        (speedscope([evented([("O", 9, 5)])]), "names frame 9"),
        (speedscope([evented([("O", 0, n) for n in range(30_000)])]), "deeper than"),
    ],
)
def test_speedscope_files_that_contradict_themselves_are_refused(data, says):
    with pytest.raises(PerfguardError, match=says):
        read(data)


def test_a_cprofile_file_is_a_table():
    data, stats = cprofile_bytes()

    profile = read(data)

    assert (profile.format, profile.stacks) == (ProfileFormat.CPROFILE, ())
    assert {
        (row.file, row.line, row.function): (row.primitive_calls, row.calls, row.self_s, row.total_s)
        for row in profile.functions
    } == {key: value[:4] for key, value in stats.items()}
    assert [row.self_s for row in profile.functions] == sorted((row.self_s for row in profile.functions), reverse=True)


def test_every_cut_of_a_cprofile_file_is_an_error():
    data, _ = cprofile_bytes()

    for length in range(1, len(data) - 1, 7):
        with pytest.raises(PerfguardError):
            read(data[:length])


@pytest.mark.parametrize(
    "table",
    [
        {},
        {("f.py", 1): (1, 1, 0.1, 0.1, {})},
        {("f.py", -1, "f"): (1, 1, 0.1, 0.1, {})},
        {("f.py", 1, "f"): (1, 1, float("nan"), 0.1, {})},
        {("f.py", 1, "f"): (1, 10**400, 0.1, 0.1, {})},
        {("f.py", 1, "f"): (1, 1, b"x", 0.1, {})},
        {("f.py", 1, "f"): ((((((((((1,),),),),),),),),), 1, 0.1, 0.1, {})},
        {("f.py", 1, compile("1", "x", "eval")): (1, 1, 0.1, 0.1, {})},
    ],
)
def test_marshalled_data_that_is_no_table_of_functions_is_refused(table):
    with pytest.raises(PerfguardError):
        read(marshal.dumps(table))


@pytest.mark.parametrize(
    "data",
    [
        b"{(\xff\xff\xff\x7f",
        b"\xfb\xa9\x03r\x01\x00\x00\x00",
        b"{0trailing",
        b"{(\x01\x00\x00\x00u\xff\xff\xff\xff",
        b"{(" * 50_000,
    ],
)
def test_hostile_marshal_data_is_refused(data):
    with pytest.raises(PerfguardError):
        read(data)
