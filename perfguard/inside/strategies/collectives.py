"""Values between the ranks of one process group.

On the sender whatever can fail comes before the first collective, on receivers after the last: a value that cannot be
sent or built never leaves the ranks at different collectives. A rank that is gone ends the wait of the others by the
group's timeout (`limit_waits`).
"""

import datetime
import struct

import torch
import torch.distributed as dist

from . import codec
from .line import RankFailedError


def limit_waits(group, limit_s):
    """Let collectives of `group` fail after `limit_s` seconds of waiting for another rank."""
    dist.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=limit_s), group)


def broadcast_built(build, group):
    """Build a value on the group's first rank only, and send it to the others with `broadcast_object_list`.

    Raises:
        RankFailedError: the first rank could not build it (where its own error is raised).
    """
    source = dist.get_global_rank(group, 0)
    if dist.get_rank(group) == 0:
        failure = None
        try:
            message = [(True, build())]
        except Exception as error:  # re-raised below, once the others know
            failure = error
            message = [(False, f"{type(error).__name__}: {error}")]
        dist.broadcast_object_list(message, src=source, group=group)
        if failure is not None:
            raise failure
        return message[0][1]
    message = [None]
    dist.broadcast_object_list(message, src=source, group=group)
    built, value = message[0]
    if not built:
        raise RankFailedError(f"rank 0 could not build the multimodal inputs: {value}")
    return value


def broadcast_parted(values, rank, group, source):
    """Send the list `values` of rank `source` to all ranks: metadata first, then each tensor as it lies.

    `rank` is this one; both are global numbers. Receivers pass anything, and allocate by the metadata. An empty list costs
    one message of 16 bytes: servers poll.
    """
    if rank == source:
        metadata, buffers = codec.split(values) if values else (b"", [])
        sizes = struct.pack(f"={len(buffers)}q", *(buffer.nbytes for buffer in buffers))
        parts = [codec.byte_tensor(buffer) for buffer in buffers]
        head = codec.byte_tensor(bytearray(sizes + metadata)) if metadata else None
        _send(torch.tensor([len(metadata), len(buffers)]), group, source)
        if head is not None:
            _send(head, group, source)
        for part in parts:
            _send(part, group, source)
        return values
    lengths = _send(torch.zeros(2, dtype=torch.int64), group, source)
    metadata_bytes, count = lengths.tolist()
    if metadata_bytes == 0:
        return []
    head = _send(torch.empty(8 * count + metadata_bytes, dtype=torch.uint8), group, source).numpy()
    sizes = struct.unpack(f"={count}q", head[: 8 * count])
    parts = [torch.empty(size, dtype=torch.uint8) for size in sizes]
    for part in parts:
        _send(part, group, source)
    return codec.join(head[8 * count :], [part.numpy() for part in parts])


def _send(tensor, group, source):
    dist.broadcast(tensor, src=source, group=group)
    return tensor
