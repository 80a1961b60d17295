"""Values in POSIX shared memory: written once by the producer, mapped by every rank, gone when nobody needs them.

A segment holds one mark for each rank (one byte each), the metadata, and the buffers. A rank that has mapped it sets its
mark; the one that finds all marks set removes the name. From then on the kernel counts the mappings and frees the memory
with the last of them, however a process ends. A segment that some rank never mapped (it died) has a name that begins with
the producer's prefix, which was recorded before the first one was made: the reaper removes those.

Mappings are private: a rank that wrote to what it was given would change its own copy, never what another rank sees.
"""

import contextlib
import logging
import mmap
import os
import pickle
import secrets
import threading

from . import codec

DIRECTORY = "/dev/shm"
NAME_START = "perfguard-"
_MARKS_BYTES = 64
_ALIGNMENT = 64
MAX_RANKS = _MARKS_BYTES

log = logging.getLogger("perfguard.strategies")


class Producer:
    """Writes values for `ranks` ranks. `record(**fields)` is told the prefix of its segments and each fallback's first."""

    def __init__(self, ranks, record):
        if ranks > MAX_RANKS:
            raise ValueError(f"shared memory serves {MAX_RANKS} ranks at the most, not {ranks}")
        self._ranks = ranks
        self._record = record
        self._prefix = f"{NAME_START}{secrets.token_hex(8)}-"
        self._lock = threading.Lock()
        self._count = 0
        self.fallbacks = 0
        record(shm_prefix=self._prefix)

    def publish(self, value):
        """Write `value` to a new segment and return its descriptor; None where there is no room: send it another way."""
        metadata, buffers = codec.split(value)
        offsets = []
        end = _MARKS_BYTES + len(metadata)
        for buffer in buffers:
            end += -end % _ALIGNMENT
            offsets.append((end, buffer.nbytes))
            end += buffer.nbytes
        with self._lock:
            self._count += 1
            name = f"{self._prefix}{self._count}"
        try:
            self._write(name, metadata, buffers, offsets)
        except OSError as error:
            self._fall_back(error, end)
            return None
        return Descriptor(name, self._ranks, len(metadata), tuple(offsets))

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
    """Where a value lies; small, and the only thing that travels."""

    __slots__ = ("buffers", "metadata_bytes", "name", "ranks")

    def __init__(self, name, ranks, metadata_bytes, buffers):
        self.name = name
        self.ranks = ranks
        self.metadata_bytes = metadata_bytes
        self.buffers = buffers

    def __reduce__(self):
        return Descriptor, (self.name, self.ranks, self.metadata_bytes, self.buffers)

    def attach(self, rank):
        """Map the segment as rank `rank`, once, and return its value, which keeps the mapping alive.

        Raises:
            RuntimeError: the segment is gone, or is not a value for this rank.
        """
        path = os.path.join(DIRECTORY, self.name)
        if not 0 <= rank < self.ranks:
            raise RuntimeError(f"shared memory {self.name} is for {self.ranks} ranks; this is rank {rank}")
        try:
            segment = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise RuntimeError(
                f"shared memory {self.name} cannot be opened by rank {rank}: {error.strerror}"
            ) from error
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
        view = memoryview(mapping)
        metadata = view[_MARKS_BYTES : _MARKS_BYTES + self.metadata_bytes]
        return codec.join(metadata, [view[offset : offset + size] for offset, size in self.buffers])


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


def _write_all(descriptor, data, offset):
    view = memoryview(data)
    while view.nbytes:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
