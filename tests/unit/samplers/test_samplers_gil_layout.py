"""The GIL is where its version keeps it; where it cannot be told the answer says so and is never a number."""

from __future__ import annotations

import os
import struct
import sys
import threading

import pytest

from perfguard.model.threads import GilAnswer
from perfguard.samplers import gil_locate
from perfguard.samplers.gil_elf import EM_AARCH64, EM_X86_64, ElfImage, Symbol
from perfguard.samplers.gil_layout import MACHINES, UnknownLayoutError, find_layout, own_version
from perfguard.samplers.gil_locate import Gil, NoGil, foreign_threads, locate_gil
from perfguard.samplers.gil_memory import Image, ProcessMemory, read_images

RUNTIME, MAIN, SUB, STATE, SUB_STATE = 0x10000, 0x20000, 0x30000, 0x40000, 0x50000
GIL, SUB_GIL = 0x28000, 0x38000


class SparseMemory:
    def __init__(self):
        self.words = {}

    def put(self, address, content):
        for index, byte in enumerate(content):
            self.words[address + index] = byte

    def put_word(self, address, value):
        self.put(address, struct.pack("<Q", value))

    def read(self, address, size):
        if not all(0x10000 <= byte < 0x80000 for byte in (address, address + size)):
            raise OSError("not mapped")
        return bytes(self.words.get(address + index, 0) for index in range(size))


def debug_offsets(minor, *, free_threaded=False, holder=None):
    """Write the table as Include/internal/pycore_debug_offsets.h of each version does (its first fields)."""
    shift = 8 if free_threaded else 0
    runtime = [346560, 600, 936]
    threads_main = [] if minor == 13 else [7344]
    gil = [16, 7736, 0, 7736 + shift + 16, (holder or 7736 + shift + 8)]
    interpreter = [120000, 7272, 7264, 7336, *threads_main, 500, 501, 502, 503, *gil]
    interpreter += [] if minor == 13 else [600, 601]
    middle = [72, 80, 88, 89, 176] if minor == 15 else [72, 152]
    native = 184 if minor == 15 else 160
    thread = [900, 0, 8, 16, *middle, native, 200, 40]
    version = 3 << 24 | minor << 16 | 0x2F0
    words = [version, int(free_threaded), *runtime, *interpreter, *thread]
    return b"xdebugpy" + struct.pack(f"<{len(words)}Q", *words) + bytes(400)


def build_process(minor=15, *, free_threaded=False, enabled=0, interval=5000, locked=1, sub_interpreter=False):
    memory = SparseMemory()
    memory.put(RUNTIME, debug_offsets(minor, free_threaded=free_threaded))
    memory.put_word(RUNTIME + 936, SUB if sub_interpreter else MAIN)
    memory.put_word(RUNTIME + 944, MAIN)
    memory.put_word(SUB + 7264, MAIN)
    memory.put_word(MAIN + 16, GIL)
    memory.put_word(SUB + 16, SUB_GIL)
    memory.put_word(SUB + 7336, SUB_STATE)
    memory.put_word(MAIN + 7336, STATE)
    native = 184 if minor == 15 else 160
    memory.put_word(SUB_STATE + native, 4242)
    memory.put_word(STATE + native, 4241)
    shift = 8 if free_threaded else 0
    memory.put_word(GIL, enabled)
    memory.put_word(GIL + shift, interval)
    memory.put_word(GIL + shift + 8, STATE)
    memory.put_word(GIL + shift + 16, locked)
    return memory


@pytest.fixture
def locate(monkeypatch):
    """Locate the GIL in made-up memory, with the images named."""

    def find(memory, *, machine=EM_X86_64, names=("python3.15",)):
        images = tuple(Image(path=f"/usr/bin/{name}", start=0, end=1) for name in names)
        elf = ElfImage(memory=memory, start=0, bias=0, machine=machine, dynamic={})
        monkeypatch.setattr(gil_locate, "read_images", lambda *_: images)
        monkeypatch.setattr(gil_locate, "_find_runtime", lambda *_: (elf, Symbol(address=RUNTIME, size=0)))
        return locate_gil(1, memory)

    return find


@pytest.mark.parametrize("minor", [13, 14, 15])
def test_the_interpreters_own_table_leads_to_the_gil(locate, minor):
    gil = locate(build_process(minor))
    assert isinstance(gil, Gil)
    assert (gil.python, gil.address, gil.holder) == (f"3.{minor}", GIL, GIL + 8)
    assert gil.layout.native_tid == (184 if minor == 15 else 160)


@pytest.mark.parametrize(("machine", "end", "futex"), [(EM_X86_64, 208, 202), (EM_AARCH64, 224, 98)])
def test_only_the_gils_own_conditions_and_mutexes_count(locate, machine, end, futex):
    gil = locate(build_process(), machine=machine)
    assert gil.futexes == (GIL + 32, GIL + end)
    assert gil.machine.futex == futex


