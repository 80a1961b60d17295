"""Answers as they arrive: when the first token came, when more text did, and whether the answer is whole."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from perfguard.model.trial import RequestOutcome


@dataclass(slots=True)
class Plain:
    """Takes one answer of any kind; its first byte counts as its first token."""

    first_token_at: float | None = None
    output_tokens: int | None = None
    gaps_s: list[float] = field(default_factory=list)

    def feed(self, _chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()

    def verdict(self) -> tuple[RequestOutcome, str]:
        """Judge the answer once the connection gave its last byte: a whole answer is a good one."""
        if self.first_token_at is None:  # no body at all, as of a 204
            self.first_token_at = time.perf_counter()
        return RequestOutcome.OK, ""


@dataclass(slots=True)
class Stream:
    """Reads one answer's server-sent events.

    `gaps_s` are the times between reads that brought text: what arrived together counts once, and the deltas that only
    tell a role or an end do not. `output_tokens` is what the answer's usage said, where it said it.
    """

    first_token_at: float | None = None
    output_tokens: int | None = None
    gaps_s: list[float] = field(default_factory=list)
    done: bool = False
    error: str = ""
    _tail: bytes = b""
    _has_text: bool = False
    _text_at: float | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        now = time.perf_counter()
        *lines, self._tail = (self._tail + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())
        if self._has_text:
            if self._text_at is not None:
                self.gaps_s.append(now - self._text_at)
            self._text_at, self._has_text = now, False

    def verdict(self) -> tuple[RequestOutcome, str]:
        """Judge the answer once the connection gave its last byte."""
        if self._tail.startswith(b"data:"):
            self._event(self._tail[5:].strip())
        if self.error:
            return RequestOutcome.ERROR, self.error
        if not self.done:
            return RequestOutcome.ERROR, "the stream ended without [DONE]"
        if self.first_token_at is None:
            return RequestOutcome.ERROR, "the stream held no token"
        return RequestOutcome.OK, ""

    def _event(self, payload: bytes) -> None:
        if payload == b"[DONE]":
            self.done = True
            return
        try:
            event = json.loads(payload)
        except ValueError:
            self.error = self.error or f"an event is not JSON: {payload[:80].decode(errors='replace')}"
            return
        if not isinstance(event, dict):
            return
        if event.get("error"):
            self.error = self.error or f"error event: {json.dumps(event['error'])}"
            return
        if choices := event.get("choices"):
            if self.first_token_at is None:
                self.first_token_at = time.perf_counter()
            self._has_text = self._has_text or _brings_text(choices)
        usage = event.get("usage")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.output_tokens = usage["completion_tokens"]


def _brings_text(choices: Any) -> bool:
    """Tell whether any of an event's choices carries text, in one of the places where servers put it."""
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        if choice.get("text") or (
            isinstance(delta, dict) and any(delta.get(key) for key in ("content", "reasoning_content", "tool_calls"))
        ):
            return True
    return False
