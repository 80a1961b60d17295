"""Finds a symbol of a 64-bit ELF image: in the memory of the process that runs it, or in its file.

The loader needs the dynamic symbols and their hash table, so they lie in memory even where the file is stripped, is
deleted, or belongs to another mount namespace. Only an executable that exports nothing must be looked up in its file.

Source: the System V ABI's gABI, chapters 4 and 5; for DT_GNU_HASH, which it lacks, glibc's elf/dl-lookup.c.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from perfguard.samplers.gil_memory import Memory

EM_X86_64 = 62
EM_AARCH64 = 183

_HEADER_BYTES = 64
_CLASS_64 = 2
_LITTLE_ENDIAN = 1
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC_ENTRY = struct.Struct("<qQ")
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_GNU_HASH = 4, 5, 6, 0x6FFFFEF5
_SHT_SYMTAB = 2
# Bounds for damaged images: real ones have about ten segments, 30 entries, and chains of a few symbols.
_MAX_SEGMENTS = 256
_MAX_DYNAMIC_BYTES = 1 << 16
_MAX_CHAIN = 1 << 14
_MAX_TABLE_BYTES = 1 << 28
_HIGHEST_OFFSET = 2**63 - 1


class NotElfError(Exception):
    """The image is no 64-bit little-endian ELF image, or is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Symbol:
    """Where a symbol lies in memory, and its size in bytes (0 where the image does not say)."""

    address: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfImage:
    """A loaded image: `bias` is what the loader added to the addresses that stand in the file (0: not relocated)."""

    memory: Memory
    start: int
    bias: int
    machine: int
    dynamic: dict[int, int]


def open_image(memory: Memory, start: int) -> ElfImage:
    """Read the headers of the image whose first byte lies at `start`.

    Raises:
        NotElfError: there is none, or it is damaged.
    """
    try:
        header = memory.read(start, _HEADER_BYTES)
        machine, table, entry_bytes, entries = _read_header(header)
        segments = [
            _PROGRAM_HEADER.unpack(memory.read(start + table + index * entry_bytes, _PROGRAM_HEADER.size))
            for index in range(min(entries, _MAX_SEGMENTS))
        ]
        # The segment that holds the file's first byte tells how far the image was moved.
        firsts = [address for kind, _, offset, address, *_ in segments if kind == _PT_LOAD and offset == 0]
        if not firsts:
            raise NotElfError(f"the image at {start:#x} has no segment that holds its header")
        bias = start - firsts[0]
        dynamic = {}
        for kind, _, _, address, _, _, size, _ in segments:
            if kind == _PT_DYNAMIC:
                dynamic = _read_dynamic(memory, bias + address, size)
    except OSError as error:
        raise NotElfError(f"the image at {start:#x} cannot be read: {error}") from error
    return ElfImage(memory=memory, start=start, bias=bias, machine=machine, dynamic=dynamic)


def find_dynamic_symbol(image: ElfImage, name: str) -> Symbol | None:
    """Look `name` up among the dynamic symbols that the image defines; None where it is not among them."""
    wanted = name.encode()
    try:
        symbols, strings = _pointer(image, _DT_SYMTAB), _pointer(image, _DT_STRTAB)
        if _DT_GNU_HASH in image.dynamic:
            candidates = _gnu_candidates(image.memory, _pointer(image, _DT_GNU_HASH), wanted)
        elif _DT_HASH in image.dynamic:
            candidates = _sysv_candidates(image.memory, _pointer(image, _DT_HASH), wanted)
        else:
            return None
        for index in candidates:
            entry = image.memory.read(symbols + index * _SYMBOL.size, _SYMBOL.size)
            name_at, _, _, section, value, size = _SYMBOL.unpack(entry)
            if section and image.memory.read(strings + name_at, len(wanted) + 1) == wanted + b"\0":
                return Symbol(address=image.bias + value, size=size)
    except (OSError, KeyError):  # damaged, or without dynamic symbols: either way it is not to be found
        return None
    return None


