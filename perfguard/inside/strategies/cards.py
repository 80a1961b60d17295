"""Values between the ranks of one host over the links between their cards (NCCL).

A receiver cannot take part in a collective before it knows its size, so that a message on a `Line` comes first. What must
travel is little and comes in the order in which it is needed:

1. the types and shapes of the tensors on cards that the sender knows of without looking for them: both sides begin with
   their collective, the sender goes on to part the value, and the receiver waits for the next message;
2. the metadata, with every other size; then a collective for tensors on cards that parting found, and one for what lies in
   memory, which goes through pinned memory and the cards.

However many tensors, there are three collectives at the most. Tensors arrive where they were: on a card, or in memory.

NCCL waits for a rank that is gone for ever. So nobody returns before the collective is done, and who waits looks after the
others: one that is gone ends the wait at once, one that hangs after `limit_s`. Then this rank's communicator is aborted and
its line closed, by which the others are told; the link is of no more use.
"""

import datetime
import math
import pickle
import struct
import time

import torch
import torch.distributed as dist

from . import codec
from .line import Line, Patience, RankFailedError

# Where tensors of any type, and NCCL's copies, are at home.
_ALIGNMENT = 256
# A collective between idle cards takes a fraction of the first; waking takes longer than that.
_SPIN_S = 0.001
_NAP_S = 0.0001
_HEAD = struct.Struct("=q")
_EARLY = b"e"
_REST = b"r"


