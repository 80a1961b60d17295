"""Values in shared memory: equal to the byte for every rank, and no segment left once all ranks have mapped it."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from perfguard.inside.strategies import shared  # noqa: E402 - needs torch

SHM = Path(shared.DIRECTORY)


@pytest.fixture
def records():
    return []


@pytest.fixture
def producer(records):
    """One without an arena: every value is a segment of its own, as where the arena has no room."""
    yield (made := shared.Producer(2, lambda **fields: records.append(fields), arena_bytes=0))
    assert segments(made) == []


@pytest.fixture
def with_arena(records):
    made = shared.Producer(2, lambda **fields: records.append(fields), arena_bytes=1 << 20)
    yield made
    assert segments(made) == []


def segments(producer):
    return sorted(file.name for file in SHM.glob(f"{producer._prefix}*"))


def mapped(producer):
    return Path("/proc/self/maps").read_text().count(producer._prefix)


@pytest.fixture
def value():
    return {"feature": torch.arange(50_000.0), "odd": torch.arange(9001, dtype=torch.uint8), "text": "é", "none": None}


def sent_and_received(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


def equal(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[key], right[key]) if isinstance(left[key], torch.Tensor) else left[key] == right[key]
        for key in left
    )


def test_each_rank_gets_the_value_and_the_last_removes_the_name(producer, value):
    descriptor = producer.publish(value)
    assert len(pickle.dumps(descriptor)) < 250
    first = sent_and_received(descriptor).attach(1)
    assert len(segments(producer)) == 1
    second = descriptor.attach(0)
    assert segments(producer) == []
    assert equal(first, value)
    assert equal(second, value)


def test_the_memory_goes_with_the_last_tensor(producer, value):
    descriptor = producer.publish(value)
    kept = descriptor.attach(0)["feature"]
    other = descriptor.attach(1)
    assert mapped(producer) == 2
    del other
    assert mapped(producer) == 1
    assert kept.sum() == value["feature"].sum()
    del kept
    assert mapped(producer) == 0


def test_a_rank_that_writes_changes_its_own_copy_only(producer, value):
    descriptor = producer.publish(value)
    one, two = descriptor.attach(0), descriptor.attach(1)
    one["feature"].zero_()
    assert torch.equal(two["feature"], value["feature"])


def test_many_requests_leave_neither_descriptors_nor_mappings(producer, value):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, never opened
    for _ in range(300):
        descriptor = producer.publish(value)
        assert equal(descriptor.attach(0), descriptor.attach(1))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert mapped(producer) == 0


def test_no_room_is_told_and_leaves_nothing(producer, value, records, monkeypatch, caplog):
    written = []

    def pwrite(descriptor, data, offset):
        written.append(offset)
        if offset > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    assert producer.publish({"a": torch.zeros(5000), "b": torch.zeros(5000)}) is None
    assert producer.publish({"a": torch.zeros(5000), "b": torch.zeros(5000)}) is None
    assert len(written) == 6
    assert [record["detail"].count("No space left") for record in records if "detail" in record] == [1]
    assert caplog.text.count("No space left on device") == 2


def test_inputs_pickle_as_a_descriptor_and_fall_back_to_themselves(producer, value, monkeypatch):
    holder = shared.Holder()
    holder.producer, holder.prepare = producer, lambda inputs: inputs.update(hashed=True)
    monkeypatch.setattr(shared, "here", holder)
    sent = pickle.dumps(shared.SharedInputs(value))
    assert len(sent) < 300
    holder.producer, holder.rank = None, 0
    received = pickle.loads(sent)  # noqa: S301 - our own
    handed_on = pickle.dumps(received)
    assert len(handed_on) < 300
    holder.rank = 1
    assert equal(dict(received), value | {"hashed": True})
    assert equal(dict(pickle.loads(handed_on)), dict(received))  # noqa: S301 - our own

    holder.producer = producer
    monkeypatch.setattr(producer, "publish", lambda _: None)
    assert equal(dict(sent_and_received(shared.SharedInputs(value))), value | {"hashed": True})


def test_a_process_that_is_no_rank_says_so(producer, value, monkeypatch):
    monkeypatch.setattr(shared, "here", shared.Holder())
    inputs = shared.SharedInputs(value)
    inputs.descriptor = producer.publish(value)
    with pytest.raises(RuntimeError, match=r"sent to a process that is not a rank"):
        sent_and_received(inputs)
    with pytest.raises(RuntimeError, match=r"is for 2 ranks; this is rank 2"):
        inputs.descriptor.attach(2)
    assert equal(inputs.descriptor.attach(0), inputs.descriptor.attach(1))
    with pytest.raises(RuntimeError, match=r"cannot be opened by rank 1: No such file"):
        inputs.descriptor.attach(1)


def test_the_reaper_removes_what_a_killed_producer_left(tmp_path):
    reaper = Path(shared.__file__).parents[1] / "reaper.py"
    made = shared.Producer(
        2,
        lambda **fields: (tmp_path / "1.jsonl").write_text(f'{{"shm_prefix": "{fields["shm_prefix"]}"}}\n'),
        arena_bytes=0,
    )
    other = shared.Producer(2, lambda **_: None, arena_bytes=0)
    descriptors = [made.publish({"a": torch.zeros(9000)}) for _ in range(3)]
    kept = other.publish({"a": torch.zeros(9000)})
    (tmp_path / "2.jsonl").write_text('{"shm_prefix": "perfguard-"}\n')
    descriptors[0].attach(0)
    assert len(segments(made)) == 3
    subprocess.run([sys.executable, "-I", "-S", str(reaper), "--clean", str(tmp_path)], check=True)
    assert segments(made) == []
    assert len(segments(other)) == 1
    kept.attach(0), kept.attach(1)


def test_the_arena_holds_value_after_value_in_the_same_place(with_arena, value):
    places = set()
    for number in range(50):
        value["feature"] += 1
        descriptor = with_arena.publish(value)
        places.add(descriptor.place[0])
        left, right = descriptor.attach(0), sent_and_received(descriptor).attach(1)
        assert equal(left, value), number
        assert equal(right, value), number
        del left, right
    assert len(places) == 1
    assert with_arena.arena.held_bytes() == 0


def test_a_place_in_the_arena_is_kept_while_one_tensor_of_one_rank_lives(with_arena, value):
    descriptor = with_arena.publish(value)
    kept = descriptor.attach(0)["feature"]
    descriptor.attach(1)
    changed = {**value, "feature": value["feature"] * 2}
    other = with_arena.publish(changed)
    assert other.place[0] != descriptor.place[0]
    assert equal(other.attach(0), other.attach(1))
    assert torch.equal(kept, value["feature"])
    view = kept[10:20].view(2, 5)
    del kept
    assert with_arena.publish(value).place[0] == other.place[0]
    assert torch.equal(view, value["feature"][10:20].view(2, 5))


def test_what_a_rank_wrote_into_the_arena_is_seen_by_nobody_else_and_only_once(with_arena, value):
    descriptor = with_arena.publish(value)
    one, two = descriptor.attach(0), descriptor.attach(1)
    one["feature"].fill_(7)
    assert torch.equal(two["feature"], value["feature"])
    del one, two
    again = with_arena.publish(value)
    assert again.place[0] == descriptor.place[0]
    assert equal(again.attach(0), value)
    assert equal(again.attach(1), value)


@pytest.fixture
def mapped_anew(monkeypatch):
    """How often a rank's pages were mapped anew, as a list that grows."""
    seen = []
    populate = shared.arena._populate

    def counted(mapping, advice, offset, size):
        if advice == shared.arena._MADV_POPULATE_READ:
            seen.append(offset)
        populate(mapping, advice, offset, size)

    monkeypatch.setattr(shared.arena, "_populate", counted)
    return seen


