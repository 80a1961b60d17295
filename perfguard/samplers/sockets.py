"""Bytes through the TCP sockets of processes over a load, as the kernel counts them for each connection.

Source: the kernel's `sock_diag` interface (man 7 sock_diag; `include/uapi/linux/inet_diag.h` and `tcp.h`), which `ss
--info` reads too: one message asks for every TCP connection of the network namespace, and the descriptors of a process
say which of them are its own. No privilege beyond that of reading the process's descriptors is needed.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, final

from perfguard.model.errors import PerfguardError
from perfguard.model.traffic import ProcessTraffic
from perfguard.samplers.repeater import Repeater

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

MIN_INTERVAL_S = 0.1
_ANSWER_TIMEOUT_S = 5.0

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST_AND_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_INET_DIAG_INFO = 2
# Every state but that of a listener, which moves no bytes: a bit for each, TCP_LISTEN is 10.
_STATES = 0xFFFFFFFF & ~(1 << 10)
_HEADER = struct.Struct("=IHHII")
# A request's family, protocol, wanted extensions and states; which socket (48 bytes) is left open.
_REQUEST = struct.Struct("=BBBxI48x")
_MESSAGE_BYTES = 72
_INODE = struct.Struct("=68xI")
_ATTRIBUTE = struct.Struct("=HH")
# `tcpi_bytes_acked` and `tcpi_bytes_received` of `struct tcp_info`, since Linux 4.1.
_BYTES = struct.Struct("=120xQQ")
_RECEIVE_BYTES = 1 << 18


@final
class SocketSampler:
    """Counts the TCP bytes of `processes`, (pid, role) pairs, between `start()` and `stop()`.

    It looks every `interval_s` seconds, so that a connection which closes keeps what was counted until then. Sent bytes
    are those that the other side acknowledged. As a context manager it starts nothing by itself and leaves no thread
    behind.
    """

    def __init__(self, processes: Sequence[tuple[int, str]], *, interval_s: float = 0.5) -> None:
        if interval_s < MIN_INTERVAL_S:
            raise PerfguardError(
                f"sockets cannot be looked at every {interval_s:g} s", hint=f"choose {MIN_INTERVAL_S:g} s or more"
            )
        self._processes = [_Process(pid, role) for pid, role in processes]
        self._repeater = Repeater(lambda: self._look(first=False), interval_s=interval_s, name="perfguard-sockets")
        self._began_s = 0.0

    def start(self) -> None:
        """Note every connection's counters, and go on in the background."""
        self._began_s = time.perf_counter()
        self._look(first=True)
        self._repeater.start()

    def stop(self) -> tuple[ProcessTraffic, ...]:
        """Look a last time and return what was moved since `start()`, in the order of the processes.

        Raises:
            PerfguardError: it was not started.
        """
        if not self._repeater.is_running:
            raise PerfguardError("the socket sampler was stopped before it was started")
        self.close()
        self._look(first=False)
        duration_s = time.perf_counter() - self._began_s
        return tuple(process.traffic(duration_s) for process in self._processes)

    def close(self) -> None:
        """End the looks; does nothing after `stop()`."""
        self._repeater.close()

    def __enter__(self) -> SocketSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _look(self, *, first: bool) -> None:
        try:
            counters = tcp_counters()
        except OSError as error:
            for process in self._processes:
                process.unknown = f"the kernel does not tell the sockets: {error.strerror or error}"
            return
        for process in self._processes:
            process.look(counters, first=first)


class _Process:
    """One process's connections: by inode, the counters of the first look and of the latest."""

    def __init__(self, pid: int, role: str) -> None:
        self.pid, self.role = pid, role
        self.unknown = ""
        self._known = False
        self._before: dict[int, tuple[int, int]] = {}
        self._latest: dict[int, tuple[int, int]] = {}

    def look(self, counters: dict[int, tuple[int, int]], *, first: bool) -> None:
        """Take over the counters of the connections that are the process's now."""
        try:
            if not _shares_our_network(self.pid):
                self.unknown = "the process is in another network namespace"
                return
            inodes = _socket_inodes(self.pid)
        except PermissionError:
            self.unknown = "the process's descriptors may not be read"
            return
        except (FileNotFoundError, ProcessLookupError):  # what was counted before it ended stays
            self.unknown = self.unknown or "the process has ended"
            return
        except OSError as error:
            self.unknown = f"its descriptors cannot be read: {error.strerror or error}"
            return
        self._known = True
        for inode in inodes & counters.keys():
            if first:
                self._before[inode] = counters[inode]
            self._latest[inode] = counters[inode]

    def traffic(self, duration_s: float) -> ProcessTraffic:
        """Sum up what was moved; a connection that was opened meanwhile counts from its beginning."""
        moved = [
            (latest[0] - before[0], latest[1] - before[1])
            for inode, latest in self._latest.items()
            for before in (self._before.get(inode, (0, 0)),)
        ]
        return ProcessTraffic(
            pid=self.pid,
            role=self.role,
            duration_s=duration_s,
            connections=len(moved),
            sent_bytes=sum(sent for sent, _ in moved),
            received_bytes=sum(received for _, received in moved),
            unknown="" if self._known else self.unknown,
        )


def tcp_counters() -> dict[int, tuple[int, int]]:
    """Return the bytes acknowledged and received of every TCP connection of this network namespace, by inode.

    Raises:
        OSError: the kernel does not answer, or has no `sock_diag`.
    """
    counters = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_ANSWER_TIMEOUT_S)
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), _STATES)
            length = _HEADER.size + len(request)
            kernel.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_AND_DUMP, family, 0) + request)
            for message in _messages(kernel):
                (inode,) = _INODE.unpack_from(message)
                moved = _moved(message)
                if inode and moved:  # a connection that no process holds any more has no inode
                    counters[inode] = moved
    return counters


def _messages(kernel: socket.socket) -> Iterator[bytes]:
    """Yield the answers to one request, without their headers."""
    while True:
        data = kernel.recv(_RECEIVE_BYTES)
        position = 0
        while position < len(data):
            length, kind, *_ = _HEADER.unpack_from(data, position)
            body = data[position + _HEADER.size : position + length]
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", body)
                raise OSError(-code, os.strerror(-code))
            yield body
            position += (length + 3) & ~3


def _moved(message: bytes) -> tuple[int, int] | None:
    """Return the bytes acknowledged and received, or None where the kernel gives none (an old one)."""
    position = _MESSAGE_BYTES
    while position + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, position)
        value = message[position + _ATTRIBUTE.size : position + length]
        if kind == _INET_DIAG_INFO and len(value) >= _BYTES.size:
            sent, received = _BYTES.unpack_from(value)
            return sent, received
        position += max((length + 3) & ~3, _ATTRIBUTE.size)
    return None


def _shares_our_network(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink()


def _socket_inodes(pid: int) -> set[int]:
    """Return the inodes of a process's sockets, of any kind."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:  # closed since it was listed
            continue
        if target.startswith("socket:["):
            inodes.add(int(target[8:-1]))
    return inodes
