"""The state folder of the nightly guard: one file a night and one an acceptance, only ever added.

Every file has a name of its own, is written whole or not at all, and carries the SHA-256 of what it holds. So two
nights at once write beside each other, and folders that two machines kept are merged by copying one into the other.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import msgspec

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.night import NIGHT_SCHEMA_VERSION, Acceptance, NightRecord

NIGHTS = "nights"
ACCEPTANCES = "acceptances"
QUARANTINE = "quarantine"
RUNS = "runs"

RecordT = TypeVar("RecordT", NightRecord, Acceptance)


class _Envelope(msgspec.Struct, frozen=True):
    """A file: what it holds, in which version, and the checksum of `body` as it stands in the file."""

    schema_version: int
    kind: str
    sha256: str
    body: msgspec.Raw


class _VersionOnly(msgspec.Struct, frozen=True):
    """What every version of a file has."""

    schema_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NightHistory:
    """What a state folder holds: nights in their order, acceptances in the order they were said.

    `problems` are the files that were set aside while reading, in words; `quarantined` counts all that ever were.
    """

    nights: tuple[NightRecord, ...]
    acceptances: tuple[Acceptance, ...]
    problems: tuple[str, ...]
    quarantined: int


class NightStore:
    """A state folder."""

    def __init__(self, root: Path) -> None:
        """Use the folder `root`; nothing is made until something is written or `prepare` is called."""
        self.root = root

    def prepare(self) -> None:
        """Make the folder, and find out now whether it can be written.

        Raises:
            PerfguardError: it cannot.
        """
        try:
            for name in (NIGHTS, ACCEPTANCES, RUNS):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / NIGHTS / f".{new_id()}.tmp"
            probe.touch(exist_ok=False)
            probe.unlink()
        except OSError as error:
            raise self._unwritable(error) from error

    def read(self) -> NightHistory:
        """Read everything; a file that is damaged or not ours is moved to `quarantine/` and told in `problems`.

        Raises:
            UsageError: the folder does not exist, or a newer perfguard wrote one of the files.
            PerfguardError: the folder or a file in it cannot be read.
        """
        if not self.root.is_dir():
            raise UsageError(f"there is no state folder {self.root}", hint="`perfguard nightly` makes one")
        problems: list[str] = []
        nights = self._read(NIGHTS, NightRecord, problems)
        acceptances = self._read(ACCEPTANCES, Acceptance, problems)
        aside = self.root / QUARANTINE
        return NightHistory(
            nights=tuple(sorted(nights, key=lambda night: (night.number, night.started_at, night.night))),
            acceptances=tuple(sorted(acceptances, key=lambda each: (each.accepted_at, each.id))),
            problems=tuple(problems),
            quarantined=sum(1 for _ in aside.iterdir()) if aside.is_dir() else 0,
        )

    def add_night(self, night: NightRecord) -> Path:
        """Keep a night; gives its file.

        Raises:
            PerfguardError: the disk is full, or the folder cannot be written; what was there is untouched.
        """
        return self._add(self.root / NIGHTS / f"{night.night}.json", night)

    def add_acceptance(self, acceptance: Acceptance) -> Path:
        """Keep an acceptance; gives its file.

        Raises:
            PerfguardError: the disk is full, or the folder cannot be written; what was there is untouched.
        """
        return self._add(self.root / ACCEPTANCES / f"{acceptance.id}.json", acceptance)

    def _read(self, name: str, kind: type[RecordT], problems: list[str]) -> list[RecordT]:
        folder = self.root / name
        records: list[RecordT] = []
        try:
            # A name with a dot in front is being written right now, or was when its writer was killed.
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except FileNotFoundError:
            return records
        except OSError as error:
            raise PerfguardError(f"cannot read {folder}: {error.strerror}") from error
        for path in paths:
            try:
                records.append(_decode(path.read_bytes(), path, kind))
            except (msgspec.MsgspecError, UnicodeDecodeError, IsADirectoryError) as error:
                problems.append(self._set_aside(path, str(error)))
            except OSError as error:
                raise PerfguardError(f"cannot read {path}: {error.strerror}") from error
        return records

    def _set_aside(self, path: Path, why: str) -> str:
        """Move a file to the quarantine, under a name that is free; gives the sentence that tells it."""
        aside = self.root / QUARANTINE
        try:
            aside.mkdir(exist_ok=True)
            path.rename(aside / f"{path.name}.{secrets.token_hex(3)}")
        except FileNotFoundError:
            return f"{path.name} cannot be used ({why}); another perfguard set it aside"
        except OSError as error:
            return f"{path.name} cannot be used ({why}), and not be moved to {QUARANTINE} either: {error.strerror}"
        return f"{path.name} cannot be used ({why}); it was moved to {QUARANTINE}"

    def _add(self, path: Path, record: NightRecord | Acceptance) -> Path:
        body = msgspec.json.encode(record)
        envelope = _Envelope(
            schema_version=record.schema_version,
            kind=type(record).__name__,
            sha256=hashlib.sha256(body).hexdigest(),
            body=msgspec.Raw(body),
        )
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("xb") as file:
                    file.write(msgspec.json.encode(envelope) + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.rename(path)
            finally:
                unfinished.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        return path

    def _unwritable(self, error: OSError) -> PerfguardError:
        return PerfguardError(
            f"cannot write the state folder {self.root}: {error.strerror or error}",
            hint="free some space or name another folder; the nights that are there are untouched",
        )


def new_id() -> str:
    """Give a name for a night or an acceptance: the time (UTC), for people, and enough chance to be the only one."""
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def _decode(data: bytes, path: Path, kind: type[RecordT]) -> RecordT:
    """Read one file.

    Raises:
        UsageError: a newer perfguard wrote it.
        MsgspecError: it is damaged, or something else.
    """
    version = msgspec.json.decode(data, type=_VersionOnly).schema_version
    if version > NIGHT_SCHEMA_VERSION:
        raise UsageError(
            f"{path} was written by a newer perfguard (schema version {version}; this one reads "
            f"{NIGHT_SCHEMA_VERSION})",
            hint="upgrade perfguard, or name another folder with --state",
        )
    envelope = msgspec.json.decode(data, type=_Envelope)
    if envelope.kind != kind.__name__:
        raise msgspec.ValidationError(f"it holds {envelope.kind!r}, not {kind.__name__!r}")
    if hashlib.sha256(bytes(envelope.body)).hexdigest() != envelope.sha256:
        raise msgspec.ValidationError("it was changed after it was written")
    return msgspec.json.decode(envelope.body, type=kind)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
