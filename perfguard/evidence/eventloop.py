"""Stacks on the thread of an asyncio loop: which of them belong to it, and which hold it up.

What runs in a callback and does not yield keeps every other request waiting. A stack alone does not tell how long it
lasted; its class tells that it cannot have yielded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfguard.evidence.callrules import CallClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.evidence.callsites import StackClass
    from perfguard.model.profile import Frame

# The frames from which a loop enters a callback, by function and file name; of uvloop, which is compiled, the runner.
_LOOP_FRAMES = frozenset(
    {
        ("_run", "events.py"),
        ("_run_once", "base_events.py"),
        ("run_forever", "base_events.py"),
        ("run_until_complete", "base_events.py"),
        ("run", "runners.py"),
    }
)
_UVLOOP = "uvloop"
_HOLDS_UP = frozenset(
    {
        CallClass.PICKLE,
        CallClass.HASH,
        CallClass.IMAGE_DECODE,
        CallClass.TOKENISE,
        CallClass.MODEL_FORWARD,
        CallClass.TENSOR_COPY,
        CallClass.COLLECTIVE,
        CallClass.SLEEP,
        CallClass.LOCK,
    }
)


def loop_depth(frames: Sequence[Frame]) -> int | None:
    """Return how many frames (root first) belong to an asyncio loop's own machinery, or None where there is no loop."""
    for index in range(len(frames) - 1, -1, -1):
        if is_loop_frame(frames[index]):
            return index + 1
    return None


def is_loop_frame(frame: Frame) -> bool:
    """Tell whether a frame is the place from which a loop runs its callbacks."""
    folder, _, name = frame.file.rpartition("/")
    return (frame.function.rpartition(".")[2], name) in _LOOP_FRAMES or folder.endswith(_UVLOOP)


def runs_on_loop(frames: Sequence[Frame]) -> bool:
    """Tell whether a stack was seen on the thread of an asyncio loop."""
    return loop_depth(frames) is not None


def blocking_site(frames: Sequence[Frame], verdict: StackClass) -> Frame | None:
    """Return the frame whose call holds up the loop, or None where the stack is the loop's own, or no such call."""
    depth = loop_depth(frames)
    if depth is None or depth == len(frames) or verdict.site is None or verdict.call_class not in _HOLDS_UP:
        return None
    return verdict.site if verdict.site in frames[depth:] else None
