"""One lasting piece of shared memory that the producer writes request after request, and that every rank keeps mapped.

A fresh segment for each request costs more than its contents: the kernel finds and clears every page, and each process
faults every page in. Here pages are touched for the first time once. A request's place in the arena is

    generation | one mark a rank | contents

of 8-byte numbers and bytes, on pages of its own. A rank marks `-generation` as it takes the contents and `generation` when
the last tensor over them is gone; the producer writes there again once all marks are `generation`. Marks go through the
file, not through a mapping: calls are ordered.

The arena's name goes when all ranks have mapped it; from then on the kernel frees it with the last process, however that
ends. Before, the producer's prefix tells the reaper. A rank's mapping is private, and what a rank wrote there is dropped
as it gives the contents back: a rank that writes changes its own copy, once. Pages that it only read stay mapped, and show
what the producer writes next.
"""

import contextlib
import mmap
import os
import struct
import threading
import weakref

import numpy as np

MOST_BYTES = 1 << 30
_PAGE = mmap.PAGESIZE
_MAP_NORESERVE = 0x4000
_MADV_POPULATE_READ = 22  # Linux 5.14; the mmap module has no names for these two
_MADV_POPULATE_WRITE = 23
# Bits of an entry of /proc/self/pagemap: a page is there, and is the file's (a copy that the process wrote to is not).
_IS_FILES_PAGE = np.uint64(1 << 63 | 1 << 61)


class Arena:
    """The producer's side: `capacity_bytes` under `path`, for `ranks` ranks.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path, ranks, capacity_bytes):
        self._ranks = ranks
        self.file_bytes = _PAGE + capacity_bytes // _PAGE * _PAGE
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(self._file, self.file_bytes)  # sparse: pages come as they are needed
            _reserve(self._file, 0, _PAGE)  # the ranks' marks of having mapped it
            self._mapping = mmap.mmap(self._file, self.file_bytes)
        except BaseException:
            os.unlink(path)
            os.close(self._file)
            raise
        self._reserved = _PAGE
        self._lock = threading.Lock()
        self._generation = 0
        self._taken = []  # (begin, end, generation) of what some rank may still read, by begin
        weakref.finalize(self, os.close, self._file)

    def head_bytes(self):
        """Return how many bytes come before the contents."""
        return 8 * (1 + self._ranks)

    def place(self, size):
        """Reserve `size` bytes, head and contents; return (offset, generation, a writable array of them).

        None: ranks still hold too much, or the file system is full. What is reserved must be written and sent.
        """
        size += -size % _PAGE
        with self._lock:
            self._taken = [place for place in self._taken if not self._is_given_back(place)]
            at, index = _PAGE, 0
            while index < len(self._taken) and self._taken[index][0] - at < size:
                at = self._taken[index][1]
                index += 1
            if at + size > self.file_bytes:
                return None
            if at + size > self._reserved:
                try:
                    _reserve(self._file, self._reserved, at + size - self._reserved)
                except OSError:
                    return None
                _populate(self._mapping, _MADV_POPULATE_WRITE, self._reserved, at + size - self._reserved)
                self._reserved = at + size
            self._generation += 1
            self._taken.insert(index, (at, at + size, self._generation))
            os.pwrite(self._file, struct.pack("=q", self._generation) + bytes(8 * self._ranks), at)
            return at, self._generation, np.frombuffer(self._mapping, dtype=np.uint8, count=size, offset=at)

    def held_bytes(self):
        """Return how many bytes ranks still hold, or will take."""
        with self._lock:
            self._taken = [place for place in self._taken if not self._is_given_back(place)]
            return sum(end - begin for begin, end, _ in self._taken)

    def _is_given_back(self, place):
        begin, _, generation = place
        marks = os.pread(self._file, 8 * self._ranks, begin + 8)
        return marks == struct.pack("=q", generation) * self._ranks


class Window:
    """A rank's side: the whole arena, mapped once.

    Raises:
        OSError: the file is gone, or cannot be mapped.
    """

    def __init__(self, path, ranks, rank, file_bytes):
        self._rank = rank
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        weakref.finalize(self, os.close, self._file)
        # Only what a rank writes to takes memory, so none is set aside.
        self._mapping = mmap.mmap(self._file, file_bytes, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE)
        self._address = np.frombuffer(self._mapping, dtype=np.uint8, count=1).ctypes.data
        self._is_mapped = np.zeros(file_bytes // _PAGE, dtype=bool)
        self._pagemap = None
        with contextlib.suppress(OSError):  # a process that may not read it maps its pages anew each time
            self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._pagemap)
        os.pwrite(self._file, b"\1", rank)
        if os.pread(self._file, ranks, 0) == b"\1" * ranks:
            with contextlib.suppress(FileNotFoundError):  # two ranks may both be last
                os.unlink(path)

    def take(self, offset, generation, size):
        """Return the array of `size` bytes at `offset`, head and contents; it is given back with its last view.

        Raises:
            LookupError: they were given back, or this rank has taken them before.
        """
        mark_at = offset + 8 * (1 + self._rank)
        (found,) = struct.unpack("=q", os.pread(self._file, 8, offset))
        (mark,) = struct.unpack("=q", os.pread(self._file, 8, mark_at))
        if found != generation or abs(mark) == generation:
            raise LookupError("taken before" if found == generation else "given back by all ranks")
        os.pwrite(self._file, struct.pack("=q", -generation), mark_at)
        pages = size + -size % _PAGE
        mapped = self._is_mapped[offset // _PAGE : (offset + pages) // _PAGE]
        if not mapped.all():
            _populate(self._mapping, _MADV_POPULATE_READ, offset, pages)
            mapped[:] = True
        lease = np.frombuffer(self._mapping, dtype=np.uint8, count=size, offset=offset)
        # The window is an argument so that its file stays open for the mark.
        weakref.finalize(lease, Window._give_back, self, generation, (offset, pages)).atexit = False
        return lease

    def _give_back(self, generation, place):
        if not self._are_the_files(*place):
            self._mapping.madvise(mmap.MADV_DONTNEED, *place)
            _populate(self._mapping, _MADV_POPULATE_READ, *place)
        os.pwrite(self._file, struct.pack("=q", generation), place[0] + 8 * (1 + self._rank))

    def _are_the_files(self, offset, size):
        """Tell whether the file's own pages are mapped there: none missing, and none that this rank wrote to.

        Looking takes a third of the time of mapping them anew (50 MB: 1.3 ms and 4.1 ms).
        """
        if self._pagemap is None:
            return False
        first = (self._address + offset) // _PAGE
        entries = np.frombuffer(os.pread(self._pagemap, 8 * (size // _PAGE), 8 * first), dtype=np.uint64)
        return entries.size == size // _PAGE and bool(np.all(entries & _IS_FILES_PAGE == _IS_FILES_PAGE))


def capacity_bytes(directory, most_bytes=MOST_BYTES):
    """Return how large an arena in `directory` should be: half of what is free, up to `most_bytes`."""
    room = os.statvfs(directory)
    return min(most_bytes, room.f_bavail * room.f_frsize // 2)


def _reserve(file, offset, size):
    # A full file system is an error here, where touching a mapping would be a SIGBUS.
    os.posix_fallocate(file, offset, size)


def _populate(mapping, advice, offset, size):
    with contextlib.suppress(OSError):  # an older kernel: pages come one by one as they are touched
        mapping.madvise(advice, offset, size)
