"""What a process is called."""

from __future__ import annotations

import os

import pytest

from perfguard.model.errors import UsageError
from perfguard.workflows.live import find_by_pid, title_of


@pytest.mark.parametrize(
    ("command", "title"),
    [
        (["/usr/bin/python3.11", "-m", "sglang.launch_server", "--port", "1"], "sglang.launch_server"),
        (["python", "-X", "dev", "-u", "/srv/app.py", "-m", "x"], "app.py"),
        (["python3", "-c", "print()"], "python -c"),
        (["python3"], "python3"),
        (["python3.13t", "-V"], "python3.13t"),
        (["sglang::scheduler_TP0", "", ""], "sglang::scheduler_TP0"),
        (["nginx: worker process"], "nginx: worker process"),
        (["/usr/sbin/nginx", "-g", "daemon off;"], "nginx"),
        (["/opt/my server/run"], "run"),
        ([], "kworker/0:1"),
        ([""], "kworker/0:1"),
    ],
)
def test_a_process_is_called_what_it_runs_or_calls_itself(command, title):
    assert title_of(command, "kworker/0:1") == title


def test_a_process_that_does_not_exist_is_an_error():
    with pytest.raises(UsageError, match="there is no process"):
        find_by_pid(2**22 + 1)


def test_this_process_is_found():
    assert find_by_pid(os.getpid())[0].pid == os.getpid()
