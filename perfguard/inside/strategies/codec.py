"""Part any value that pickles into metadata and the raw bytes of its tensors and arrays, and build it again.

Pickle's protocol 5 does the walking, so whatever the server's own pickling accepts is accepted here, with shared references
kept; plain CPU tensors and arrays leave as buffers without a copy (a non-contiguous one is copied, and arrives contiguous),
and so do CUDA tensors where the caller can carry them. Subclasses, tensors of other devices, sparse or quantised ones, those
that need a gradient and arrays of objects are pickled.
"""

import io
import pickle

import numpy as np
import torch

# A small buffer costs more as a message of its own than as a few bytes of the metadata.
IN_BAND_BYTES = 8192
_NUMPY_KNOWS = frozenset((torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool))


# The CUDA tensors that `join` puts in, while it builds a value.
_arrived = []


def split(value, in_band_bytes=IN_BAND_BYTES, on_cards=None):
    """Return `value` as (metadata, buffers): bytes, and a list of flat byte views that stay valid while `value` lives.

    Buffers under `in_band_bytes` go into the metadata. Plain CUDA tensors are appended to the list `on_cards`, contiguous,
    where they are not in it yet; without one they are pickled.
    """
    buffers = []

    def keep_in_band(buffer):
        raw = buffer.raw()
        if raw.nbytes < in_band_bytes:
            return True
        buffers.append(raw)
        return False

    stream = io.BytesIO()
    splitter = _Splitter(stream, protocol=5, buffer_callback=keep_in_band)
    if on_cards is not None:
        splitter.on_cards = on_cards
        splitter.places = {id(tensor): place for place, tensor in enumerate(on_cards)}
    splitter.dump(value)
    return stream.getvalue(), buffers


def join(metadata, buffers, on_cards=()):
    """Build the value of `split` again. Its tensors and arrays share the memory of `buffers`, which should be writable.

    `on_cards` are the CUDA tensors that `split` set apart, in its order.
    """
    _arrived[:] = on_cards
    try:
        return pickle.loads(metadata, buffers=buffers)
    finally:
        _arrived.clear()


def size_bytes(value):
    """Estimate the bytes that moving `value` takes, without copying: what its tensors, arrays, strings and lists hold.

    Follows lists, tuples, sets, dicts (keys are left out) and the attributes of objects; what is met twice counts once.
    Lists of numbers count 8 bytes a number, and are not walked.
    """
    total = 0
    seen = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if item is None or isinstance(item, (bool, int, float)):
            total += 8
            continue
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            total += item.numel() * item.element_size()
        elif isinstance(item, np.ndarray):
            total += item.nbytes
        elif isinstance(item, (bytes, bytearray, str)):
            total += len(item)
        elif isinstance(item, memoryview):
            total += item.nbytes
        elif isinstance(item, (list, tuple, set, frozenset)):
            if item and isinstance(next(iter(item)), (int, float)) and isinstance(item, list):
                total += 8 * len(item)
            else:
                pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, type) or callable(item):
            continue
        else:
            pending.extend(getattr(item, "__dict__", {}).values())
            for slot in _slots(type(item)):
                if hasattr(item, slot):
                    pending.append(getattr(item, slot))
    return total


class _Splitter(pickle.Pickler):
    on_cards = None
    places = {}

    def reducer_override(self, value):
        kind = type(value)
        if kind is torch.Tensor:
            if self.on_cards is not None and (id(value) in self.places or is_plain(value, "cuda")):
                place = self.places.get(id(value), len(self.on_cards))
                if place == len(self.on_cards):
                    self.on_cards.append(value.detach().contiguous())
                return _on_card, (place,)
            if is_plain(value, "cpu"):
                return _tensor, (pickle.PickleBuffer(_bytes_of(value)), value.dtype, tuple(value.shape))
        elif kind is np.ndarray and not value.dtype.hasobject:
            flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
            if not flat.flags.writeable:
                flat = flat.copy()  # collectives and receivers take writable memory only
            return _array, (pickle.PickleBuffer(flat), value.dtype, value.shape)
        return NotImplemented


def is_plain(tensor, device_type):
    """Whether a tensor is no more than its bytes, its type and its shape, on a device of `device_type`."""
    return (
        tensor.device.type == device_type
        and tensor.layout is torch.strided
        and not tensor.requires_grad
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
        and not tensor.__dict__
    )


def _bytes_of(tensor):
    """Return a contiguous array over the bytes of a plain CPU tensor, in as few steps as its type allows."""
    tensor = tensor.contiguous()
    if tensor.dtype in _NUMPY_KNOWS:
        return tensor.numpy()
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _on_card(place):
    return _arrived[place]


def _tensor(buffer, dtype, shape):
    if not len(buffer):
        return torch.empty(shape, dtype=dtype)
    return _over(buffer, dtype).reshape(shape)


def _array(buffer, dtype, shape):
    if not len(buffer):
        return np.empty(shape, dtype=dtype)
    return np.frombuffer(buffer, dtype=np.uint8).view(dtype).reshape(shape)


def byte_tensor(buffer):
    """Return a tensor of bytes over a non-empty `buffer`, without a copy."""
    return _over(buffer, torch.uint8)


def _over(buffer, dtype):
    if memoryview(buffer).readonly:
        buffer = bytearray(buffer)
    return torch.frombuffer(buffer, dtype=dtype)


def _slots(kind):
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots
