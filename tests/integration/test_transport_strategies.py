"""Every strategy on the real functions of releases: all ranks get the same bytes, failures end, nothing is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from perfguard.model.errors import UntestableError
from perfguard.model.scenario import Strategy
from perfguard.targets.sglang_transport import MediaKind, TransportCase, start_transport

pytestmark = pytest.mark.slow
SHM = Path("/dev/shm")  # noqa: S108 - the place of POSIX segments, not a temporary directory
REQUESTS = 3
CASES = (
    *(TransportCase(kind=kind) for kind in MediaKind if not kind.name.startswith("BROKEN")),
    TransportCase(kind=MediaKind.IMAGE, count=3),
    TransportCase(kind=MediaKind.IMAGE, width_px=672, height_px=672),
    TransportCase(kind=MediaKind.VIDEO, width_px=448, height_px=252, frames=8),
)


@pytest.fixture
def start(managed_environment, release_tree, tmp_path):
    def start_ranks(strategy, *, release="0.5.4.post2", ranks=2, **options):
        return start_transport(
            source_tree=release_tree(release),
            python=managed_environment.python,
            work_dir=tmp_path / strategy.value,
            ranks=ranks,
            strategy=strategy,
            **options,
        )

    before = set(SHM.glob("perfguard-*"))
    yield start_ranks
    assert set(SHM.glob("perfguard-*")) - before == set()


def fingerprints(transport, cases=CASES):
    """Per case what the ranks got, one tuple a rank."""
    return [
        tuple(rank.fingerprints for rank in transport.run_lockstep(case, requests=REQUESTS, check=True).ranks)
        for case in cases
    ]


# Groups of one to eight ranks without a server's code are in tests/unit/inside: eight of these take minutes to import.
@pytest.mark.parametrize(
    ("release", "ranks", "strategies"),
    [
        ("0.5.4.post2", 2, tuple(Strategy)),
        ("0.5.4.post2", 4, (Strategy.AS_COMMITTED, Strategy.SHARED_MEMORY)),
        ("0.5.4.post1", 1, (Strategy.AS_COMMITTED, Strategy.SHARED_MEMORY)),
    ],
)
def test_every_rank_gets_the_same_bytes_as_with_the_revisions_own_way(start, release, ranks, strategies):
    found = {}
    for strategy in strategies:
        with start(strategy, release=release, ranks=ranks) as transport:
            found[strategy] = fingerprints(transport)
            replaced = [line for line in transport.stand_ins if f"strategy {strategy.value}:" in line]
            assert bool(replaced) == (strategy is not Strategy.AS_COMMITTED)
    for strategy, prints in found.items():
        for case, expected, got in zip(CASES, found[Strategy.AS_COMMITTED], prints, strict=True):
            assert len(got) == ranks, strategy
            assert len({*got, expected[0]}) == 1, (strategy, case)
            assert len(set(got[0])) == (
                1 if case.kind in {MediaKind.NONE, MediaKind.NO_ITEMS, MediaKind.ZERO_SIZE} else REQUESTS
            )


@pytest.mark.parametrize("strategy", [Strategy.LOCAL, Strategy.BROADCAST, Strategy.SHARED_MEMORY])
def test_a_rank_that_raises_does_not_hang_the_others(start, strategy):
    with start(strategy, rank_limit_s=5) as transport:
        begin = time.monotonic()
        with pytest.raises(UntestableError, match=r"TypeError|RankFailedError") as caught:
            transport.run_lockstep(TransportCase(kind=MediaKind.BROKEN), requests=1)
        assert time.monotonic() - begin < 30
    assert "runs" not in caught.value.reason


@pytest.mark.parametrize("strategy", [Strategy.TENSOR_BROADCAST, Strategy.SHARED_MEMORY])
def test_one_rank_that_raises_ends_the_others_by_the_limit(start, strategy):
    with (
        pytest.raises(UntestableError) as caught,
        start(strategy, rank_limit_s=5) as transport,
    ):
        # Where no rank waits for another after a request has come, the others notice with the next one.
        transport.run_lockstep(TransportCase(kind=MediaKind.BROKEN_ON_OTHERS), requests=3, limit_s=60)
    assert "runs" not in caught.value.reason
    assert "ValueError: rank 1 cannot read this" in caught.value.log_tail


@pytest.mark.parametrize("strategy", [Strategy.BROADCAST, Strategy.SHARED_MEMORY])
@pytest.mark.parametrize("stopped", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_killed_or_hangs_ends_the_others_by_the_limit(start, strategy, stopped):
    with start(strategy, rank_limit_s=4) as transport:
        pids = transport.pids
        threading.Timer(0.5, os.kill, (transport.rank_pids[1], stopped)).start()
        with pytest.raises(UntestableError):
            transport.run_lockstep(TransportCase(), requests=100_000, limit_s=60)
    assert [pid for pid in pids if lives(pid)] == []


def lives(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_kill_9_of_the_sender_leaves_no_segment(start):
    with start(Strategy.SHARED_MEMORY) as transport:
        threading.Timer(1.0, os.kill, (transport.pids[0], signal.SIGKILL)).start()
        with pytest.raises(UntestableError):
            transport.run_arrivals(TransportCase(width_px=336, height_px=336), requests=100_000, rate_rps=2000)
    # That no segment is left, `start` asserts.


def test_code_that_is_not_recognised_is_untestable(start, release_tree, managed_environment, tmp_path):
    source = release_tree("0.5.4.post2")
    (root,) = (entry for entry in (source / "python", source) if (entry / "sglang").is_dir())
    tree = tmp_path / "tree"
    (tree / "sglang" / "srt" / "managers").mkdir(parents=True)
    mirror(root / "sglang", tree / "sglang")
    scheduler = tree / "sglang" / "srt" / "managers" / "scheduler.py"
    text = scheduler.read_text()
    scheduler.unlink()
    scheduler.write_text(text.replace("_process_and_broadcast_mm_inputs", "_share_mm_inputs"))
    with (
        pytest.raises(
            UntestableError, match=r"strategy local: the code of sglang.srt.managers.scheduler is not recognised"
        ),
        start_transport(
            source_tree=tree,
            python=managed_environment.python,
            work_dir=tmp_path / "w",
            ranks=2,
            strategy=Strategy.LOCAL,
        ),
    ):
        pass


def mirror(source, target):
    """Link every file, so that one of them can be another."""
    for entry in source.iterdir():
        if entry.is_dir():
            (target / entry.name).mkdir(exist_ok=True)
            mirror(entry, target / entry.name)
        else:
            (target / entry.name).symlink_to(entry)
