"""How a long job tells what it is doing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Where progress goes: a terminal's bar, plain lines, or nowhere."""

    def say(self, message: str) -> None:
        """Tell one line that stays."""

    def step(self, message: str) -> None:
        """Tell what is being done right now; replaced by the next step."""

    def close(self) -> None:
        """Take away what a step shows."""


class Silent:
    """A `Progress` that goes nowhere."""

    def say(self, message: str) -> None:
        """Drop `message`."""

    def step(self, message: str) -> None:
        """Drop `message`."""

    def close(self) -> None:
        """Nothing is shown."""
