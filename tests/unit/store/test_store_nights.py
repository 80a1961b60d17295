"""The state folder of the guard: nothing that happens to one file takes the others with it."""

from __future__ import annotations

import errno
import json
import os
import random
import threading

import pytest

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.night import Acceptance, BegunRun, MachineFingerprint, NightRecord, NightVerdict, Stage
from perfguard.model.revision import Revision
from perfguard.store.nights import NightStore, new_id

HEAD = Revision(commit="a" * 40, label="aaaaaaa", subject="naïve → change", author="A", committed_at="2026-01-01")


def a_night(number=1, **changed):
    values = {
        "schema_version": 1,
        "night": new_id(),
        "number": number,
        "started_at": "2026-01-01T02:00:00+00:00",
        "repo": "/r",
        "branch": "main",
        "scenario": "s",
        "metric": "throughput_rps",
        "larger_is_better": True,
        "machine": MachineFingerprint(key="k", described="2 cores"),
        "head": HEAD,
        "baseline": None,
        "trusted": HEAD,
        "verdict": NightVerdict.FIRST,
        "sentence": "first",
        "reason": "",
    }
    return NightRecord(**(values | changed))


def an_acceptance():
    return Acceptance(
        schema_version=1, id=new_id(), commit="b" * 40, reason="known", after_night="n", accepted_at="2026-01-02"
    )


def a_begun_run(number=1):
    return BegunRun(
        schema_version=1,
        id=f"night-{number}",
        night="night",
        branch="main",
        scenario="s",
        machine="k",
        stage=Stage.COMPARE,
        attempt=number,
        low="a" * 40,
        high="b" * 40,
        run_dir=f"runs/night-{number}",
    )


@pytest.fixture
def store(tmp_path):
    made = NightStore(tmp_path / "state")
    made.prepare()
    return made


def test_what_is_written_is_read_back_in_the_order_of_the_numbers(store):
    nights = [a_night(number, started_at=f"2026-01-{9 - number:02d}") for number in (3, 1, 2)]  # the clock goes back
    for night in nights:
        store.add_night(night)
    acceptance = an_acceptance()
    store.add_acceptance(acceptance)
    history = store.read()
    assert history.nights == (nights[1], nights[2], nights[0])
    assert history.acceptances == (acceptance,)
    assert (history.problems, history.quarantined) == ((), 0)


def test_a_file_cut_anywhere_is_set_aside_and_the_others_stay(store):
    kept = a_night(1)
    store.add_night(kept)
    path = store.add_night(a_night(2))
    whole = path.read_bytes()
    rng = random.Random(7)
    for count, length in enumerate(sorted(rng.sample(range(len(whole) - 1), 50)), start=1):
        path.write_bytes(whole[:length])
        history = store.read()
        assert history.nights == (kept,), length
        assert len(history.problems) == 1
        assert path.name in history.problems[0]
        assert history.quarantined == count
        assert not path.exists()
    assert store.read().problems == ()
    assert any(aside.read_bytes() == whole[:length] for aside in (store.root / "quarantine").iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff\xfe",
        b"not ours",
        b'{"schema_version": "1"}',
        b'{"schema_version": 1, "kind": "Acceptance", "sha256": "", "body": {}}',
    ],
)
def test_a_foreign_file_is_set_aside(store, content):
    (store.root / "nights" / "foreign.json").write_bytes(content)
    (store.root / "nights" / "folder").mkdir()
    history = store.read()
    assert (len(history.problems), history.quarantined, history.nights) == (2, 2, ())


def test_a_changed_number_is_found_by_the_checksum(store):
    path = store.add_night(a_night(1, trials=12))
    path.write_bytes(path.read_bytes().replace(b'"trials":12', b'"trials":13'))
    history = store.read()
    assert history.nights == ()
    assert "changed after it was written" in history.problems[0]


def test_a_newer_version_is_an_error_and_left_alone(store):
    path = store.add_night(a_night(1))
    document = json.loads(path.read_text()) | {"schema_version": 2, "body": "who knows"}
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="newer perfguard") as raised:
        store.read()
    assert path.name in raised.value.message
    assert path.exists()


def test_two_writers_lose_nothing(store):
    def write(number):
        for _ in range(20):
            store.add_night(a_night(number))

    writers = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert store.read().problems == ()  # nobody sees half a file
    for writer in writers:
        writer.join()
    history = store.read()
    assert [night.number for night in history.nights] == [1] * 20 + [2] * 20
    assert not list((store.root / "nights").glob(".*"))


def test_a_full_disk_is_one_clear_line_and_loses_nothing(store, monkeypatch):
    kept = a_night(1)
    store.add_night(kept)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(PerfguardError, match="No space left") as raised:
            store.add_night(a_night(2))
    assert "untouched" in raised.value.hint
    assert store.read().nights == (kept,)
    assert [path.name for path in (store.root / "nights").iterdir()] == [f"{kept.night}.json"]


def test_a_folder_that_is_missing_or_cannot_be_made_is_said(tmp_path):
    with pytest.raises(UsageError, match="no state folder"):
        NightStore(tmp_path / "nowhere").read()
    (tmp_path / "file").touch()
    with pytest.raises(PerfguardError, match="cannot write the state folder"):
        NightStore(tmp_path / "file").prepare()


def test_what_was_begun_is_kept_until_it_is_taken_away(store):
    first, second = a_begun_run(1), a_begun_run(2)
    store.add_begun(second)
    store.add_begun(first)
    store.add_begun(first)  # said twice, kept once
    assert store.read().begun == (first, second)
    store.remove_begun(first)
    store.remove_begun(first)
    assert store.read().begun == (second,)


def test_a_damaged_file_of_what_was_begun_stops_nothing(store):
    kept = a_night(1)
    store.add_night(kept)
    path = store.add_begun(a_begun_run())
    path.write_bytes(path.read_bytes()[:-20])
    history = store.read()
    assert (history.nights, history.begun, len(history.problems)) == ((kept,), (), 1)
