"""The one line that says why a server died is found among what its processes write."""

from __future__ import annotations

from pathlib import Path

import pytest

from perfguard.targets import server_log

ROOT = Path("/cache/tree/python")
RANK_DIED = """\
[2025-10-30 10:00:00 TP1] Scheduler hit an exception: Traceback (most recent call last):
  File "/cache/tree/python/sglang/srt/managers/scheduler.py", line 288, in __init__
    raise ValueError("no")
ValueError: no

[2025-10-30 10:00:00] Received sigquit from a child process. It usually means the child failed.
Traceback (most recent call last):
  File "/cache/tree/python/sglang/srt/entrypoints/engine.py", line 800, in launch
    data = reader.recv()
EOFError
"""
PEER_DIED = """\
Traceback (most recent call last):
  File "/env/lib/torch/distributed.py", line 5, in barrier
torch.distributed.DistNetworkError: the first rank is gone
Traceback (most recent call last):
  File "/env/lib/torch/distributed.py", line 9, in broadcast
RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234
"""
TOLD_BY_ANOTHER = """\
Traceback (most recent call last):
  File "/cache/tree/python/sglang/srt/managers/scheduler.py", line 1102, in recv_requests
torch.OutOfMemoryError: CUDA out of memory.
Traceback (most recent call last):
  File "/perfguard/inside/strategies/line.py", line 77, in check
perfguard_strategies.line.RankFailedError: another rank is gone: it failed or was killed; its own log says why
"""
SYNTAX = """\
  File "/cache/tree/python/sglang/srt/managers/scheduler.py", line 1000
    def broken(:
               ^
SyntaxError: invalid syntax
"""
IMPORT = """\
Traceback (most recent call last):
  File "/cache/tree/python/sglang/srt/server_args.py", line 40, in <module>
    from sglang.srt.utils import gone
ImportError: cannot import name 'gone' from 'sglang' (/x.py)
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RANK_DIED, "ValueError: no (sglang/srt/managers/scheduler.py:288)"),
        (
            PEER_DIED,
            "torch.distributed.DistNetworkError: the first rank is gone (/env/lib/torch/distributed.py:5)",
        ),
        (TOLD_BY_ANOTHER, "torch.OutOfMemoryError: CUDA out of memory. (sglang/srt/managers/scheduler.py:1102)"),
        (SYNTAX, "SyntaxError: invalid syntax (sglang/srt/managers/scheduler.py:1000)"),
        (
            IMPORT,
            "ImportError: cannot import name 'gone' from 'sglang' (/x.py) (sglang/srt/server_args.py:40)",
        ),
        ("Traceback (most recent call last):\nEOFError\n", "EOFError"),
        ("AssertionError\n", "AssertionError"),
        ("INFO: no Error: here\nAn Error: in a sentence\n", None),
        ("", None),
    ],
)
def test_last_exception(tmp_path, text, expected):
    log = tmp_path / "log"
    log.write_text(text)
    assert server_log.last_exception(log, source_root=ROOT) == expected


def test_a_missing_log_is_empty(tmp_path):
    assert server_log.tail(tmp_path / "none", 5) == ""
    assert server_log.last_exception(tmp_path / "none", source_root=ROOT) is None


def test_tail_gives_the_last_lines_of_a_large_log_with_broken_text(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"x" * 2_000_000 + b"\nsecond\n\xff third\n")
    assert server_log.tail(log, 2) == "second\n\ufffd third"


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 1): address already in use", True),
        ("torch.distributed.DistNetworkError: port: 29, useIpv6: 0, code: -98, name: EADDRINUSE", True),
        ("98 requests are in use", False),
    ],
)
def test_a_taken_address_is_recognised(tmp_path, line, taken):
    (tmp_path / "log").write_text(line)
    assert server_log.died_of_taken_address(tmp_path / "log") is taken
