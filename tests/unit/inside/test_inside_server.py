"""Where requests go by a link between cards, and where they stay on gloo; with a scheduler that only looks like one."""

from __future__ import annotations

import sys
import types
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")

from perfguard.inside.strategies import cards, collectives, server  # noqa: E402 - needs torch


class Request:
    def __init__(self, feature):
        item = types.SimpleNamespace(feature=feature, hash=None, precomputed_embeddings=None)
        self.mm_inputs = {"mm_items": [item]}


class Link:
    """What `CardLink` offers, with what was asked of it."""

    made: ClassVar[list] = []

    def __init__(self, group, limit_s, device):
        self.arguments = (group, limit_s, device)
        self.sent = []
        Link.made.append(self)

    def send(self, values, early=()):
        self.sent.append((values, list(early)))
        return values

    def receive(self):
        return ["from rank 0"]


def scheduler_module():
    module = types.SimpleNamespace(__name__="scheduler")

    class Scheduler:
        def __init__(self, server_args, tp_rank):  # noqa: ARG002 - looked up by name
            self.tp_cpu_group = "the ranks"

        def _get_multimodal_inputs(self, raw):  # noqa: ARG002 - counted
            raise AssertionError("replaced")

    def broadcast_pyobj(data, rank, dist_group=None, src=0, force_cpu_device=True):
        raise AssertionError("replaced")

    module.Scheduler, module.broadcast_pyobj = Scheduler, broadcast_pyobj
    module.MultimodalInputs = types.SimpleNamespace(from_dict=lambda raw: ("built", raw))
    return module


@pytest.fixture
def start(monkeypatch):
    """Change a module of a scheduler, and make its scheduler: `start(strategy, device, ranks)`."""
    hashes = types.ModuleType("sglang.srt.managers.mm_utils")
    hashes.hash_feature = lambda _: 7
    for name in ("sglang", "sglang.srt", "sglang.srt.managers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["sglang.srt.managers"].mm_utils = hashes
    monkeypatch.setitem(sys.modules, hashes.__name__, hashes)
    monkeypatch.setattr(cards, "CardLink", Link)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(collectives, "limit_waits", lambda *_: None)
    monkeypatch.setattr(collectives, "broadcast_parted", lambda *arguments: ("by gloo", *arguments))
    monkeypatch.setattr(Link, "made", [])
    monkeypatch.setenv(server.LIMIT_VARIABLE, "12")

    def started(strategy, device, ranks=2):
        records = []
        module = scheduler_module()
        server.change_scheduler(module, strategy, lambda **fields: records.append(fields["detail"]))
        module.Scheduler(types.SimpleNamespace(tp_size=ranks, device=device), 0)
        return module, records

    return started


def test_on_cards_requests_go_by_the_link_and_features_first(start):
    module, records = start("tensor-broadcast", "cuda")
    (link,) = Link.made
    assert link.arguments == ("the ranks", 12.0, torch.device("cuda", 1))
    assert any("over NCCL" in detail for detail in records)
    feature = torch.ones(3)
    request = Request(feature)
    assert module.broadcast_pyobj([request], 0, "the ranks", src=0) == [request]
    ((values, early),) = link.sent
    assert values == [request]
    assert early[0] is feature
    assert request.mm_inputs["mm_items"][0].hash == 7
    assert module.broadcast_pyobj([], 1, "the ranks", src=0) == ["from rank 0"]


def test_another_group_stays_on_gloo(start):
    module, _ = start("tensor-broadcast", "cuda")
    assert module.broadcast_pyobj([], 0, "others", src=0) == ("by gloo", [], 0, "others", 0)


@pytest.mark.parametrize(
    ("strategy", "device", "ranks"),
    [("tensor-broadcast", "cpu", 2), ("tensor-broadcast", "cuda", 1), ("local", "cuda", 2), ("broadcast", "cuda", 2)],
)
def test_no_link_is_made_where_there_is_none_to_use(start, strategy, device, ranks):
    start(strategy, device, ranks)
    assert Link.made == []
