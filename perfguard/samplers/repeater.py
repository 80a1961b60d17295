"""The thread on which a sampler takes its readings, one every so often."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Callable

_JOIN_TIMEOUT_S = 30.0


@final
class Repeater:
    """Calls `read` every `interval_s` seconds on a thread called `name`, from `start()` until `close()`."""

    def __init__(self, read: Callable[[], None], *, interval_s: float, name: str) -> None:
        self._read = read
        self._interval_s = interval_s
        self._name = name
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not closed since."""
        return self._thread is not None

    def start(self) -> None:
        """Go on in the background; the first call comes after one interval."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let a reading that is under way end, and take none after it; does nothing where it does not run."""
        if self._thread is not None:
            self._ended.set()
            self._thread.join(timeout=_JOIN_TIMEOUT_S)
            self._thread = None

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s):
            self._read()
