"""Bytes that running processes moved through sockets over a window."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTraffic:
    """What one process sent and received over TCP in `duration_s` seconds, loopback included.

    `connections` were seen. One that was open for less than the time between two looks may be missed, and one that
    processes share (by `fork`) counts for each of them. Unix sockets (ZeroMQ's `ipc://`) and shared memory have no
    counters and are not in it. `unknown` says why nothing can be told, the numbers are zero then; it is empty
    otherwise.
    """

    pid: int
    role: str
    duration_s: float
    connections: int
    sent_bytes: int
    received_bytes: int
    unknown: str = ""