class CardLink:
    """One rank's end. Every rank of `group`, which carries objects in memory, makes one at the same time.

    `device` is this rank's card; a CPU stands for it, with gloo for NCCL, where there is none.

    Raises:
        RankFailedError: as for everything here: another rank is gone, or silent for `limit_s` seconds.
    """

    def __init__(self, group, limit_s, device):
        self._device = device
        self._limit_s = limit_s
        self._line = Line(group, limit_s)
        self._group = dist.new_group(
            dist.get_process_group_ranks(group),
            backend="nccl" if device.type == "cuda" else "gloo",
            # Torch ends the whole process after this; `_finish` should be first, and say why.
            timeout=datetime.timedelta(seconds=2 * limit_s),
        )
        self._options = dist.BroadcastOptions()
        self._options.rootRank = 0
        self._options.asyncOp = device.type != "cuda"  # on a card, in the stream that computes: no detour by another
        # The first collective builds the communicator, which takes a second: not on the first request.
        try:
            self._finish(self._post(torch.zeros(1, dtype=torch.uint8, device=device)))
        except BaseException:
            self.close()
            raise

    def send(self, values, early=()):
        """Send the list `values` to the other ranks, and return it. An empty list costs one message of 8 bytes.

        `early` are tensors in it that may lie on this rank's card; they are on their way while the rest is pickled.
        """
        if not values:
            self._line.send(b"")
            return values
        on_cards = [tensor for tensor in early if self._can_go_as_it_is(tensor)]
        in_step = not on_cards
        try:
            works = self._announce(on_cards) if on_cards else []
            message, frames = self._part(values, on_cards)
            in_step = False
            self._line.send(message)
            works += [self._post(frame) for frame in frames if frame.numel()]
            for is_done in works:
                self._finish(is_done)
        except BaseException:
            if not in_step:  # ranks may be at different collectives
                self.close()
            raise
        return values

    def receive(self):
        """Return the next list that the first rank sends."""
        try:
            return self._receive()
        except BaseException:
            self.close()
            raise

    def close(self):
        """Give up: a collective under way is aborted, and the other ranks are told."""
        self._line.close()
        if self._device.type == "cuda":
            self._group._get_backend(self._device).abort()

    def _can_go_as_it_is(self, tensor):
        return (
            type(tensor) is torch.Tensor
            and tensor.device == self._device
            and codec.is_plain(tensor, self._device.type)
            and tensor.is_contiguous()
        )

    def _announce(self, on_cards):
        """Let receivers begin with their part of the collective for `on_cards`, and begin with this rank's."""
        self._line.send(_EARLY + pickle.dumps(_layouts(on_cards)))
        frame = _framed(on_cards, self._device)
        return [self._post(frame)] if frame.numel() else []

    def _part(self, values, early):
        """Return the message for `values`, and the frames to follow it; `early` tensors have been announced."""
        on_cards = list(early)
        metadata, buffers = codec.split(values, on_cards=on_cards)
        later = [tensor.to(self._device) for tensor in on_cards[len(early) :]]
        sizes = pickle.dumps((_layouts(later), [buffer.nbytes for buffer in buffers]))
        frames = [_framed(later, self._device)] if later else []
        if buffers:
            frames.append(self._staged(buffers))
        return b"".join((_REST, _HEAD.pack(len(sizes)), sizes, metadata)), frames

    def _receive(self):
        message = self._line.receive()
        if not message:
            return []
        on_cards, works = [], []
        if message[:1] == _EARLY:
            on_cards += self._take(pickle.loads(message[1:]), works)
            message = self._line.receive()
        begin = 1 + _HEAD.size
        end = begin + _HEAD.unpack_from(message, 1)[0]
        layouts, sizes = pickle.loads(message[begin:end])
        on_cards += self._take(layouts, works)
        values = codec.join(message[end:], self._take_in_memory(sizes), on_cards)
        for is_done in works:
            self._finish(is_done)
        return values

    def _take(self, layouts, works):
        """Begin to receive tensors on this rank's card, and return them; what to wait for is added to `works`."""
        if not layouts:
            return []
        frame, on_cards = _frame(layouts, self._device)
        if frame.numel():
            works.append(self._post(frame))
        return on_cards

    def _take_in_memory(self, sizes):
        """Receive buffers of `sizes` bytes in this rank's memory."""
        if not sizes:
            return []
        places, total = _places(sizes)
        staged = torch.empty(total, dtype=torch.uint8, device=self._device)
        is_done = self._post(staged)
        landed = torch.empty(total, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        self._finish(is_done)
        landed.copy_(staged)
        return [landed[begin:end].numpy() for begin, end in places]

    def _staged(self, buffers):
        """Return `buffers`, which lie in memory, in one frame on the card."""
        places, total = _places([buffer.nbytes for buffer in buffers])
        staged = torch.empty(total, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        for (begin, end), buffer in zip(places, buffers):
            staged[begin:end].copy_(codec.byte_tensor(buffer))
        return staged.to(self._device, non_blocking=True)

    def _post(self, tensor):
        """Begin to broadcast `tensor`; return a function that tells whether it is done on this rank."""
        # As bytes: NCCL does not know every type. Not by `dist.broadcast`, whose checks take as long as a small transfer.
        flat = (tensor if tensor.dim() else tensor.reshape(1)).view(torch.uint8)
        work = self._group.broadcast([flat], self._options)
        if self._device.type != "cuda":
            return lambda: _is_gloo_done(work)
        if work is not None:  # an older torch took a stream of its own all the same
            work.wait()
        return torch.cuda.current_stream(self._device).query

    def _finish(self, is_done):
        """Wait until a collective is done on this rank."""
        patience = Patience(self._limit_s)
        while not is_done():
            if patience.spend() > _SPIN_S:
                self._line.check()
                time.sleep(_NAP_S)
        self._line.check()  # torch aborts what a rank that is gone has left, and that looks done too


def _is_gloo_done(work):
    try:
        return work.is_completed() and work.wait()
    except RuntimeError as error:  # gloo may notice before the line does
        first = str(error).partition("\n")[0]
        raise RankFailedError(f"another rank is gone: {first}") from error


def _places(sizes):
    """Return the (begin, end) of each of `sizes` in a frame, and the frame's bytes."""
    places, end = [], 0
    for size in sizes:
        end += -end % _ALIGNMENT
        places.append((end, end + size))
        end += size
    return places, end


def _layouts(tensors):
    """Return (type, shape) of each of `tensors`, of what pickles in a moment: a type by its name in torch."""
    return [(str(tensor.dtype)[len("torch.") :], tuple(tensor.shape)) for tensor in tensors]


def _frame(layouts, device):
    """Return a tensor to send or to fill, and the tensors of `layouts` that lie in it."""
    kinds = [(getattr(torch, name), shape) for name, shape in layouts]
    if len(kinds) == 1:
        ((dtype, shape),) = kinds
        alone = torch.empty(shape, dtype=dtype, device=device)
        return alone, [alone]
    places, total = _places([math.prod(shape) * dtype.itemsize for dtype, shape in kinds])
    frame = torch.empty(total, dtype=torch.uint8, device=device)
    parts = [frame[begin:end].view(dtype).reshape(shape) for (dtype, shape), (begin, end) in zip(kinds, places)]
    return frame, parts


def _framed(tensors, device):
    """Return `tensors` in one; a single one is not copied."""
    if len(tensors) == 1:
        return tensors[0]
    frame, parts = _frame(_layouts(tensors), device)
    for part, tensor in zip(parts, tensors):
        part.copy_(tensor)
    return frame
