"""The server's content hash of an item, computed without the copies that its own function makes."""

import hashlib

import numpy as np
import torch


class ItemHasher:
    """Sets the `hash` of multimodal items that have none, as `MultimodalDataItem.set_pad_value` of the revision would.

    `hash_feature` is the revision's own function. It is asked about samples first: where the shorter way gives
    another answer, and for what the shorter way does not know, the revision's function is used.
    """

    def __init__(self, hash_feature):
        self._hash_feature = hash_feature
        self.shortened = _agrees(hash_feature)

    def hash_items(self, mm_inputs):
        """Hash the items of one request's raw inputs; what cannot be hashed is left to the ranks, where it fails alike."""
        items = mm_inputs.get("mm_items")
        if not isinstance(items, list):
            return
        for item in items:
            if getattr(item, "hash", 0) is not None:
                continue
            try:
                feature = item.feature if item.feature is not None else item.precomputed_embeddings
                item.hash = self.hash_of(feature)
            except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
                continue

    def hash_of(self, feature):
        """Return the hash of one feature, an integer of 64 bits."""
        content = _content(feature) if self.shortened else None
        return self._hash_feature(feature) if content is None else _sha256_head(content)


def _content(feature):
    if type(feature) is torch.Tensor and feature.device.type == "cpu" and feature.layout is torch.strided:
        tensor = feature.detach().contiguous()
        if tensor.dtype is torch.bfloat16:
            tensor = tensor.float()  # the server hashes bfloat16 in this form
        return tensor.reshape(-1).view(torch.uint8).numpy()
    if type(feature) is np.ndarray and not feature.dtype.hasobject:
        return np.ascontiguousarray(feature).reshape(-1).view(np.uint8)
    return None


def _sha256_head(content):
    return int.from_bytes(hashlib.sha256(content).digest()[:8], byteorder="big", signed=False)


def _agrees(hash_feature):
    ramp = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    samples = [
        ramp,
        ramp.t(),
        ramp.to(torch.bfloat16),
        ramp.to(torch.uint8),
        torch.empty(0, 6),
        ramp.numpy(),
        np.asfortranarray(ramp.numpy()),
    ]
    return all(hash_feature(sample) == _sha256_head(_content(sample)) for sample in samples)
