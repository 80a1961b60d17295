"""Values in POSIX shared memory: written once by the producer, mapped by every rank, gone when nobody needs them.

They lie in the producer's arena (see `arena`), and where that has no room, in a segment of their own; where the file system
is full, they travel by pickling. A segment holds one mark for each rank (one byte each), the metadata, and the buffers. A
rank that has mapped it sets its mark; the one that finds all marks set removes the name. From then on the kernel counts the
mappings and frees the memory with the last of them, however a process ends. What some rank never mapped (it died) has a name
that begins with the producer's prefix, which was recorded before the first one was made: the reaper removes those.

Mappings are private: a rank that wrote to what it was given would change its own copy, never what another rank sees.
"""

import contextlib
import logging
import mmap
import os
import pickle
import secrets
import threading

import numpy as np

from . import arena, codec

DIRECTORY = "/dev/shm"
NAME_START = "perfguard-"
_MARKS_BYTES = 64
_ALIGNMENT = 64
MAX_RANKS = _MARKS_BYTES

log = logging.getLogger("perfguard.strategies")


class Producer:
    """Writes values for `ranks` ranks. `record(**fields)` is told the prefix of its segments and each fallback's first."""

    def __init__(self, ranks, record, arena_bytes=arena.MOST_BYTES):
        if ranks > MAX_RANKS:
            raise ValueError(f"shared memory serves {MAX_RANKS} ranks at the most, not {ranks}")
        self._ranks = ranks
        self._record = record
        self._prefix = f"{NAME_START}{secrets.token_hex(8)}-"
        self._lock = threading.Lock()
        self._count = 0
        self.fallbacks = 0
        record(shm_prefix=self._prefix)
        self.arena = None
        with contextlib.suppress(OSError):  # the first value that finds no room says so
            capacity = arena.capacity_bytes(DIRECTORY, arena_bytes)
            if capacity >= mmap.PAGESIZE:
                self.arena = arena.Arena(os.path.join(DIRECTORY, f"{self._prefix}arena"), ranks, capacity)

    def publish(self, value):
        """Write `value` and return its descriptor, to be sent to every rank; None: no room, send it another way."""
        metadata, buffers = codec.split(value)
        return self._publish_in_arena(metadata, buffers) or self._publish_alone(metadata, buffers)

    def _publish_in_arena(self, metadata, buffers):
        if self.arena is None:
            return None
        head_bytes = self.arena.head_bytes()
        offsets, end = _lay_out(head_bytes + len(metadata), buffers)
        placed = self.arena.place(end)
        if placed is None:
            return None
        offset, generation, target = placed
        target[head_bytes : head_bytes + len(metadata)] = np.frombuffer(metadata, dtype=np.uint8)
        for buffer, (begin, size) in zip(buffers, offsets):
            np.copyto(target[begin : begin + size], np.frombuffer(buffer, dtype=np.uint8))
        name = f"{self._prefix}arena"
        place = (offset, generation, end, self.arena.file_bytes)
        return Descriptor(name, self._ranks, (head_bytes, len(metadata)), offsets, place)

    def _publish_alone(self, metadata, buffers):
        offsets, end = _lay_out(_MARKS_BYTES + len(metadata), buffers)
        with self._lock:
            self._count += 1
            name = f"{self._prefix}{self._count}"
        try:
            self._write(name, metadata, buffers, offsets)
        except OSError as error:
            self._fall_back(error, end)
            return None
        return Descriptor(name, self._ranks, (_MARKS_BYTES, len(metadata)), offsets, None)

    def _write(self, name, metadata, buffers, offsets):
        path = os.path.join(DIRECTORY, name)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Written and not mapped: a full file system is an error here, where touching a mapping would be a SIGBUS.
            _write_all(descriptor, bytes(_MARKS_BYTES) + metadata, 0)
            for buffer, (offset, _) in zip(buffers, offsets):
                _write_all(descriptor, buffer, offset)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(descriptor)

    def _fall_back(self, error, size):
        self.fallbacks += 1
        detail = f"no segment of {size} bytes in {DIRECTORY} ({error.strerror}): sent by pickling"
        log.warning("shared-memory: %s", detail)
        if self.fallbacks == 1:
            self._record(replaced="shared-memory", detail=f"fell back at least once: {detail}")


