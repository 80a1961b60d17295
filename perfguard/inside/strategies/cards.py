"""Values between the ranks of one host over the links between their cards (NCCL).

A receiver cannot take part in a collective before it knows its size. So one message on a `Line` comes first, with the
metadata and every size; then two collectives at the most, however many tensors there are: one for those on the sender's
card, and one for what lies in its memory, which goes through pinned memory and the cards. Tensors arrive where they were:
on a card, or in memory. The sender posts its collective without waiting for the receivers, and they unpickle the metadata
while it runs.

NCCL waits for a rank that is gone for ever. So nobody returns before the collective is done, and who waits looks after the
others: one that is gone ends the wait at once, one that hangs after `limit_s`. Then this rank's communicator is aborted and
its line closed, by which the others are told; the link is of no more use.
"""

import datetime
import pickle
import struct
import time

import torch
import torch.distributed as dist

from . import codec
from .line import Line, Patience

# Where tensors of any type, and NCCL's copies, are at home.
_ALIGNMENT = 256
# A collective between idle cards takes a fraction of the first; waking takes longer than that.
_SPIN_S = 0.001
_NAP_S = 0.0001
_HEAD = struct.Struct("=q")


class CardLink:
    """One rank's end. Every rank of `group`, which carries objects in memory, makes one at the same time.

    `device` is this rank's card; a CPU stands for it, with gloo for NCCL, where there is none.

    Raises:
        RankFailedError: as for everything here: another rank is gone, or silent for `limit_s` seconds.
    """

    def __init__(self, group, limit_s, device):
        self._device = device
        self._limit_s = limit_s
        self._source = dist.get_global_rank(group, 0)
        self._line = Line(group, limit_s)
        self._group = dist.new_group(
            dist.get_process_group_ranks(group),
            backend="nccl" if device.type == "cuda" else "gloo",
            # Torch ends the whole process after this; `_finish` should be first, and say why.
            timeout=datetime.timedelta(seconds=2 * limit_s),
        )
        # The first collective builds the communicator, which takes a second: not on the first request.
        self._ending_badly(lambda: self._finish(self._post(torch.zeros(1, dtype=torch.uint8, device=device))))

    def send(self, values):
        """Send the list `values` to the other ranks, and return it. An empty list costs one message of 8 bytes."""
        if not values:
            self._line.send(b"")
            return values
        on_cards = []
        metadata, buffers = codec.split(values, on_cards=on_cards)
        on_cards = [tensor.to(self._device) for tensor in on_cards]
        shapes = [(tensor.dtype, tuple(tensor.shape)) for tensor in on_cards]
        sizes = pickle.dumps((shapes, [buffer.nbytes for buffer in buffers]))
        message = _HEAD.pack(len(sizes)) + sizes + metadata
        self._ending_badly(lambda: self._send(message, on_cards, buffers))
        return values

    def receive(self):
        """Return the next list that the first rank sends."""
        return self._ending_badly(self._receive)

    def close(self):
        """Give up: a collective under way is aborted, and the other ranks are told."""
        self._line.close()
        if self._device.type == "cuda":
            self._group._get_backend(self._device).abort()

    def _ending_badly(self, do):
        """Return what `do()` does; if it fails the ranks may be at different collectives, so that the link ends."""
        try:
            return do()
        except BaseException:
            self.close()
            raise

    def _send(self, message, on_cards, buffers):
        self._line.send(message)
        frames = [_framed(on_cards, self._device)] if on_cards else []
        if buffers:
            frames.append(self._staged(buffers))
        for work in [self._post(frame) for frame in frames if frame.numel()]:
            self._finish(work)

    def _receive(self):
        message = self._line.receive()
        if not message:
            return []
        end = _HEAD.size + _HEAD.unpack_from(message)[0]
        shapes, sizes = pickle.loads(message[_HEAD.size : end])
        on_cards, buffers, works = [], [], []
        if shapes:
            frame, on_cards = _frame(shapes, self._device)
            if frame.numel():
                works.append(self._post(frame))
        if sizes:
            places, total = _places(sizes)
            staged = torch.empty(total, dtype=torch.uint8, device=self._device)
            work = self._post(staged)
            landed = torch.empty(total, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            self._finish(work)
            landed.copy_(staged)
            buffers = [landed[begin:end].numpy() for begin, end in places]
        values = codec.join(message[end:], buffers, on_cards)
        for work in works:
            self._finish(work)
        return values

    def _staged(self, buffers):
        """Return `buffers`, which lie in memory, in one frame on the card."""
        places, total = _places([buffer.nbytes for buffer in buffers])
        staged = torch.empty(total, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        for (begin, end), buffer in zip(places, buffers):
            staged[begin:end].copy_(codec.byte_tensor(buffer))
        return staged.to(self._device, non_blocking=True)

    def _post(self, tensor):
        # As bytes: NCCL does not know every type.
        flat = tensor.reshape(-1).view(torch.uint8)
        return dist.broadcast(flat, src=self._source, group=self._group, async_op=True)

    def _finish(self, work):
        """Wait until `work` is done on this rank."""
        patience = Patience(self._limit_s)
        while not work.is_completed():
            if patience.spend() > _SPIN_S:
                self._line.check()
                time.sleep(_NAP_S)
        work.wait()


def _places(sizes):
    """Return the (begin, end) of each of `sizes` in a frame, and the frame's bytes."""
    places, end = [], 0
    for size in sizes:
        end += -end % _ALIGNMENT
        places.append((end, end + size))
        end += size
    return places, end


def _frame(shapes, device):
    """Return a tensor to send or to fill, and the tensors of `shapes` (dtype, shape) that lie in it."""
    if len(shapes) == 1:
        ((dtype, shape),) = shapes
        alone = torch.empty(shape, dtype=dtype, device=device)
        return alone, [alone]
    sizes = [torch.Size(shape).numel() * dtype.itemsize for dtype, shape in shapes]
    places, total = _places(sizes)
    frame = torch.empty(total, dtype=torch.uint8, device=device)
    parts = [frame[begin:end].view(dtype).reshape(shape) for (dtype, shape), (begin, end) in zip(shapes, places)]
    return frame, parts


def _framed(tensors, device):
    """Return `tensors` in one; a single one is not copied."""
    if len(tensors) == 1:
        return tensors[0]
    frame, parts = _frame([(tensor.dtype, tuple(tensor.shape)) for tensor in tensors], device)
    for part, tensor in zip(parts, tensors):
        part.copy_(tensor)
    return frame
