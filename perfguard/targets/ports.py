"""Ports of the loopback interface: which are free, and who listens."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

import psutil

from perfguard.model.errors import PerfguardError

if TYPE_CHECKING:
    from perfguard.targets.processes import ManagedProcess

HOST = "127.0.0.1"
# Below the range that the kernel gives to outgoing connections: none of them takes the port while the server imports.
# The server adds up to 1,000 for its own rendezvous.
_PORTS = range(20_000, 30_000)
_PORT_DRAWS = 200


def listens(process: ManagedProcess, port: int) -> bool:
    """Whether a process of the tree listens on `port`."""
    pids = set(process.descendants())
    return any(
        connection.pid in pids
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port
    )


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback interface now."""
    with socket.socket() as probe:
        # As servers do it: a port that only lingers from a closed connection is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Draw a port that is free now.

    Raises:
        PerfguardError: none was found.
    """
    draw = random.SystemRandom()  # not the run's seed: two runs with one seed may be on one machine
    for _ in range(_PORT_DRAWS):
        port = draw.choice(_PORTS)
        if port_is_free(port):
            return port
    raise PerfguardError(f"no free port among {_PORTS.start}-{_PORTS.stop - 1} on {HOST}", hint="name one that is free")
