"""How this room writes into perfguard's cache: locks between processes, whole-or-nothing files, clear disk errors."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from perfguard.model.progress import Progress

TEMPORARY_PREFIX = ".tmp-"

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK_FULL_TEXTS = ("no space left on device", "disk quota exceeded")


@contextlib.contextmanager
def locked(path: Path, *, progress: Progress) -> Iterator[int]:
    """Hold the exclusive lock file `path`; yields its descriptor.

    The kernel drops the lock when the last process that holds the descriptor dies, so `kill -9` leaves no stale lock.
    A child that must not outlive the lock is given the descriptor (`pass_fds`). Lock files are never deleted: another
    process may be waiting on them.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another perfguard that holds {path}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def cache_errors(cache_dir: Path) -> Iterator[None]:
    """Turn an operating system error met while writing under `cache_dir` into one clear line.

    Raises:
        PerfguardError: the disk is full, a quota is used up, or the cache cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise disk_full(cache_dir) from error
        raise PerfguardError(
            f"cannot use the cache {cache_dir}: {error}",
            hint="pass another cache directory, or mend its permissions",
        ) from error


def disk_full(cache_dir: Path) -> PerfguardError:
    """The error for a disk that is full, or a quota that is used up, under `cache_dir`."""
    return PerfguardError(
        f"no space left on the disk (or quota) of the cache {cache_dir}",
        hint="free some space there, or pass a cache directory on another disk",
    )


def says_disk_full(output: str) -> bool:
    """Whether a program's output says that it ran out of disk space or quota."""
    lowered = output.lower()
    return any(text in lowered for text in _DISK_FULL_TEXTS)


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or a crash, sees the old file or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, path)  # noqa: PTH105 - `temporary` is a string from tempfile
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # noqa: PTH108
        raise


def remove_tree(path: Path) -> None:
    """Remove the directory `path` so that a crash midway leaves only a temporary directory behind."""
    doomed = path.with_name(f"{TEMPORARY_PREFIX}removed-{path.name}-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed perfguard left under temporary names in `directory`; the caller holds its lock."""
    for leftover in directory.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def short_key(text: str) -> str:
    """16 hexadecimal digits that stand for `text` in a file name."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
