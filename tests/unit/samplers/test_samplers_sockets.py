"""Bytes through TCP sockets, of real connections of this process and of others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from perfguard.model.errors import PerfguardError
from perfguard.samplers import sockets
from perfguard.samplers.sockets import SocketSampler, tcp_counters

# Connects, sends what each line asks for, and says when the other side has all of it.
CLIENT = """
import socket, sys
peer = socket.create_connection(("{host}", {port}))
print("up", flush=True)
for line in sys.stdin:
    peer.sendall(b"x" * int(line))
    assert peer.recv(1) == b"k"
    print("sent", flush=True)
"""


class Sink:
    """Takes connections on a free port and answers each `expected` bytes with one."""

    def __init__(self, family, host):
        self._listener = socket.socket(family)
        self._listener.bind((host, 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self.expected = 0
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        connection, _ = self._listener.accept()
        received = 0
        with connection, self._listener:
            while data := connection.recv(1 << 16):
                received += len(data)
                if received == self.expected:
                    received = 0
                    connection.sendall(b"k")


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["v4", "v6"])
def pair(request):
    """A sink in this process and a client in another, connected."""
    family, host = request.param
    try:
        sink = Sink(family, host)
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT.format(host=host, port=sink.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        assert client.stdout.readline() == "up\n"
        yield sink, client
    finally:
        client.kill()
        client.communicate()
        sink.thread.join(10)


def send(sink, client, count):
    sink.expected = count
    client.stdin.write(f"{count}\n")
    assert client.stdout.readline() == "sent\n"


def test_both_ends_count_what_was_sent_between_start_and_stop_and_nothing_before(pair):
    sink, client = pair
    send(sink, client, 700_000)
    with SocketSampler([(client.pid, "client"), (os.getpid(), "sink")], interval_s=60.0) as sampler:
        sampler.start()
        send(sink, client, 3_000_000)
        ours, theirs = sampler.stop()

    assert (ours.pid, ours.role, ours.unknown, ours.connections) == (client.pid, "client", "", 1)
    # The last acknowledgement of the answer's single byte may be under way.
    assert ours.sent_bytes == 3_000_000
    assert ours.received_bytes == 1
    assert theirs.received_bytes >= 3_000_000
    assert ours.duration_s > 0


def test_a_connection_that_closes_keeps_what_was_seen_of_it(pair):
    sink, client = pair
    with SocketSampler([(client.pid, "client")], interval_s=60.0) as sampler:
        sampler.start()
        send(sink, client, 50_000)
        sampler._look(first=False)
        client.kill()
        client.wait()
        (process,) = sampler.stop()
    assert (process.sent_bytes, process.unknown) == (50_000, "")


def test_a_process_that_is_gone_or_elsewhere_is_unknown_and_not_zero(monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with SocketSampler([(gone.pid, "gone")], interval_s=60.0) as sampler:
        sampler.start()
        (process,) = sampler.stop()
    assert process.unknown == "the process has ended"

    monkeypatch.setattr(sockets, "_shares_our_network", lambda _: False)
    with SocketSampler([(os.getpid(), "here")], interval_s=60.0) as sampler:
        sampler.start()
        (process,) = sampler.stop()
    assert process.unknown == "the process is in another network namespace"


def test_a_kernel_without_the_interface_is_unknown(monkeypatch):
    monkeypatch.setattr(sockets, "_NETLINK_SOCK_DIAG", 31)
    with pytest.raises(OSError, match=r"supported|Protocol"):
        tcp_counters()
    with SocketSampler([(os.getpid(), "here")], interval_s=60.0) as sampler:
        sampler.start()
        (process,) = sampler.stop()
    assert process.unknown.startswith("the kernel does not tell the sockets: ")
    assert process.sent_bytes == 0


def test_it_leaves_no_thread_and_is_not_stopped_before_it_is_started():
    with SocketSampler([(os.getpid(), "here")], interval_s=0.1) as sampler:
        with pytest.raises(PerfguardError, match="before it was started"):
            sampler.stop()
        sampler.start()
    assert "perfguard-sockets" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(PerfguardError, match="cannot be looked at every"):
        SocketSampler([], interval_s=0.01)
