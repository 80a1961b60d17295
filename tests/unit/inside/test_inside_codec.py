"""Parting values into metadata and buffers: what comes back is equal to the byte, and nothing large is pickled."""

from __future__ import annotations

import enum
import pickle
from dataclasses import dataclass, field

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from perfguard.inside.strategies import codec  # noqa: E402 - needs torch


class Modality(enum.Enum):
    IMAGE = 1
    VIDEO = 2
    AUDIO = 3


@dataclass
class Item:
    """Like the server's `MultimodalDataItem`, with the same trap: unknown attributes are looked up in a dict."""

    modality: Modality
    hash: int | None = None
    offsets: list | None = None
    feature: object = None
    precomputed_embeddings: object = None
    model_specific_data: dict = field(default_factory=dict)

    def __getattr__(self, name):
        if "model_specific_data" in self.__dict__ and name in self.__dict__["model_specific_data"]:
            return self.__dict__["model_specific_data"][name]
        raise AttributeError(name)


def noise(*shape, dtype=torch.float32, seed=7):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 50
    return values.to(dtype)


def request(*items, **more):
    return {"input_ids": list(range(300)), "mm_items": list(items), "im_token_id": 5, "audio_token_id": None, **more}


CASES = {
    "image": lambda: request(
        Item(
            Modality.IMAGE,
            offsets=[(3, 18)],
            feature=noise(64, 1176),
            model_specific_data={"grid": torch.tensor([[1, 8, 8]])},
        ),
        mrope_positions=torch.arange(400).repeat(3, 1),
        mrope_position_delta=torch.tensor([[-8]]),
    ),
    "several images": lambda: request(*(Item(Modality.IMAGE, feature=noise(16 * n, 1176, seed=n)) for n in (1, 2, 3))),
    "video": lambda: request(
        Item(Modality.VIDEO, feature=noise(256, 1176), model_specific_data={"second_per_grid_ts": [0.5]})
    ),
    "audio": lambda: request(
        Item(
            Modality.AUDIO, feature=noise(1, 128, 300), model_specific_data={"audio_feature_lens": torch.tensor([300])}
        )
    ),
    "none": lambda: None,
    "no items": request,
    "empty list": list,
    "item without feature": lambda: request(Item(Modality.IMAGE)),
    "bfloat16": lambda: request(Item(Modality.IMAGE, feature=noise(64, 1176, dtype=torch.bfloat16))),
    "float16": lambda: request(Item(Modality.IMAGE, feature=noise(64, 1176, dtype=torch.float16))),
    "uint8": lambda: request(Item(Modality.IMAGE, feature=noise(64, 1176, dtype=torch.uint8))),
    "bool": lambda: request(Item(Modality.IMAGE, feature=noise(64, 1176) > 0)),
    "transposed": lambda: request(Item(Modality.IMAGE, feature=noise(1176, 64).t())),
    "strided": lambda: request(Item(Modality.IMAGE, feature=noise(128, 1176)[::2, 5:])),
    "zero rows": lambda: request(Item(Modality.IMAGE, feature=noise(0, 1176))),
    "scalar tensor": lambda: request(Item(Modality.IMAGE, feature=torch.tensor(3.5))),
    "array": lambda: request(Item(Modality.IMAGE, feature=noise(64, 1176).numpy())),
    "array in Fortran order": lambda: request(Item(Modality.IMAGE, feature=np.asfortranarray(noise(64, 1176).numpy()))),
    "strided array": lambda: request(Item(Modality.IMAGE, feature=noise(64, 1176).numpy()[::-2])),
    "frozen array": lambda: request(
        Item(Modality.IMAGE, feature=np.frombuffer(bytes(range(256)) * 90, dtype=np.uint8))
    ),
    "zero-size array": lambda: request(Item(Modality.IMAGE, feature=np.empty((0, 4), dtype=np.int16))),
    "array of objects": lambda: request(Item(Modality.IMAGE, feature=np.array([{"a": 1}, None], dtype=object))),
    "array of records": lambda: np.zeros(3000, dtype=[("a", "<i4"), ("b", "<f8")]),
    "embeddings": lambda: request(Item(Modality.IMAGE, precomputed_embeddings=noise(64, 2048, dtype=torch.bfloat16))),
    "list of features": lambda: request(
        Item(Modality.IMAGE, feature=[noise(32, 1176), [noise(64, 1176)], noise(8, 4).numpy()])
    ),
    "needs a gradient": lambda: noise(64, 1176).requires_grad_(),
    "sparse": lambda: torch.eye(100).to_sparse(),
}


def same(left, right):
    """Equal to the byte, through containers and objects; dtype and shape too."""
    if isinstance(left, torch.Tensor):
        if left.is_sparse:
            left, right = left.to_dense(), right.to_dense()
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and left.requires_grad == right.requires_grad
            and raw(left.detach()) == raw(right.detach())
        )
    if isinstance(left, np.ndarray):
        content = [array.tolist() if array.dtype.hasobject else array.tobytes() for array in (left, right)]
        return left.dtype == right.dtype and left.shape == right.shape and content[0] == content[1]
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Item):
        return same(vars(left), vars(right))
    return type(left) is type(right) and left == right


