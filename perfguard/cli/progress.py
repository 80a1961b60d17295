"""Progress on stderr: a spinner on a terminal, plain lines elsewhere, nothing with `-q`."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from perfguard.model.progress import Progress, Silent

# Off a terminal a step is a line; steps that follow each other faster than this are one line.
STEP_INTERVAL_S = 5.0


class TerminalProgress:
    """A spinner with the current step; lines that stay scroll above it."""

    def __init__(self, console: Console) -> None:
        """Write to `console`, which is a terminal."""
        self._console = console
        self._status: Status | None = None

    def say(self, message: str) -> None:
        """Print a line that stays."""
        self._console.print(escape(message), highlight=False)

    def step(self, message: str) -> None:
        """Show what is being done right now."""
        text = escape(message)
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def close(self) -> None:
        """Take the spinner away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


class PlainProgress:
    """Lines with the time since the start, for logs."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._start = time.monotonic()
        self._last_step = -STEP_INTERVAL_S

    def say(self, message: str) -> None:
        """Print a line."""
        elapsed = time.monotonic() - self._start
        self._console.print(f"[{elapsed:7.1f}s] {message}", highlight=False, markup=False, soft_wrap=True)

    def step(self, message: str) -> None:
        """Print a line, unless the last step was just now."""
        now = time.monotonic()
        if now - self._last_step >= STEP_INTERVAL_S:
            self._last_step = now
            self.say(message)

    def close(self) -> None:
        """Nothing is held open."""


def make_progress(console: Console, *, quiet: bool) -> Progress:
    """Choose how progress is told on `console` (stderr)."""
    if quiet:
        return Silent()
    return TerminalProgress(console) if console.is_terminal else PlainProgress(console)
