"""What only a graphics card can show: run with `pytest -m gpu` where there is one."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from perfguard.inside.strategies import codec  # noqa: E402 - needs torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_tensors_on_a_card_are_set_apart_and_pickled_where_nobody_can_carry_them():
    card = torch.rand(64, 1176, device="cuda")
    on_cards = []
    metadata, buffers = codec.split([card], on_cards=on_cards)
    assert (len(on_cards), buffers) == (1, [])
    assert codec.join(metadata, [], [on_cards[0].clone()])[0].equal(card)
    metadata, buffers = codec.split([card])
    assert len(metadata) > card.numel() * 4
    assert codec.join(metadata, buffers)[0].equal(card)
