"""Memory of processes over a load: their proportional set size, read now and then from `smaps_rollup`.

A reading makes the kernel walk the process's page tables while it holds the lock of its memory map for reading: 13 ms
of CPU were measured for each gibibyte of 4 KiB pages, less where pages are huge. Only a thread of the process that maps
or unmaps memory at that moment waits for it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, final

from perfguard.model.errors import PerfguardError
from perfguard.model.memory import MemoryReading, ProcessReadings
from perfguard.samplers.repeater import Repeater

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

MIN_INTERVAL_S = 0.1
_KIB = 1024


@final
class MemorySampler:
    """Reads the memory of `processes`, (pid, role) pairs, every `interval_s` seconds between `start()` and `stop()`.

    A process that may not be read has its reason in the result; one that ends keeps what was read before. As a context
    manager it starts nothing by itself and leaves no thread behind. `proc_root` is for tests.
    """

    def __init__(
        self, processes: Sequence[tuple[int, str]], *, interval_s: float = 1.0, proc_root: Path = Path("/proc")
    ) -> None:
        if interval_s < MIN_INTERVAL_S:
            raise PerfguardError(
                f"memory cannot be read every {interval_s:g} s", hint=f"choose {MIN_INTERVAL_S:g} s or more"
            )
        self._processes = tuple(processes)
        self._proc_root = proc_root
        self._readings: list[list[MemoryReading]] = [[] for _ in self._processes]
        self._unknown = [""] * len(self._processes)
        self._repeater = Repeater(self._read, interval_s=interval_s, name="perfguard-memory")
        self._began_s = 0.0

    def start(self) -> None:
        """Read once, and go on in the background."""
        self._began_s = time.perf_counter()
        self._read()
        self._repeater.start()

    def stop(self) -> tuple[ProcessReadings, ...]:
        """Read a last time and return what was read since `start()`, in the order of the processes.

        Raises:
            PerfguardError: it was not started.
        """
        if not self._repeater.is_running:
            raise PerfguardError("the memory sampler was stopped before it was started")
        self.close()
        self._read()
        return tuple(
            ProcessReadings(pid=pid, role=role, readings=tuple(readings), unknown="" if readings else unknown)
            for (pid, role), readings, unknown in zip(self._processes, self._readings, self._unknown, strict=True)
        )

    def close(self) -> None:
        """End the readings; does nothing after `stop()`."""
        self._repeater.close()

    def __enter__(self) -> MemorySampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        for place, (pid, _) in enumerate(self._processes):
            at_s = time.perf_counter() - self._began_s
            try:
                text = (self._proc_root / str(pid) / "smaps_rollup").read_text(encoding="ascii", errors="replace")
            except PermissionError:
                self._unknown[place] = "the process may not be read"
                continue
            except OSError as error:
                self._unknown[place] = f"its memory cannot be read: {error.strerror or error}"
                continue
            sizes = _sizes(text)
            if "Pss" in sizes:  # a process that only waits to be reaped has an empty file
                self._readings[place].append(
                    MemoryReading(
                        at_s=at_s, pss_bytes=sizes["Pss"] * _KIB, shared_bytes=sizes.get("Pss_Shmem", 0) * _KIB
                    )
                )
            else:
                self._unknown[place] = "the process has ended"


def _sizes(text: str) -> dict[str, int]:
    """Read the lines such as `Pss:   1234 kB`. Source: the kernel's Documentation/filesystems/proc.rst, "smaps"."""
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        if unit == "kB" and number.isdigit():
            sizes[name] = int(number)
    return sizes
