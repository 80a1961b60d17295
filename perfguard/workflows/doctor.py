"""Can perfguard work on this machine? Each check says what it found and what mends it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import psutil

from perfguard.samplers.pyspy import check_attach
from perfguard.workflows.places import CACHE_VARIABLE, cache_dir
from perfguard.workflows.setup import huge_pages

MIN_CORES = 2
# A comparison keeps two servers up: with two ranks each they took 6.2 GiB (proportional set size).
MIN_MEMORY_GIB = 8.0
MIN_DISK_GIB = 6.0
INDEX_TIMEOUT_S = 60.0


class Health(str, Enum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what was looked at, what was found, and the mend where it is not ok."""

    name: str
    health: Health
    found: str
    mend: str = ""


def examine() -> tuple[Check, ...]:
    """Run every check, in the order a run would stumble over them."""
    checks: tuple[Callable[[], Check], ...] = (
        _python,
        _git,
        _cores,
        _memory,
        _disk,
        _shared_memory,
        _ports,
        _ptrace,
        _cgroup,
        _huge_pages,
        _index,
    )
    return tuple(check() for check in checks)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 10) <= sys.version_info[:2] <= (3, 12):
        return Check(name="python", health=Health.OK, found=version)
    return Check(
        name="python",
        health=Health.WARNING,
        found=version,
        mend="the server's packages have wheels for Python 3.10 to 3.12: install perfguard under one of these",
    )


def _git() -> Check:
    path = shutil.which("git")
    if path is None:
        return Check(name="git", health=Health.FAILED, found="not found", mend="install git")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return Check(name="git", health=Health.OK, found=version)


def _cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    busy = psutil.cpu_percent(interval=0.5)
    found = f"{cores} usable, {busy:.0f}% busy now"
    if cores < MIN_CORES:
        return Check(
            name="cores", health=Health.WARNING, found=found, mend="two ranks on one core only measure the scheduler"
        )
    if busy > 20.0:  # noqa: PLR2004 - a fifth of the machine is somebody else's load
        return Check(name="cores", health=Health.WARNING, found=found, mend="stop what else runs: it becomes noise")
    return Check(name="cores", health=Health.OK, found=found)


def _memory() -> Check:
    gib = psutil.virtual_memory().available / 2**30
    if gib < MIN_MEMORY_GIB:
        return Check(
            name="memory",
            health=Health.WARNING,
            found=f"{gib:.1f} GiB available",
            mend=f"two servers side by side, with two ranks each, want {MIN_MEMORY_GIB:.0f} GiB",
        )
    return Check(name="memory", health=Health.OK, found=f"{gib:.1f} GiB available")


def _disk() -> Check:
    folder = cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    gib = shutil.disk_usage(existing).free / 2**30
    found = f"{gib:.1f} GiB free for {folder}"
    if not os.access(existing, os.W_OK):
        return Check(
            name="disk",
            health=Health.FAILED,
            found=f"{existing} cannot be written",
            mend=f"set {CACHE_VARIABLE} to a folder that can",
        )
    if gib < MIN_DISK_GIB:
        return Check(
            name="disk",
            health=Health.WARNING,
            found=found,
            mend=f"the managed environment takes 2.5 GB: free some space or set {CACHE_VARIABLE}",
        )
    return Check(name="disk", health=Health.OK, found=found)


def _shared_memory() -> Check:
    try:
        mib = shutil.disk_usage("/dev/shm").free / 2**20  # noqa: S108 - the kernel's place, not a temporary file
    except OSError as error:
        return Check(
            name="shared memory", health=Health.FAILED, found=error.strerror or str(error), mend="mount a tmpfs there"
        )
    if mib < 256.0:  # noqa: PLR2004 - gloo and the server's queues
        return Check(
            name="shared memory",
            health=Health.WARNING,
            found=f"{mib:.0f} MiB free in /dev/shm",
            mend="in a container, give --shm-size=1g",
        )
    return Check(name="shared memory", health=Health.OK, found=f"{mib:.0f} MiB free in /dev/shm")


def _ports() -> Check:
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
    except OSError as error:
        return Check(
            name="ports",
            health=Health.FAILED,
            found=f"cannot listen on 127.0.0.1: {error.strerror}",
            mend="allow the loopback device (`ip link set lo up`)",
        )
    return Check(name="ports", health=Health.OK, found=f"can listen on 127.0.0.1 (tried {port})")


def _ptrace() -> Check:
    reason = check_attach()
    if reason is None:
        return Check(name="py-spy", health=Health.OK, found="may attach to processes")
    return Check(
        name="py-spy",
        health=Health.FAILED,
        found=reason,
        mend="run as root, `sysctl kernel.yama.ptrace_scope=0`, or in a container add --cap-add SYS_PTRACE",
    )


def _cgroup() -> Check:
    quota = _first_text("/sys/fs/cgroup/cpu.max")
    if quota is None:
        return Check(name="cgroup", health=Health.OK, found="no CPU quota found")
    if quota.startswith("max"):
        return Check(name="cgroup", health=Health.OK, found="no CPU quota")
    return Check(
        name="cgroup",
        health=Health.WARNING,
        found=f"cpu.max is {quota}",
        mend="a quota pauses the server in bursts: give the container whole cores (cpuset) instead",
    )


def _huge_pages() -> Check:
    setting = huge_pages()
    return Check(
        name="huge pages",
        health=Health.OK,
        found=f"transparent huge pages: {setting} (copying large tensors depends on it)",
    )


def _index() -> Check:
    command = [sys.executable, "-m", "pip", "index", "versions", "sglang", "--disable-pip-version-check"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INDEX_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Check(
            name="package index",
            health=Health.WARNING,
            found=f"no answer in {INDEX_TIMEOUT_S:.0f} s",
            mend="check the network and pip's configuration (`pip config list`)",
        )
    if done.returncode == 0 and done.stdout:
        return Check(name="package index", health=Health.OK, found=f"answers: {done.stdout.splitlines()[0]}")
    last = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return Check(
        name="package index",
        health=Health.WARNING,
        found=f"pip cannot list releases: {last}",
        mend="needed once, for the managed environment and for releases; check `pip config list`",
    )


def _first_text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
