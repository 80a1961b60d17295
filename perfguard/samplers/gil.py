"""What each thread of running processes does, and who waits for the GIL: a sampler in a process of its own."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, final

import msgspec

from perfguard.model.errors import PerfguardError
from perfguard.model.threads import ThreadRecording
from perfguard.samplers import gil_ticks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

MIN_RATE_HZ = 1.0
# A look at a process of 40 threads takes about 0.1 ms.
MAX_RATE_HZ = 2000.0
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 30.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@final
class GilSampler:
    """Looks at every thread of `processes`, (pid, role) pairs, `rate_hz` times a second, at random intervals.

    It never pauses them. A process whose GIL cannot be watched has its reason in the result, and still its CPU. With
    `stacks` the result holds the Python stacks that had the GIL and that waited for it. As a context manager it starts
    nothing by itself and leaves nothing behind.
    """

    def __init__(
        self, processes: Sequence[tuple[int, str]], *, rate_hz: float = 200.0, seed: int = 0, stacks: bool = False
    ) -> None:
        if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise PerfguardError(
                f"threads cannot be looked at {rate_hz:g} times a second",
                hint=f"choose {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g}",
            )
        self._request = gil_ticks.Request(processes=tuple(processes), rate_hz=rate_hz, seed=seed, stacks=stacks)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to look, and return once the first look is due.

        Raises:
            PerfguardError: the sampler cannot run.
        """
        command = [sys.executable, "-m", gil_ticks.__name__, msgspec.json.encode(self._request).decode()]
        path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # its end tells the child to stop, so that it never outlives this process
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for us to handle
        )
        stdout = self._child.stdout
        ready = stdout is not None and select.select([stdout], [], [], _START_TIMEOUT_S)[0] and stdout.readline()
        if not ready or ready.decode().strip() != gil_ticks.READY:
            self._fail("did not begin")

    def stop(self) -> ThreadRecording:
        """End it and return what was seen since `start()`.

        Raises:
            PerfguardError: it was not started, or died.
        """
        if self._child is None:
            raise PerfguardError("the thread sampler was stopped before it was started")
        try:
            said, _ = self._child.communicate(timeout=_STOP_TIMEOUT_S)
            recording = msgspec.json.decode(said, type=ThreadRecording)
        except (subprocess.TimeoutExpired, msgspec.DecodeError):
            self._fail("died")
        self._child = None
        return recording

    def close(self) -> None:
        """End it at once; what it saw is lost. Does nothing after `stop()`."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def __enter__(self) -> GilSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _fail(self, what: str) -> None:
        """Raise with the last line that the child wrote."""
        assert self._child is not None  # noqa: S101 - for the type checker: both callers have started it
        self._child.kill()
        _, complaints = self._child.communicate()
        self._child = None
        last = (complaints.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise PerfguardError(f"the thread sampler {what}: {last}")
