from __future__ import annotations

import pytest

from perfguard.evidence.stacks import function_key, merge, parse_folded, render_folded
from perfguard.model.errors import PerfguardError
from perfguard.model.profile import Frame, Stack


def test_threads_carry_their_os_id_and_name():
    (stack,) = parse_folded("thread (10219): MainThread;<module> (a.py:12);spin.<locals>.<lambda> (a.py:4) 109\n")

    assert stack == Stack(
        thread="MainThread",
        tid=10219,
        frames=(
            Frame(function="<module>", file="a.py", line=12),
            Frame(function="spin.<locals>.<lambda>", file="a.py", line=4),
        ),
        samples=109,
    )


def test_a_thread_without_a_name_and_a_file_without_a_line():
    (stack,) = parse_folded("thread (7);_start (libc.so.6) 2")

    assert (stack.thread, stack.tid) == ("", 7)
    assert stack.frames == (Frame(function="_start", file="libc.so.6", line=0),)


def test_an_interpreters_thread_id_is_no_os_id():
    (stack,) = parse_folded('thread (0x7F3A0C): "worker";f (a.py:1) 2')

    assert (stack.thread, stack.tid) == ('"worker"', 0)


def test_without_thread_frames_the_root_is_an_ordinary_frame():
    (stack,) = parse_folded("<module> (a.py:1);f (a.py:2) 3")

    assert [frame.function for frame in stack.frames] == ["<module>", "f"]
    assert (stack.thread, stack.tid) == ("", 0)


def test_process_frames_are_taken_off_though_commands_hold_line_breaks_and_semicolons():
    text = (
        'process 5:"python t.py";process 6:"python -c import time\n'
        "t=1; print(t)\n"
        'while 1: pass";thread (6);<module> (<string>:1) 68\n'
        'process 5:"python t.py";thread (5): MainThread;f (a.py:1) 2\n'
    )

    child, parent = parse_folded(text)

    assert (child.tid, child.samples, str(child.frames[0])) == (6, 68, "<module> (<string>:1)")
    assert (parent.tid, parent.thread, parent.samples) == (5, "MainThread", 2)


def test_a_thread_that_was_seen_without_python_frames_is_kept():
    assert parse_folded("thread (11277): gloo 4") == (Stack(thread="gloo", tid=11277, frames=(), samples=4),)


@pytest.mark.parametrize(
    ("text", "function", "file", "line"),
    [
        ("<lambda> (a b.py:3) 1", "<lambda>", "a b.py", 3),
        ("<module> (<frozen runpy>:198) 1", "<module>", "<frozen runpy>", 198),
        ("f (/srv/copy (2)/x.py:9) 1", "f", "/srv/copy (2)/x.py", 9),
        (
            "at::add(int, (anonymous namespace)::X) (libtorch.so) 1",
            "at::add(int, (anonymous namespace)::X)",
            "libtorch.so",
            0,
        ),
        ("naïve\u2028имя (файл.py:3) 1", "naïve\u2028имя", "файл.py", 3),
        ("nul\x00name (a\x00.py:3) 1", "nul\x00name", "a\x00.py", 3),
        ("no_place 1", "no_place", "", 0),
        ("x" * 10_000 + " (a.py:3) 1", "x" * 10_000, "a.py", 3),
        ("garbage (stops:-16186881) 1", "garbage", "stops:-16186881", 0),
    ],
)
def test_hostile_names(text, function, file, line):
    (stack,) = parse_folded(text)

    assert stack.frames == (Frame(function=function, file=file, line=line),)


def test_the_longest_import_root_is_taken_off_at_folder_bounds():
    root = "/venv/lib/python3.11"
    text = f"f ({root}/site-packages/torch/x.py:1);g ({root}/json/a.py:2);h (/venv/library/b.py:3) 1"

    (stack,) = parse_folded(text, strip_prefixes=[root, f"{root}/site-packages/", "/"])

    assert [frame.file for frame in stack.frames] == ["torch/x.py", "json/a.py", "/venv/library/b.py"]


def test_equal_stacks_are_added_up():
    (stack,) = parse_folded("f (a.py:1) 2\n\n   \nf (a.py:1) 5\n")

    assert stack.samples == 7


@pytest.mark.parametrize("bad", ["f (a.py:1)", "f (a.py:1) x", "f (a.py:1) 0", "f (a.py:1) -3", "f (a.py:1) ²", "12"])
def test_a_line_without_a_positive_count_is_named(bad):
    with pytest.raises(PerfguardError, match=r"^line 2 of the folded stacks"):
        parse_folded(f"f (a.py:1) 2\n{bad}\n")


def test_a_command_that_never_closes_is_named_by_its_first_line():
    with pytest.raises(PerfguardError, match=r"^line 2 .*never closed"):
        parse_folded('f (a.py:1) 2\nprocess 5:"python\nf (a.py:1) 2\nf (b.py:1) 2\n')


def test_a_long_malformed_line_is_shortened_in_the_message():
    with pytest.raises(PerfguardError) as caught:
        parse_folded("f" * 10_000)

    assert len(caught.value.message) < 250


def test_rendering_keeps_a_frame_apart_that_holds_a_separator():
    hostile = Stack(thread="a;b", tid=3, frames=(Frame(function="f;g\nh", file="a.py", line=1),), samples=2)

    (stack,) = parse_folded(render_folded([hostile]))

    assert stack == Stack(thread="a,b", tid=3, frames=(Frame(function="f,g h", file="a.py", line=1),), samples=2)


def test_a_function_named_like_a_thread_stays_a_frame():
    odd = Stack(thread="", tid=0, frames=(Frame(function="thread", file="12", line=0),), samples=2)

    assert parse_folded(render_folded([odd])) == (odd,)


def test_merging_keeps_threads_apart():
    one = parse_folded("thread (1): a;f (a.py:1) 2\nthread (2): b;f (a.py:1) 3")
    two = parse_folded("thread (1): a;f (a.py:1) 5")

    assert [(stack.tid, stack.samples) for stack in merge(one, two)] == [(1, 7), (2, 3)]


def test_a_functions_key_has_no_line():
    assert function_key(Frame(function="f", file="a.py", line=12)) == "f (a.py)"
