"""Many stacks as arrays: what is asked of every frame of every stack is then asked of every distinct frame once."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from perfguard.model.profile import Frame, Stack

    Ints = npt.NDArray[np.int64]
    Booleans = npt.NDArray[np.bool_]


class StackTable:
    """The stacks that have frames, laid end to end, root first.

    `frames` has the distinct frames, `index` (places,) says which of them stands at a place. Stack number n of `stacks`
    takes the places from `starts[n]` up to `ends[n]`, and has `samples[n]`.
    """

    def __init__(self, stacks: Sequence[Stack]) -> None:
        self.stacks = [stack for stack in stacks if stack.frames]
        depths = np.fromiter((len(stack.frames) for stack in self.stacks), dtype=np.int64, count=len(self.stacks))
        self.ends: Ints = np.cumsum(depths)
        self.starts: Ints = self.ends - depths
        self.samples: Ints = np.fromiter(
            (stack.samples for stack in self.stacks), dtype=np.int64, count=len(self.stacks)
        )
        self.frames: list[Frame] = []
        self.index: Ints = self._number_frames(int(depths.sum()))

    @property
    def owners(self) -> Ints:
        """Return which stack holds each place."""
        return np.repeat(np.arange(len(self.stacks)), self.ends - self.starts)

    def per_stack(self, at_place: Booleans) -> Booleans:
        """Tell of each stack whether any of its places is marked."""
        return np.logical_or.reduceat(at_place, self.starts) if len(self.stacks) else np.zeros(0, dtype=np.bool_)

    def _number_frames(self, places: int) -> Ints:
        # Readers share one object between equal frames, so identities are few; equal frames of different identity are
        # made one number below.
        identities = np.fromiter(
            map(id, chain.from_iterable(stack.frames for stack in self.stacks)), dtype=np.int64, count=places
        )
        _, firsts, index = np.unique(identities, return_index=True, return_inverse=True)
        holders = np.searchsorted(self.ends, firsts, side="right")
        numbers: dict[Frame, int] = {}
        merged = np.empty(len(firsts), dtype=np.int64)
        for identity, (place, holder) in enumerate(zip(firsts.tolist(), holders.tolist(), strict=True)):
            frame = self.stacks[holder].frames[place - int(self.starts[holder])]
            merged[identity] = numbers.setdefault(frame, len(numbers))
        self.frames = list(numbers)
        return merged[index.reshape(-1)] if places else index.reshape(-1).astype(np.int64)