class Descriptor:
    """Where a value lies; small, and the only thing that travels.

    `metadata` and each of `buffers` are (offset, bytes) inside the value's bytes. `place` is where those lie in an arena:
    offset, generation, size and the arena's own size; None for a segment of their own.
    """

    __slots__ = ("buffers", "metadata", "name", "place", "ranks")

    def __init__(self, name, ranks, metadata, buffers, place):
        self.name = name
        self.ranks = ranks
        self.metadata = metadata
        self.buffers = buffers
        self.place = place

    def __reduce__(self):
        return Descriptor, (self.name, self.ranks, self.metadata, self.buffers, self.place)

    def attach(self, rank):
        """Take the value as rank `rank`, once; its tensors keep the memory from being written again.

        Raises:
            RuntimeError: the memory is gone, or is not a value for this rank.
        """
        if not 0 <= rank < self.ranks:
            raise RuntimeError(f"shared memory {self.name} is for {self.ranks} ranks; this is rank {rank}")
        path = os.path.join(DIRECTORY, self.name)
        try:
            whole = self._map_alone(path, rank) if self.place is None else self._take_from_arena(path, rank)
        except (OSError, LookupError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RuntimeError(f"shared memory {self.name} cannot be opened by rank {rank}: {reason}") from error
        parts = [whole[offset : offset + size] for offset, size in (self.metadata, *self.buffers)]
        return codec.join(parts[0], parts[1:])

    def _take_from_arena(self, path, rank):
        offset, generation, size, file_bytes = self.place
        window = _windows.get((self.name, rank))
        if window is None:
            window = _windows[self.name, rank] = arena.Window(path, self.ranks, rank, file_bytes)
        return window.take(offset, generation, size)

    def _map_alone(self, path, rank):
        segment = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            mapping = mmap.mmap(segment, 0, access=mmap.ACCESS_COPY)
            # Through the file and not the mapping: each call is ordered against those of the other ranks, so the
            # last one to mark sees all marks.
            os.pwrite(segment, b"\1", rank)
            if os.pread(segment, self.ranks, 0) == b"\1" * self.ranks:
                with contextlib.suppress(FileNotFoundError):  # two ranks may both be last
                    os.unlink(path)
        finally:
            os.close(segment)
        return memoryview(mapping)


# The arenas that this process has mapped, by name and rank: one of each in a rank's process.
_windows = {}


class Holder:
    """What this process is to shared inputs: the producer, a rank, or neither. One for a process."""

    def __init__(self):
        self.producer = None
        self.prepare = None
        self.rank = None
        self.record = _record_nothing


def _record_nothing(**fields):
    pass


here = Holder()


class SharedInputs(dict):
    """A request's raw multimodal inputs, which pickle as a descriptor of shared memory.

    In the producer the first pickling writes the segment: it happens as the request is sent, so a request that is
    cancelled before leaves nothing. A rank that received it hands the same descriptor on.
    """

    descriptor = None

    def __reduce_ex__(self, protocol):
        descriptor = self.descriptor
        if descriptor is None and here.producer is not None:
            here.prepare(self)
            descriptor = here.producer.publish(dict(self))
        if descriptor is None:
            return SharedInputs, (dict(self),)
        return _receive, (descriptor,)

    def __copy__(self):
        return dict(self)

    def __deepcopy__(self, memo):
        return pickle.loads(pickle.dumps(dict(self)))


def _receive(descriptor):
    if here.rank is None:
        raise RuntimeError(f"shared memory {descriptor.name} was sent to a process that is not a rank")
    inputs = SharedInputs(descriptor.attach(here.rank))
    inputs.descriptor = descriptor
    return inputs


def _lay_out(begin, buffers):
    """Return the (offset, bytes) of each buffer behind `begin` bytes, and where the last one ends."""
    offsets = []
    end = begin
    for buffer in buffers:
        end += -end % _ALIGNMENT
        offsets.append((end, buffer.nbytes))
        end += buffer.nbytes
    return tuple(offsets), end


def _write_all(descriptor, data, offset):
    view = memoryview(data)
    while view.nbytes:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
