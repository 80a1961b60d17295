"""Short messages from the first rank of a group to the others on the same host, over local sockets.

A collective costs such a message twice: its size has to be agreed on first, and gloo wakes two threads for each. Here a
message is of any length, and a rank that is gone ends the waits of the others at once: the kernel closes its sockets.
"""

import os
import select
import shutil
import socket
import struct
import tempfile
import time

import torch.distributed as dist

# Who waits asks again and again for this long, and sleeps only then: waking takes longer than most messages.
_SPIN_S = 0.0001
_SLICE_S = 0.2
_ACKNOWLEDGED = b"\1"
_PIECE_BYTES = 1 << 16
_HEAD = struct.Struct("=q")


class RankFailedError(RuntimeError):
    """Another rank could not do its part."""


class Line:
    """One rank's end. The sender is one message ahead of the slowest receiver at the most.

    Every rank of `group` (any group that carries objects) makes one at the same time.

    Raises:
        RankFailedError: another rank did not come within `limit_s` seconds. Everything here raises it when a rank is
            gone, or silent for that long.
    """

    def __init__(self, group, limit_s):
        self._limit_s = limit_s
        self._unacknowledged = False
        self._buffer = bytearray(_PIECE_BYTES)
        self._sockets = _meet(group, limit_s)
        for each in self._sockets:
            each.setblocking(False)

    def send(self, message):
        """Send `message`, bytes, to all other ranks."""
        if self._unacknowledged:
            for each in self._sockets:
                self._receive_into(each, memoryview(self._buffer)[:1])
        self._unacknowledged = True
        framed = _HEAD.pack(len(message)) + message
        for each in self._sockets:
            self._send_all(each, framed)

    def receive(self):
        """Return the next message as a memoryview, good until the next one is received."""
        (first,) = self._sockets
        got = self._receive_some(first, memoryview(self._buffer))
        while got < _HEAD.size:
            got += self._receive_some(first, memoryview(self._buffer)[got:])
        end = _HEAD.size + _HEAD.unpack_from(self._buffer)[0]
        if end > len(self._buffer):
            longer = bytearray(end)  # not the old one, which the caller may still read
            longer[:got] = self._buffer[:got]
            self._buffer = longer
        if got < end:
            self._receive_into(first, memoryview(self._buffer)[got:end])
        self._send_all(first, _ACKNOWLEDGED)
        return memoryview(self._buffer)[_HEAD.size : end]

    def check(self):
        """Raise if another rank is gone, whatever it has sent before."""
        poll = select.poll()
        for each in self._sockets:
            poll.register(each, select.POLLRDHUP)
        if poll.poll(0):
            raise _gone()

    def close(self):
        """Hang up: the other ranks are told by their next call, or by the one under way."""
        for each in self._sockets:
            each.close()
        self._sockets = ()

    def _receive_into(self, each, view):
        got = 0
        while got < len(view):
            got += self._receive_some(each, view[got:])

    def _receive_some(self, each, view):
        patience = Patience(self._limit_s)
        while True:
            try:
                got = each.recv_into(view)
            except BlockingIOError:
                if patience.spend() > _SPIN_S:
                    _sleep_until_ready(each, select.POLLIN)
                continue
            except OSError as error:
                raise _gone() from error
            if not got:
                raise _gone()
            return got

    def _send_all(self, each, message):
        patience = Patience(self._limit_s)
        sent = 0
        while sent < len(message):
            try:
                sent += each.send(memoryview(message)[sent:])
            except BlockingIOError:
                patience.spend()
                _sleep_until_ready(each, select.POLLOUT)
            except OSError as error:
                raise _gone() from error


class Patience:
    """How long a wait for other ranks has taken. While this process is stopped (servers are parked) no time passes."""

    def __init__(self, limit_s):
        self._limit_s = limit_s
        self._spent_s = 0.0
        self._last = time.monotonic()

    def spend(self):
        """Return the seconds since the wait began; call it several times a second.

        Raises:
            RankFailedError: they are more than the limit.
        """
        now = time.monotonic()
        self._spent_s += min(now - self._last, 2 * _SLICE_S)
        self._last = now
        if self._spent_s > self._limit_s:
            raise _silent(self._limit_s)
        return self._spent_s


def _sleep_until_ready(each, event):
    """Sleep until the socket `each` may be ready for `event`, for a slice of time at the most."""
    poll = select.poll()
    poll.register(each, event)
    poll.poll(1000.0 * _SLICE_S)


def _silent(limit_s):
    return RankFailedError(f"another rank was silent for {limit_s:g} s: it hangs, or failed without ending")


def _gone():
    return RankFailedError("another rank is gone: it failed or was killed; its own log says why")


def _meet(group, limit_s):
    """Return the sockets to the other ranks: on the first rank to each of them, on the others to the first."""
    source = dist.get_global_rank(group, 0)
    others = dist.get_world_size(group) - 1
    if dist.get_rank(group) != 0:
        message = [None]
        dist.broadcast_object_list(message, src=source, group=group)
        mine = socket.socket(socket.AF_UNIX)
        mine.settimeout(limit_s)
        try:
            mine.connect(message[0])
        except OSError as error:
            mine.close()
            raise RankFailedError(f"the first rank cannot be reached at {message[0]}: {error.strerror}") from error
        return (mine,)
    folder = tempfile.mkdtemp(prefix="perfguard-")  # no other user can enter it
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            path = os.path.join(folder, "line")
            listener.bind(path)
            listener.listen(max(1, others))
            listener.settimeout(limit_s)
            dist.broadcast_object_list([path], src=source, group=group)
            try:
                return tuple(listener.accept()[0] for _ in range(others))
            except TimeoutError:
                raise _silent(limit_s) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