def test_a_free_threaded_build_has_no_gil_until_it_is_switched_on(locate):
    off = locate(build_process(free_threaded=True, enabled=0))
    assert isinstance(off, NoGil)
    assert off.answer is GilAnswer.NONE
    assert "there is no GIL" in off.reason
    on = locate(build_process(free_threaded=True, enabled=2**31 - 1))
    assert isinstance(on, Gil)
    assert (on.holder, on.futexes[0]) == (GIL + 16, GIL + 40)


@pytest.mark.parametrize(
    ("memory", "arguments", "reason"),
    [
        (build_process(16), {}, "3.16 is not known"),
        (build_process(interval=0), {}, "not a layout that is known"),
        (build_process(locked=0xFFFFFFFF), {}, "not a layout that is known"),
        (build_process(), {"machine": 243}, "x86-64 and aarch64 only"),
        (build_process(), {"names": ("python3.15", "ld-musl-x86_64.so.1")}, "musl"),
        (SparseMemory(), {"names": ("python3.9",)}, "3.9 is not known"),
        (SparseMemory(), {"names": ("server",)}, "version of this CPython cannot be told"),
        (SparseMemory(), {"names": ("libpython3.10.so.1.0", "_x.cpython-311-x86_64-linux-gnu.so")}, "cannot be told"),
    ],
)
def test_what_cannot_be_told_is_said_with_its_reason(locate, memory, arguments, reason):
    answer = locate(memory, **arguments)
    assert isinstance(answer, NoGil)
    assert answer.answer is GilAnswer.UNKNOWN
    assert reason in answer.reason


def test_an_interpreter_that_has_not_started_is_no_layout(locate):
    memory = build_process()
    memory.put_word(RUNTIME + 944, 0)
    assert "not started" in locate(memory).reason


def test_a_table_that_is_not_understood_is_not_used():
    memory = SparseMemory()
    memory.put(RUNTIME, debug_offsets(14, holder=7736 + 24))
    assert own_version(memory, RUNTIME) == (3, 14)
    with pytest.raises(UnknownLayoutError, match="not understood"):
        find_layout(memory, RUNTIME, (3, 14))


def test_threads_of_a_sub_interpreter_with_its_own_gil_are_named(locate):
    memory = build_process(sub_interpreter=True)
    assert foreign_threads(memory, locate(memory)) == {4242}
    shared = build_process(sub_interpreter=True)
    shared.put_word(SUB + 16, GIL)
    assert foreign_threads(shared, locate(shared)) == frozenset()
    assert foreign_threads(build_process(), locate(build_process())) == frozenset()


def test_a_list_that_runs_in_a_circle_ends(locate):
    memory = build_process(sub_interpreter=True)
    memory.put_word(MAIN + 7264, SUB)
    memory.put_word(SUB_STATE + 8, SUB_STATE)
    assert foreign_threads(memory, locate(build_process())) == {4242}


def test_the_oldest_versions_have_fixed_places():
    memory = SparseMemory()
    assert find_layout(memory, RUNTIME, (3, 10)).futexes(MACHINES[EM_X86_64]) == (32, 208)
    assert find_layout(memory, RUNTIME, (3, 11)).gil == 360
    assert find_layout(memory, RUNTIME, (3, 12)).gil_is_pointed_to
    with pytest.raises(UnknownLayoutError):
        find_layout(memory, RUNTIME, (3, 9))


@pytest.mark.skipif(not (3, 10) <= sys.version_info[:2] <= (3, 15), reason="a layout that is not known")
def test_in_this_very_interpreter_this_thread_took_the_gil_last():
    pid = os.getpid()
    with ProcessMemory(pid) as memory:
        gil = locate_gil(pid, memory)
        assert isinstance(gil, Gil)
        assert gil.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
        state = int.from_bytes(memory.read(gil.holder, 8), "little")
        if gil.layout.native_tid is None:
            pthread = int.from_bytes(memory.read(state + gil.layout.pthread, 8), "little")
            tid = int.from_bytes(memory.read(pthread + gil.machine.pthread_tid, 4), "little")
        else:
            tid = int.from_bytes(memory.read(state + gil.layout.native_tid, 8), "little")
        assert tid == threading.get_native_id()
        assert int.from_bytes(memory.read(gil.holder - 8, 8), "little") == round(sys.getswitchinterval() * 1e6)


def test_the_map_of_a_process_is_read_with_blanks_and_deleted_files(tmp_path):
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "maps").write_text(
        "00400000-00420000 r--p 00000000 08:01 55      /opt/my server/python3.11 (deleted)\n"
        "00420000-00520000 r-xp 00020000 08:01 55      /opt/my server/python3.11 (deleted)\n"
        "7f0000000000-7f0000001000 r--p 00000000 08:01 56   /usr/lib/locale/locale-archive\n"
        "7f0000002000-7f0000003000 rw-p 00000000 00:00 0 \n"
        "7f0000004000-7f0000005000 r-xp 00000000 00:00 0    [vdso]\n"
        "7f0000006000-7f0000007000 r-xp 00000000 08:01 57   /lib/libold.so\n"
        "nonsense\n"
    )
    images = read_images(7, tmp_path)
    assert [(image.name, image.start) for image in images] == [("python3.11", 0x400000), ("libold.so", 0x7F0000006000)]
