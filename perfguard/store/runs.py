"""One run's folder: `run.sqlite` with every trial, and `artifacts/` with the raw profiles by content hash.

A trial is written in one transaction when it has ended, after its artifacts; so a run that is killed at any moment
holds whole trials only, and goes on with the first one that is missing.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.study import StudyTrial
from perfguard.model.trial import Completed, Samples, Trial, Untestable

STORE_VERSION = 2
DATABASE = "run.sqlite"
ARTIFACTS = "artifacts"

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE trials (
    number INTEGER PRIMARY KEY,
    block INTEGER NOT NULL,
    start INTEGER NOT NULL,
    revision TEXT NOT NULL,
    strategy TEXT NOT NULL,
    started_at TEXT NOT NULL,
    wall_s REAL NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('completed', 'untestable')),
    outcome TEXT NOT NULL
);
"""
# Made where a study needs it: other runs have none.
_STUDY_TABLE = "CREATE TABLE IF NOT EXISTS study_trials (number INTEGER PRIMARY KEY, trial TEXT NOT NULL)"


class RunStore:
    """The store of one run; hold it with `with`, so that no second perfguard writes to the same folder."""

    def __init__(self, run_dir: Path, connection: sqlite3.Connection, lock: int) -> None:
        """Take over an open connection and the folder's lock; use `create` or `open`."""
        self.run_dir = run_dir
        self._connection = connection
        self._lock = lock

    @classmethod
    def create(cls, run_dir: Path, settings: dict[str, Any]) -> RunStore:
        """Make a new run's folder; `settings` is what a resumed run must agree with.

        Raises:
            UsageError: the folder already holds a run.
            PerfguardError: the folder cannot be written.
        """
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            (run_dir / ARTIFACTS).mkdir(exist_ok=True)
        except OSError as error:
            raise PerfguardError(f"cannot write the run's folder {run_dir}: {error.strerror}") from error
        lock = _lock(run_dir)
        if (run_dir / DATABASE).exists():
            os.close(lock)
            raise UsageError(f"{run_dir} already holds a run", hint="continue it with --resume, or name another folder")
        with _clear_errors(run_dir):
            # Built under another name and renamed: a kill in between leaves no half-made database.
            unfinished = run_dir / (DATABASE + ".new")
            unfinished.unlink(missing_ok=True)
            with closing(sqlite3.connect(unfinished)) as connection, connection:
                connection.executescript(_TABLES)
                rows = {"store_version": str(STORE_VERSION), "settings": msgspec.json.encode(settings).decode()}
                connection.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
            unfinished.rename(run_dir / DATABASE)
            return cls(run_dir, _connect(run_dir), lock)

    @classmethod
    def open(cls, run_dir: Path) -> RunStore:
        """Open an existing run.

        Raises:
            UsageError: the folder holds no run, or one that another version wrote or another perfguard uses.
        """
        if not (run_dir / DATABASE).exists():
            raise UsageError(f"{run_dir} holds no run", hint="leave out --resume to start one")
        lock = _lock(run_dir)
        with _clear_errors(run_dir):
            store = cls(run_dir, _connect(run_dir), lock)
            version = store._meta("store_version")
        if version != str(STORE_VERSION):
            store.close()
            raise UsageError(f"{run_dir} was written by store version {version}; this perfguard reads {STORE_VERSION}")
        return store

    def __enter__(self) -> RunStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database and give the folder's lock back."""
        self._connection.close()
        os.close(self._lock)

    def settings(self) -> dict[str, Any]:
        """Return what the run was created with."""
        text = self._meta("settings")
        settings: dict[str, Any] = msgspec.json.decode(text) if text else {}
        return settings

    def add_trial(self, trial: Trial) -> None:
        """Keep a trial that has ended.

        Raises:
            PerfguardError: the disk is full, or the database cannot be written.
        """
        outcome = trial.outcome
        status, document = ("completed", outcome.samples) if isinstance(outcome, Completed) else ("untestable", outcome)
        row = (
            trial.number,
            trial.block,
            trial.start,
            trial.revision,
            trial.strategy,
            trial.started_at,
            trial.wall_s,
            status,
            msgspec.json.encode(document).decode(),
        )
        with _clear_errors(self.run_dir), self._connection:
            self._connection.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def trials(self) -> tuple[Trial, ...]:
        """Return every trial in the order it ran."""
        with _clear_errors(self.run_dir):
            rows = self._connection.execute("SELECT * FROM trials ORDER BY number").fetchall()
        return tuple(_trial(row) for row in rows)

    def add_study_trial(self, trial: StudyTrial) -> None:
        """Keep a trial of a study that has ended.

        Raises:
            PerfguardError: the disk is full, or the database cannot be written.
        """
        with _clear_errors(self.run_dir), self._connection:
            self._connection.execute(_STUDY_TABLE)
            row = (trial.number, msgspec.json.encode(trial).decode())
            self._connection.execute("INSERT INTO study_trials VALUES (?, ?)", row)

    def study_trials(self) -> tuple[StudyTrial, ...]:
        """Return every trial of a study in the order it ran."""
        with _clear_errors(self.run_dir):
            self._connection.execute(_STUDY_TABLE)
            rows = self._connection.execute("SELECT trial FROM study_trials ORDER BY number").fetchall()
        return tuple(msgspec.json.decode(text, type=StudyTrial) for (text,) in rows)

    def put_note(self, name: str, value: Any) -> None:
        """Keep `value` (anything JSON can hold) under `name`, in place of what was there.

        Raises:
            PerfguardError: the disk is full, or the database cannot be written.
        """
        row = (f"note:{name}", msgspec.json.encode(value).decode())
        with _clear_errors(self.run_dir), self._connection:
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)

    def note(self, name: str, default: Any) -> Any:
        """Return what `put_note` kept under `name`, or `default`."""
        text = self._meta(f"note:{name}")
        return msgspec.json.decode(text) if text else default

    def put_artifact(self, data: bytes) -> str:
        """Keep raw bytes (compressed) and return their key, the SHA-256 of `data`."""
        key = hashlib.sha256(data).hexdigest()
        path = self._artifact(key)
        if not path.exists():
            with _clear_errors(self.run_dir):
                path.parent.mkdir(exist_ok=True)
                unfinished = path.with_suffix(".new")
                # No time stamp, so that equal data make equal files.
                unfinished.write_bytes(gzip.compress(data, compresslevel=6, mtime=0))
                unfinished.rename(path)
        return key

    def get_artifact(self, key: str) -> bytes:
        """Return what `put_artifact` kept under `key`.

        Raises:
            PerfguardError: the artifact is missing or damaged.
        """
        try:
            data = gzip.decompress(self._artifact(key).read_bytes())
        except (OSError, EOFError, gzip.BadGzipFile) as error:
            raise PerfguardError(f"artifact {key[:12]} of {self.run_dir} cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != key:
            raise PerfguardError(f"artifact {key[:12]} of {self.run_dir} was changed after it was written")
        return data

    def _artifact(self, key: str) -> Path:
        return self.run_dir / ARTIFACTS / key[:2] / f"{key}.gz"

    def _meta(self, key: str) -> str:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else ""


def is_resumable(run_dir: Path) -> bool:
    """Whether a folder holds a run that nobody is working on."""
    if not (run_dir / DATABASE).exists():
        return False
    try:
        os.close(_lock(run_dir))
    except PerfguardError:
        return False
    return True


def _connect(run_dir: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(run_dir / DATABASE)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _lock(run_dir: Path) -> int:
    """Take the folder's lock; the kernel gives it back when the process ends, however it ends."""
    try:
        descriptor = os.open(run_dir / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise PerfguardError(f"cannot write the run's folder {run_dir}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"another perfguard is working in {run_dir}", hint="wait for it, or stop it") from None
    return descriptor


def _trial(row: tuple[int, int, int, str, str, str, float, str, str]) -> Trial:
    number, block, start, revision, strategy, started_at, wall_s, status, document = row
    outcome: Completed | Untestable
    if status == "completed":
        outcome = Completed(samples=msgspec.json.decode(document, type=Samples))
    else:
        outcome = msgspec.json.decode(document, type=Untestable)
    return Trial(
        number=number,
        block=block,
        start=start,
        revision=revision,
        strategy=strategy,
        started_at=started_at,
        wall_s=wall_s,
        outcome=outcome,
    )


@contextmanager
def _clear_errors(run_dir: Path) -> Iterator[None]:
    """Turn the ways a disk fails into one clear line."""
    try:
        yield
    except sqlite3.Error as error:
        raise PerfguardError(f"the store in {run_dir} failed: {error}", hint=_mend(str(error))) from error
    except OSError as error:
        raise PerfguardError(f"cannot write to {run_dir}: {error.strerror}", hint=_mend(str(error))) from error


def _mend(message: str) -> str:
    if "full" in message or "No space" in message or "quota" in message:
        return "free some space and continue with --resume: the trials so far are kept"
    if "malformed" in message or "not a database" in message:
        return "the file is damaged: start anew in another folder"
    return "check that the folder can be written"