def find_symbol_in_file(path: Path, name: str, bias: int) -> Symbol | None:
    """Look `name` up in the full symbol table of a file; None where that was stripped, or does not define it.

    `bias` is that of the loaded image.

    Raises:
        NotElfError: the file is damaged or no ELF file.
        OSError: the file cannot be read.
    """
    wanted = b"\0" + name.encode() + b"\0"
    with path.open("rb") as file:
        fd = file.fileno()
        header = _read_part(fd, _HEADER_BYTES, 0)
        _read_header(header)
        table, entry_bytes, entries = *struct.unpack_from("<Q", header, 40), *struct.unpack_from("<HH", header, 58)
        sections = [_read_part(fd, _SECTION_HEADER.size, table + index * entry_bytes) for index in range(entries)]
        unpacked = [_SECTION_HEADER.unpack(section) for section in sections]
        for _, kind, _, _, offset, size, link, *_ in unpacked:
            if kind != _SHT_SYMTAB:
                continue
            if link >= entries or max(size, unpacked[link][5]) > _MAX_TABLE_BYTES:
                raise NotElfError(f"{path}: the table of symbols is damaged")
            strings = _read_part(fd, unpacked[link][5], unpacked[link][4])
            name_at = strings.find(wanted) + 1
            symbols = _read_part(fd, size - size % _SYMBOL.size, offset)
            if not name_at:
                continue
            for found_at, _, _, section, value, found_bytes in _SYMBOL.iter_unpack(symbols):
                if found_at == name_at and section:
                    return Symbol(address=bias + value, size=found_bytes)
    return None


def _read_header(header: bytes) -> tuple[int, int, int, int]:
    """Return (machine, offset of the program headers, bytes of each, their number)."""
    if len(header) < _HEADER_BYTES or header[:4] != b"\x7fELF":
        raise NotElfError("no ELF header")
    if header[4] != _CLASS_64 or header[5] != _LITTLE_ENDIAN:
        raise NotElfError("not a 64-bit little-endian program")
    (machine,) = struct.unpack_from("<H", header, 18)
    (table,) = struct.unpack_from("<Q", header, 32)
    entry_bytes, entries = struct.unpack_from("<HH", header, 54)
    return machine, table, entry_bytes, entries


def _read_part(fd: int, size: int, offset: int) -> bytes:
    """Return exactly `size` bytes of a file."""
    found = os.pread(fd, size, offset) if offset <= _HIGHEST_OFFSET - size else b""
    if len(found) != size:
        raise NotElfError("the file is cut off, or damaged")
    return found


def _read_dynamic(memory: Memory, address: int, size: int) -> dict[int, int]:
    size = min(size, _MAX_DYNAMIC_BYTES)
    entries = memory.read(address, size - size % _DYNAMIC_ENTRY.size)
    dynamic: dict[int, int] = {}
    for tag, value in _DYNAMIC_ENTRY.iter_unpack(entries):
        if tag == 0:
            break
        dynamic[tag] = value
    return dynamic


def _pointer(image: ElfImage, tag: int) -> int:
    """Return an address of the dynamic section: glibc's loader writes the moved one over it, musl's does not."""
    value = image.dynamic[tag]
    return value if value >= image.start else value + image.bias


def _gnu_candidates(memory: Memory, table: int, name: bytes) -> list[int]:
    """List the symbols of DT_GNU_HASH whose hash is that of `name`. The Bloom filter only saves time: passed over."""
    wanted = 5381
    for byte in name:
        wanted = (wanted * 33 + byte) & 0xFFFFFFFF
    buckets, first, filter_words, _ = struct.unpack("<IIII", memory.read(table, 16))
    if buckets == 0:
        return []
    bucket_table = table + 16 + 8 * filter_words
    chain_table = bucket_table + 4 * buckets
    index = _word(memory, bucket_table + 4 * (wanted % buckets))
    candidates: list[int] = []
    if index < first:
        return candidates
    for _ in range(_MAX_CHAIN):
        found = _word(memory, chain_table + 4 * (index - first))
        if found | 1 == wanted | 1:
            candidates.append(index)
        if found & 1:  # the chain's last
            break
        index += 1
    return candidates


def _sysv_candidates(memory: Memory, table: int, name: bytes) -> list[int]:
    """List the symbols in the bucket of DT_HASH that `name` would be in."""
    wanted = 0
    for byte in name:
        wanted = (wanted << 4) + byte
        high = wanted & 0xF0000000
        wanted = (wanted ^ (high >> 24)) & ~high & 0xFFFFFFFF
    buckets, _ = struct.unpack("<II", memory.read(table, 8))
    if buckets == 0:
        return []
    candidates: list[int] = []
    index = _word(memory, table + 8 + 4 * (wanted % buckets))
    while index and len(candidates) < _MAX_CHAIN:
        candidates.append(index)
        index = _word(memory, table + 8 + 4 * (buckets + index))
    return candidates


def _word(memory: Memory, address: int) -> int:
    return int.from_bytes(memory.read(address, 4), "little")
