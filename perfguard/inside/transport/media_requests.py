"""Tokenized requests as the server's processors make them, for the shapes of media that matter; and what a rank got, hashed."""

import hashlib

import numpy as np
import torch
import torch.distributed as dist

PATCH_PX = 14
MERGE = 2
PATCH_VALUES = 3 * 2 * PATCH_PX * PATCH_PX
IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END = 151655, 151656, 151652, 151653


def make_inputs(case, seed):
    """Return the raw inputs of one request, of the kind that `case` names (`image`, `video`, ... below), or None."""
    return _KINDS[case["kind"]](case, torch.Generator().manual_seed(seed))


def fresh(raw):
    """Return `raw` with new items over the same content: a strategy writes hashes into the items it is given."""
    if raw is None:
        return None
    kind = type(raw["mm_items"][0]) if raw["mm_items"] else None
    return {**raw, "mm_items": [kind(**item.__dict__) for item in raw["mm_items"]]}


def make_request(module, raw, number):
    """Wrap raw inputs as a request that the revision's own tokenizer process would send."""
    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    tokens = raw["input_ids"] if raw else [1] * 20
    return TokenizedGenerateReqInput(
        rid=f"request-{number}",
        input_text="what is it?",
        input_ids=tokens,
        mm_inputs=raw,
        sampling_params=SamplingParams(max_new_tokens=2),
        return_logprob=False,
        logprob_start_len=-1,
        top_logprobs_num=0,
        token_ids_logprob=None,
        stream=False,
    )


def number_of(request_id):
    """Return the number that `make_request` was given."""
    return int(request_id.rpartition("-")[2])


def payload(raw):
    """Return the features and embeddings of raw inputs as flat byte tensors."""
    if raw is None:
        return []
    features = [item.feature if item.feature is not None else item.precomputed_embeddings for item in raw["mm_items"]]
    tensors = [torch.from_numpy(feature.copy()) if isinstance(feature, np.ndarray) else feature for feature in features]
    return [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in tensors if isinstance(tensor, torch.Tensor)]


def fingerprint(value):
    """Return a hash of types, shapes and every byte of a value; strides and identities do not count."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest, value):
    if isinstance(value, torch.Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    elif isinstance(value, dict):
        for key in value:
            digest.update(f"key {key}".encode())
            _feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"{type(value).__name__} {len(value)}".encode())
        for entry in value:
            _feed(digest, entry)
    elif hasattr(value, "__dict__") and not hasattr(value, "name"):
        digest.update(type(value).__name__.encode())
        _feed(digest, vars(value))
    else:
        digest.update(repr(value).encode())


def _item(modality, **fields):
    from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem

    return MultimodalDataItem(modality=Modality[modality], **fields)


def _raw(items, tokens, placeholder=IMAGE_TOKEN):
    return {
        "input_ids": [1] * 15 + [placeholder] * tokens + [2] * 15,
        "mm_items": items,
        "im_start_id": VISION_START,
        "im_end_id": VISION_END,
        "im_token_id": IMAGE_TOKEN,
        "video_token_id": VIDEO_TOKEN,
        "audio_token_id": None,
        "mrope_positions": torch.arange(tokens + 30).repeat(3, 1),
        "mrope_position_delta": torch.tensor([[-(tokens // 2)]]),
    }


def _patches(case):
    side = PATCH_PX * MERGE
    rows, columns = (max(side, round(case[name] / side) * side) // PATCH_PX for name in ("height_px", "width_px"))
    return max(1, case.get("frames", 0) // 2), rows, columns


def _image(case, generator):
    grid = _patches(case)
    count = case.get("count", 1)
    patches = grid[0] * grid[1] * grid[2]
    tokens = patches // MERGE**2
    items = [
        _item(
            "IMAGE",
            feature=torch.randn(patches, PATCH_VALUES, generator=generator),
            offsets=[(15 + n * tokens, 14 + (n + 1) * tokens)],
            model_specific_data={"image_grid_thw": torch.tensor([grid])},
        )
        for n in range(count)
    ]
    return _raw(items, tokens * count)


def _video(case, generator):
    grid = _patches(case)
    patches = grid[0] * grid[1] * grid[2]
    tokens = patches // MERGE**2
    item = _item(
        "VIDEO",
        feature=torch.randn(patches, PATCH_VALUES, generator=generator),
        offsets=[(15, 14 + tokens)],
        model_specific_data={"video_grid_thw": torch.tensor([grid]), "second_per_grid_ts": torch.tensor([1.0])},
    )
    return _raw([item], tokens, VIDEO_TOKEN)


def _one(feature=None, **fields):
    return _raw([_item(fields.pop("modality", "IMAGE"), feature=feature, offsets=[(15, 30)], **fields)], 16)


class ReadByFirstRankOnly:
    """Raises as it is unpickled by any rank but the first one."""

    def __reduce__(self):
        return _read_by_first_rank_only, ()


def _read_by_first_rank_only():
    if dist.is_initialized() and dist.get_rank() > 0:
        raise ValueError(f"rank {dist.get_rank()} cannot read this")
    return ReadByFirstRankOnly()


def _noise(generator, *shape, dtype=torch.float32):
    return (torch.randn(*shape, generator=generator) * 50).to(dtype)


_KINDS = {
    "image": _image,
    "video": _video,
    "audio": lambda case, g: _one(
        _noise(g, 1, 128, 300), modality="AUDIO", model_specific_data={"audio_feature_lens": torch.tensor([300])}
    ),
    "none": lambda case, g: None,
    "no-items": lambda case, g: _raw([], 0),
    "bfloat16": lambda case, g: _one(_noise(g, 64, 1176, dtype=torch.bfloat16)),
    "uint8": lambda case, g: _one(_noise(g, 64, 1176).abs().to(torch.uint8)),
    "transposed": lambda case, g: _one(_noise(g, 1176, 64).t()),
    "zero-size": lambda case, g: _one(_noise(g, 0, 1176)),
    "array": lambda case, g: _one(_noise(g, 64, 1176).numpy()),
    "embeddings": lambda case, g: _one(precomputed_embeddings=_noise(g, 64, 2048, dtype=torch.bfloat16)),
    "hashed-before": lambda case, g: _one(_noise(g, 64, 1176), hash=12345678901234567),
    # The server's hash raises on text: for a rank that fails.
    "broken": lambda case, g: _one("not a tensor"),
    "broken-on-others": lambda case, g: _one(_noise(g, 64, 1176), model_specific_data={"trap": ReadByFirstRankOnly()}),
}
