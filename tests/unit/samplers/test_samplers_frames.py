"""A stack is read from a process's memory as the interpreter itself would tell it, or it counts as unread."""

from __future__ import annotations

import ast
import email
import json
import struct
import subprocess
import sys
import threading
import types
from dataclasses import replace

import pytest

from perfguard.samplers.frame_layout import find_frame_layout
from perfguard.samplers.frames import FrameReader, TornStackError, line_at, old_line_at
from perfguard.samplers.gil_locate import locate_gil, thread_states
from perfguard.samplers.gil_memory import ProcessMemory
from perfguard.samplers.gil_stacks import StackTally, native_tid

CHILD = """
import sys, threading
class Größe:
    def outer(self):
        return [self.inner(each)
                for each in range(1)]
    def inner(self, each):
        return (lambda: (yield_from(),
                         each))()
def yield_from():
    for _ in generator(): pass
def generator():
    yield 1
    event.wait()
event = threading.Event()
thread = threading.Thread(target=lambda: Größe().outer(), daemon=True)
thread.start()
while not event._cond._waiters: pass
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child():
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


@pytest.fixture
def opened(child):
    with ProcessMemory(child.pid) as memory:
        gil = locate_gil(child.pid, memory)
        layout = find_frame_layout(memory, gil.runtime, sys.version_info[:2])
        yield memory, gil, layout


def test_a_stack_is_told_with_names_files_and_lines(child, opened):
    memory, gil, layout = opened
    reader = FrameReader(memory, layout, gil.code_type)
    stacks = {
        native_tid(memory, gil, state): reader.stack(state) for state in thread_states(memory, gil, layout.threads)
    }
    (waiting,) = [stack for tid, stack in stacks.items() if tid != child.pid]
    ours = [frame for frame in waiting if "<string>" in frame]
    named = ["Größe.outer (<string>:5)", "Größe.inner (<string>:8)", "generator (<string>:14)"]
    if sys.version_info < (3, 11):
        named = [name.replace("Größe.", "") for name in named]
    assert [frame for frame in ours if "<l" not in frame and "yield_from" not in frame] == named
    assert "yield_from (<string>:11)" in ours
    assert any("wait (" in frame and "threading.py" in frame for frame in waiting[-2:])
    assert stacks[child.pid][0].startswith("<module> (<string>:")


def test_what_is_no_code_object_is_no_stack(opened):
    memory, gil, layout = opened
    (state, *_) = thread_states(memory, gil, layout.threads)
    with pytest.raises(TornStackError):
        FrameReader(memory, layout, gil.code_type + 8).stack(state)
    with pytest.raises((TornStackError, OSError)):
        FrameReader(memory, replace(layout, code=layout.code + 4), gil.code_type).stack(state)


def test_an_interpreter_whose_stacks_are_not_known_says_so(opened):
    memory, gil, _ = opened
    tally = StackTally(memory, replace(gil, code_type=None))
    tally.relist()
    assert tally.hold(1, 1, 1) is None
    assert "does not export its types" in tally.result().unknown
    unknown = StackTally(memory, replace(gil, python="3.99")).result()
    assert "CPython 3.99 keeps its Python stacks is not known" in unknown.unknown
    assert unknown.stacks == ()


def test_a_thread_whose_state_is_gone_is_unread_and_not_another_one(opened):
    memory, gil, layout = opened
    tally = StackTally(memory, gil)
    tally.relist()
    (state, *_) = thread_states(memory, gil, layout.threads)
    tid = native_tid(memory, gil, state)
    assert tally.hold(tid, tid, state) == 0
    assert tally.hold(tid + 1, tid + 1, state) is None
    tally.wait(tid, tid, 0, looks=1)
    tally.wait(1, 1, None, looks=1)
    told = tally.result()
    assert (told.stacks[0].hold_ticks, told.stacks[0].wait_ticks) == (1, 1)
    assert (told.unread_hold_ticks, told.unread_wait_ticks) == (1, 1)
    assert [(pair.waiting, pair.holding, pair.ticks) for pair in told.pairs] == [(0, 0, 1)]


def codes(module):
    """Every code object of a module, nested ones too."""
    found, open_ = [], [value.__code__ for value in vars(module).values() if isinstance(value, types.FunctionType)]
    open_ += [
        method.__code__
        for value in vars(module).values()
        if isinstance(value, type)
        for method in vars(value).values()
        if isinstance(method, types.FunctionType)
    ]
    while open_:
        code = open_.pop()
        found.append(code)
        open_ += [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return found


def test_lines_are_those_that_the_interpreter_tells():
    line = old_line_at if sys.version_info < (3, 11) else line_at
    checked = 0
    for code in (code for module in (ast, json, email, threading, subprocess) for code in codes(module)):
        for start, end, told in code.co_lines():
            expected = code.co_firstlineno if told is None else told
            for offset in range(start, end, 2):
                assert line(code.co_linetable, code.co_firstlineno, offset) == expected
                checked += 1
    assert checked > 10_000


def test_lines_of_the_oldest_table():
    table = struct.pack("BbBbBbBb", 4, 0, 6, 2, 2, -128, 2, -1)
    assert [old_line_at(table, 10, offset) for offset in (-2, 0, 2, 4, 8, 10, 12, 14)] == [
        10,
        10,
        10,
        12,
        12,
        10,
        11,
        10,
    ]
