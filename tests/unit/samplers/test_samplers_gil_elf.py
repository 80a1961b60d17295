"""Symbols are found in images as loaders leave them, and damage is never more than "not found"."""

from __future__ import annotations

import ctypes
import os
import random
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfguard.samplers.gil_elf import NotElfError, find_dynamic_symbol, find_symbol_in_file, open_image
from perfguard.samplers.gil_memory import ProcessMemory, read_images

SYMBOLS = (
    ("undefined_one", 0, 0),
    ("PyLong_Type", 0x2000, 416),
    ("_PyRuntime", 0x2345, 672),
    ("Py_Version", 0x2100, 8),
)
BASE = 0x5555_0000_0000


class FakeMemory:
    def __init__(self, start, content):
        self.start, self.content = start, content

    def read(self, address, size):
        offset = address - self.start
        if not 0 <= offset <= len(self.content) - size or size < 0:
            raise OSError("not mapped")
        return self.content[offset : offset + size]


def gnu_hash(name):
    value = 5381
    for byte in name.encode():
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def sysv_hash(name):
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        if high:
            value ^= high >> 24
        value &= ~high
    return value & 0xFFFFFFFF


def build_elf(*, hash_kind="gnu", first_address=0, relocated_by=0, dynamic=True, sections=False):
    """Build an image whose dynamic part stands where a linker puts it; addresses begin at `first_address`."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name, *_ in SYMBOLS)
    # DT_GNU_HASH wants undefined symbols first and the others in the order of their buckets.
    buckets = 2
    defined = sorted(SYMBOLS[1:], key=lambda symbol: gnu_hash(symbol[0]) % buckets)
    ordered = [SYMBOLS[0], *defined]
    table = bytes(24)
    for name, value, size in ordered:
        at = strings.index(b"\0" + name.encode() + b"\0") + 1
        table += struct.pack("<IBBHQQ", at, 0x11, 0, 1 if value else 0, value + first_address if value else 0, size)
    first = 2
    if hash_kind == "gnu":
        heads, chains = [0] * buckets, []
        for index, (name, *_) in enumerate(defined, first):
            bucket = gnu_hash(name) % buckets
            heads[bucket] = heads[bucket] or index
            following = defined[index - first + 1 :]
            last = not following or gnu_hash(following[0][0]) % buckets != bucket
            chains.append(gnu_hash(name) & ~1 | last)
        hashes = struct.pack("<IIIIQ", buckets, first, 1, 6, 2**64 - 1) + struct.pack(f"<{buckets}I", *heads)
        hashes += struct.pack(f"<{len(chains)}I", *chains)
    else:
        heads, following = [0] * buckets, [0] * (len(ordered) + 1)
        for index, (name, *_) in enumerate(ordered, 1):
            bucket = sysv_hash(name) % buckets
            following[index], heads[bucket] = heads[bucket], index
        hashes = struct.pack(f"<II{buckets}I{len(following)}I", buckets, len(following), *heads, *following)
    parts, offsets, at = [strings, table, hashes], [], 0x200
    for part in parts:
        offsets.append(at)
        at += len(part) + -len(part) % 8
    tag = {"gnu": 0x6FFFFEF5, "sysv": 4}[hash_kind]
    moved = first_address + relocated_by
    entries = [(5, offsets[0] + moved), (6, offsets[1] + moved), (tag, offsets[2] + moved), (0, 0)]
    dynamic_bytes = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    dynamic_at = at
    headers = struct.pack("<IIQQQQQQ", 1, 5, 0, first_address, 0, 0x3000, 0x3000, 4096)
    headers += struct.pack(
        "<IIQQQQQQ", 2 if dynamic else 4, 6, dynamic_at, first_address + dynamic_at, 0, *[len(dynamic_bytes)] * 2, 8
    )
    content = bytearray(0x3000)
    sections_at = 0x2800
    content[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, sections_at, 0, 64, 56, 2, 64, 3 * sections, 0
    )
    content[64 : 64 + len(headers)] = headers
    for offset, part in zip([*offsets, dynamic_at], [*parts, dynamic_bytes], strict=True):
        content[offset : offset + len(part)] = part
    if sections:
        table_header = struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, offsets[1], len(table), 2, 0, 8, 24)
        names_header = struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, offsets[0], len(strings), 0, 0, 1, 0)
        content[sections_at : sections_at + 192] = bytes(64) + table_header + names_header
    return bytes(content)


@pytest.mark.parametrize("hash_kind", ["gnu", "sysv"])
@pytest.mark.parametrize(("first_address", "start"), [(0, BASE), (0x400000, 0x400000)], ids=["PIE", "non-PIE"])
@pytest.mark.parametrize("loader_moves_pointers", [True, False], ids=["glibc", "musl"])
def test_symbols_are_found_by_either_hash_table(hash_kind, first_address, start, loader_moves_pointers):
    moved = start - first_address if loader_moves_pointers else 0
    content = build_elf(hash_kind=hash_kind, first_address=first_address, relocated_by=moved)
    image = open_image(FakeMemory(start, content), start)
    for name, value, size in SYMBOLS[1:]:
        found = find_dynamic_symbol(image, name)
        assert (found.address, found.size) == (start + value, size)
    assert find_dynamic_symbol(image, "undefined_one") is None
    assert find_dynamic_symbol(image, "no_such_symbol") is None
    assert find_dynamic_symbol(image, "_PyRuntim") is None
    assert image.machine == 62


def test_an_image_that_exports_nothing_is_looked_up_in_its_file(tmp_path):
    content = build_elf(dynamic=False, sections=True)
    image = open_image(FakeMemory(BASE, content), BASE)
    assert find_dynamic_symbol(image, "_PyRuntime") is None
    file = tmp_path / "python"
    file.write_bytes(content)
    assert find_symbol_in_file(file, "_PyRuntime", image.bias).address == BASE + 0x2345
    assert find_symbol_in_file(file, "undefined_one", image.bias) is None
    assert find_symbol_in_file(file, "no_such_symbol", image.bias) is None
    file.write_bytes(build_elf())
    assert find_symbol_in_file(file, "_PyRuntime", image.bias) is None


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n" * 20, b"\x7fELF\x01\x01" + bytes(200), b"\x7fELF\x02\x02" + bytes(200)]
)
def test_what_is_no_64_bit_little_endian_elf_image_is_said_to_be_none(tmp_path, content):
    with pytest.raises(NotElfError):
        open_image(FakeMemory(BASE, content), BASE)
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(NotElfError):
        find_symbol_in_file(file, "_PyRuntime", 0)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    flips=st.integers(1, 40),
    hash_kind=st.sampled_from(["gnu", "sysv"]),
    cut=st.integers(0, 0x3000),
)
def test_damage_ends_in_not_found_or_not_elf_and_never_hangs(tmp_path_factory, seed, flips, hash_kind, cut):
    content = bytearray(build_elf(hash_kind=hash_kind, relocated_by=BASE, sections=True))
    rng = random.Random(seed)
    for _ in range(flips):
        # Most of the file is empty: hit the headers and tables.
        content[rng.randrange(0x400)] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
    content = bytes(content[: cut or None])
    with suppress(NotElfError):
        find_dynamic_symbol(open_image(FakeMemory(BASE, content), BASE), "_PyRuntime")
    file = tmp_path_factory.getbasetemp() / "damaged"
    file.write_bytes(content)
    with suppress(NotElfError, OSError):
        find_symbol_in_file(file, "_PyRuntime", 0)


def test_the_running_interpreter_is_found_where_its_own_loader_put_it():
    truth = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    pid = os.getpid()
    with ProcessMemory(pid) as memory:
        found = set()
        for image in read_images(pid):
            try:
                symbol = find_dynamic_symbol(open_image(memory, image.start), "_PyRuntime")
            except NotElfError:
                continue
            if symbol:
                found.add(symbol.address)
    assert truth in found


def test_memory_that_is_not_mapped_raises_and_kills_nothing():
    with ProcessMemory(os.getpid()) as memory:
        for address, size in ((0, 8), (-1, 8), (2**63, 8), (2**64 + 4096, 8), (4096, 8), (2**47 - 4096, 8192)):
            with pytest.raises(OSError):
                memory.read(address, size)
