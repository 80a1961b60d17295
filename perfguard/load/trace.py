"""Trace files: when the requests of a real service came, and how long they were."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from perfguard.model.errors import UsageError

BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEntry:
    """One line of a trace: `timestamp` in milliseconds since any moment, lengths in tokens.

    `hash_ids` names the blocks of `BLOCK_TOKENS` tokens that the prompt begins with; requests with equal ones share
    them, and with them what a server caches of prefixes.
    Source: the traces of https://github.com/kvcache-ai/Mooncake; other fields are not used.
    """

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


def read_trace(path: Path) -> tuple[TraceEntry, ...]:
    """Read a file of JSON lines, one request each, in the order of their timestamps.

    Raises:
        UsageError: the file cannot be read, is empty, or has a line that is no request or goes back in time.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"cannot read the trace {path}: {error.strerror}") from error
    decoder = msgspec.json.Decoder(TraceEntry)
    entries: list[TraceEntry] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path}, line {number}: {error}",
                hint='a line is {"timestamp": MS, "input_length": TOKENS, "output_length": TOKENS}',
            ) from error
        if min(entry.input_length, entry.output_length) < 1:
            raise UsageError(f"{path}, line {number}: input_length and output_length must be at least 1")
        if entries and entry.timestamp < entries[-1].timestamp:
            raise UsageError(f"{path}, line {number}: its timestamp lies before that of the line above")
        entries.append(entry)
    if not entries:
        raise UsageError(f"{path} holds no request")
    return tuple(entries)