def test_a_rank_maps_pages_anew_only_where_it_has_none_or_wrote_to_them(with_arena, value, mapped_anew):
    for number in range(5):
        value["feature"] += 1
        descriptor = with_arena.publish(value)
        got = descriptor.attach(0)
        assert equal(got, value), number
        descriptor.attach(1)
        if number == 2:
            got["odd"][-1] = 77  # one byte of the last page
        del got
    # Each rank the first time; and rank 0 as it gave back what it wrote to.
    assert len(mapped_anew) == 3


def test_a_process_that_may_not_read_its_page_map_maps_pages_anew_each_time(
    with_arena, value, mapped_anew, monkeypatch
):
    really = os.open

    def refuse(path, *rest, **more):
        if path == "/proc/self/pagemap":
            raise PermissionError(1, "Operation not permitted")
        return really(path, *rest, **more)

    monkeypatch.setattr(shared.arena.os, "open", refuse)
    for _ in range(3):
        value["feature"] += 1
        descriptor = with_arena.publish(value)
        left, right = descriptor.attach(0), descriptor.attach(1)
        assert equal(left, value)
        assert equal(right, value)
        left["feature"].zero_()
        del left, right
    assert len(mapped_anew) == 2 * (1 + 3)


def test_a_full_arena_is_followed_by_segments(with_arena, value):
    descriptors = [with_arena.publish(value) for _ in range(8)]
    in_arena = [descriptor for descriptor in descriptors if descriptor.place is not None]
    assert 0 < len(in_arena) < 8
    for descriptor in descriptors:
        assert equal(descriptor.attach(0), value)
        assert equal(descriptor.attach(1), value)
    assert with_arena.publish(value).place is not None
    assert with_arena.fallbacks == 0


def test_a_value_of_the_arena_is_taken_once_by_a_rank_and_never_after_all_gave_it_back(with_arena, value):
    descriptor = with_arena.publish(value)
    kept = descriptor.attach(0)
    with pytest.raises(RuntimeError, match=r"cannot be opened by rank 0: taken before"):
        descriptor.attach(0)
    descriptor.attach(1)
    del kept
    newer = with_arena.publish(value)
    with pytest.raises(RuntimeError, match=r"cannot be opened by rank 1: given back by all ranks"):
        descriptor.attach(1)
    assert equal(newer.attach(0), newer.attach(1))


def test_a_file_system_without_room_is_no_arena_and_then_pickling(value, records, monkeypatch):
    def fallocate(descriptor, offset, size):
        if offset > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    made = shared.Producer(2, lambda **fields: records.append(fields), arena_bytes=1 << 20)
    assert made.publish(value) is None
    assert made.fallbacks == 1
    (SHM / f"{made._prefix}arena").unlink()


def test_the_arena_leaves_no_descriptors_behind(with_arena, value):
    descriptor = with_arena.publish(value)
    descriptor.attach(0), descriptor.attach(1)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, never opened
    for _ in range(300):
        descriptor = with_arena.publish(value)
        assert equal(descriptor.attach(0), descriptor.attach(1))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    assert segments(with_arena) == []