def raw(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("in_band_bytes", [0, codec.IN_BAND_BYTES])
@pytest.mark.parametrize("case", CASES)
def test_what_comes_back_is_equal_to_the_byte(case, in_band_bytes):
    value = CASES[case]()
    metadata, buffers = codec.split(value, in_band_bytes)
    assert all(len(buffer) >= in_band_bytes for buffer in buffers)
    received = [bytearray(buffer) for buffer in buffers]
    assert same(codec.join(metadata, received), CASES[case]())


@pytest.mark.parametrize(
    "case", ["image", "several images", "video", "audio", "bfloat16", "transposed", "strided array", "embeddings"]
)
def test_pixels_are_not_in_the_metadata(case):
    value = CASES[case]()
    metadata, buffers = codec.split(value)
    assert sum(map(len, buffers)) > 20_000
    assert len(metadata) < 12_000


def test_nothing_is_copied_on_either_side():
    tensor, array = noise(64, 1176), noise(64, 1176).numpy()
    _, buffers = codec.split([tensor, array])
    addresses = [np.frombuffer(buffer, dtype=np.uint8).ctypes.data for buffer in buffers]
    assert addresses == [tensor.data_ptr(), array.ctypes.data]
    received = [bytearray(buffer) for buffer in buffers]
    tensor_again, array_again = codec.join(codec.split([tensor, array])[0], received)
    received[0][:4] = received[1][:4] = b"\0\0\0\0"
    assert tensor_again.flatten()[0] == 0
    assert array_again.flat[0] == 0


def test_what_was_one_object_stays_one():
    feature = noise(64, 1176)
    metadata, buffers = codec.split({"a": feature, "b": [feature]})
    assert len(buffers) == 1
    again = codec.join(metadata, [bytearray(buffers[0])])
    assert again["a"] is again["b"][0]


def test_what_was_received_can_be_sent_on():
    metadata, buffers = codec.split(CASES["image"]())
    received = codec.join(metadata, [bytearray(buffer) for buffer in buffers])
    again = pickle.loads(pickle.dumps(received))  # noqa: S301 - our own
    metadata, buffers = codec.split(again)
    assert same(codec.join(metadata, [bytearray(buffer) for buffer in buffers]), CASES["image"]())


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        (noise(64, 1176), 64 * 1176 * 4),
        (noise(64, 1176, dtype=torch.bfloat16), 64 * 1176 * 2),
        (noise(100, 10)[::2], 50 * 10 * 4),
        (np.zeros((3, 5), dtype=np.int16), 30),
        (np.zeros((4096, 4096), dtype=np.uint8)[:1, :1], 1),
        ([noise(10), [noise(10), np.zeros(10, dtype=np.uint8)]], 90),
        ({"a": noise(10), "b": {"c": (noise(5),)}}, 60),
        (
            Item(Modality.IMAGE, feature=noise(1000), model_specific_data={"grid": torch.zeros(3, dtype=torch.int64)}),
            4024,
        ),
        ([1] * 1000, 8000),
        (b"x" * 77, 77),
    ],
)
def test_sizes_are_estimated_without_looking_at_the_bytes(value, size_bytes):
    assert size_bytes <= codec.size_bytes(value) <= size_bytes + 64


def test_size_counts_shared_content_once_and_ends_in_cycles():
    feature = noise(1000)
    loop = [feature, feature]
    loop.append(loop)
    assert codec.size_bytes(loop) == 4000
    assert codec.size_bytes(request(Item(Modality.IMAGE, feature=noise(64, 1176)))) == pytest.approx(
        64 * 1176 * 4, rel=0.02
    )


class Slotted:
    __slots__ = ("feature",)

    def __init__(self, feature):
        self.feature = feature


def test_size_sees_into_slots():
    assert codec.size_bytes([Slotted(noise(500))]) == 2000


def test_tensors_on_cards_are_set_apart_in_order_and_put_back(monkeypatch):
    first, second, host = noise(64, 1176, seed=1), noise(64, 1176, seed=2), noise(64, 1176, seed=3)
    monkeypatch.setattr(
        codec, "is_plain", lambda tensor, device: (device == "cuda") is any(tensor is each for each in (first, second))
    )
    on_cards = []
    metadata, buffers = codec.split({"a": first, "b": [second, host, first]}, on_cards=on_cards)
    assert [each.data_ptr() for each in on_cards] == [first.data_ptr(), second.data_ptr()]
    assert len(buffers) == 1
    assert len(metadata) < 2000
    arrived = [first.clone(), second.clone()]
    again = codec.join(metadata, [bytearray(buffer) for buffer in buffers], arrived)
    assert again["a"] is arrived[0]
    assert again["b"][2] is arrived[0]
    assert again["b"][0] is arrived[1]
    assert same(again["b"][1], host)
