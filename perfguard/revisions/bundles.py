"""Bundles: all that a run needs, packed in a folder for a machine that can download nothing, and taken up there.

A bundle holds wheels (perfguard's among them), the trees of some revisions, the tiny model, `install.py`
(`bundle_install`) and a manifest with the hash of every file. What it needs of its contents is unpacked into the cache.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perfguard import __version__
from perfguard.model.errors import PerfguardError, UnknownRevisionError, UsageError
from perfguard.model.revision import HistoryKind, Revision
from perfguard.revisions import bundle_install
from perfguard.revisions.bundle_install import BundleError
from perfguard.revisions.bundle_wheels import Machine, download_wheels, wheel_name, wheel_version
from perfguard.revisions.cachefiles import TEMPORARY_PREFIX, cache_errors, locked
from perfguard.revisions.environments import Environment, existing_environment
from perfguard.revisions.own_wheel import requirements, write_own_wheel, write_zip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from perfguard.model.progress import Progress
    from perfguard.revisions.repository import Repository
    from perfguard.revisions.specs import EnvironmentSpec

_MODEL_SCRIPT = Path(__file__).resolve().parents[1] / "inside" / "tiny_model.py"
_INSTALLER = Path(bundle_install.__file__)
_SHORTEST_PREFIX = 4
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What goes into a bundle: revisions of `repository`, and the packages of `spec` for `machine`.

    `named` has the revisions by what they were asked for as: they can be asked for by it there, too. `scenarios` is the
    folder of the scenarios that come with perfguard; `split_bytes` the largest part, None for one.
    """

    repository: Repository
    named: Mapping[str, Revision]
    spec: EnvironmentSpec
    machine: Machine
    scenarios: Path
    split_bytes: int | None = None

    @property
    def revisions(self) -> tuple[Revision, ...]:
        """The revisions, each once."""
        return tuple(dict.fromkeys(self.named.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSummary:
    """What was packed: the parts are folders (one, the bundle itself, where it was not split) with their sizes."""

    path: Path
    wheels: int
    revisions: tuple[str, ...]
    parts: tuple[tuple[str, int], ...]

    @property
    def size_bytes(self) -> int:
        """The size of all parts."""
        return sum(size for _, size in self.parts)


def create_bundle(contents: Contents, out: Path, progress: Progress) -> BundleSummary:
    """Pack a bundle into the new folder `out`, which appears complete or not at all.

    Raises:
        UsageError: there is something in `out`; the Python or the platform is not known.
        PerfguardError: a download fails, a file is larger than a part, or the disk is full.
    """
    contents.machine.check()
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists", hint="name a new folder for the bundle")
    with cache_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=TEMPORARY_PREFIX) as scratch:
            draft = Path(scratch) / "bundle"
            summary = _pack(contents, draft, out, progress)
            if out.exists():
                out.rmdir()
            draft.rename(out)
    return summary


def _pack(contents: Contents, draft: Path, out: Path, progress: Progress) -> BundleSummary:
    machine = contents.machine
    wheels_dir, trees_dir = draft / "wheels", draft / "trees"
    wheels_dir.mkdir(parents=True)
    trees_dir.mkdir()
    wheels = download_wheels(contents.spec.steps, requirements(), machine, wheels_dir, progress)
    write_own_wheel(wheels_dir, version=__version__, scenarios=contents.scenarios)
    for revision in contents.revisions:
        progress.step(f"packing {revision.label}")
        _zip_tree(contents.repository.worktree(revision), trees_dir / f"{revision.commit}.zip")
    model = _zip_model(wheels, draft / "model", progress)
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    manifest = {
        "format": bundle_install.FORMAT,
        "perfguard": __version__,
        "created_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": machine.python,
        "platform": machine.platform,
        "provided": sorted(machine.provided),
        "environment": contents.spec.name,
        "kind": contents.repository.kind.value,
        "origin": contents.repository.origin,
        "revisions": [asdict(revision) for revision in contents.revisions],
        "names": {name: revision.commit for name, revision in contents.named.items()},
        "model": model,
        "files": [
            {
                "path": path.relative_to(draft).as_posix(),
                "size_bytes": path.stat().st_size,
                "sha256": bundle_install.sha256(path),
            }
            for path in files
        ],
    }
    parts = split_into_parts(draft, files, contents.split_bytes)
    for place in parts:
        (place / bundle_install.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        shutil.copyfile(_INSTALLER, place / "install.py")
    return BundleSummary(
        path=out,
        wheels=len(wheels) + 1,
        revisions=tuple(revision.label for revision in contents.revisions),
        parts=tuple((str(out / place.relative_to(draft)), _size_bytes(place)) for place in parts),
    )


def _zip_tree(tree: Path, path: Path) -> None:
    """Pack a revision's tree; git's own files stay out."""
    members = {
        file.relative_to(tree).as_posix(): file.read_bytes()
        for file in sorted(tree.rglob("*"))
        if file.is_file() and ".git" not in file.relative_to(tree).parts and "__pycache__" not in file.parts
    }
    write_zip(path, members)


def _zip_model(wheels: Sequence[Path], directory: Path, progress: Progress) -> str | None:
    """Pack the tiny model, written with the tokenizer library that the bundle carries; None where it carries none."""
    version = next((wheel_version(path) for path in wheels if wheel_name(path) == "tokenizers"), None)
    if version is None:
        return None
    progress.step("writing the tiny model")
    directory.mkdir()
    with tempfile.TemporaryDirectory(prefix="perfguard-") as scratch:
        library, made = Path(scratch) / "library", Path(scratch) / "model"
        quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:")
        commands = (
            [sys.executable, "-m", "pip", "install", *quiet, f"--target={library}", f"tokenizers=={version}"],
            [sys.executable, str(_MODEL_SCRIPT), str(made)],
        )
        for command in commands:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": str(library)},
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise PerfguardError(f"cannot write the tiny model: {last}", hint="check pip's configuration")
        write_zip(directory / "tiny-model.zip", {each.name: each.read_bytes() for each in made.iterdir()})
    return "model/tiny-model.zip"


def split_into_parts(draft: Path, files: Sequence[Path], split_bytes: int | None) -> tuple[Path, ...]:
    """Move the files into as few parts as they fit in, whole; each part is a folder. Without a limit nothing moves."""
    if split_bytes is None:
        return (draft,)
    parts: list[tuple[Path, int]] = []
    for path in sorted(files, key=lambda each: each.stat().st_size, reverse=True):
        size = path.stat().st_size
        if size > split_bytes:
            raise PerfguardError(
                f"{path.name} has {size / _MIB:.1f} MiB, more than a part of {split_bytes / _MIB:.1f} MiB",
                hint="allow larger parts, or leave its package to the machine with --provided",
            )
        place = next((index for index, (_, used) in enumerate(parts) if used + size <= split_bytes), None)
        if place is None:
            parts.append((draft / f"part-{len(parts) + 1}", 0))
            place = len(parts) - 1
        part, used = parts[place]
        parts[place] = (part, used + size)
        moved = part / path.relative_to(draft)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    for emptied in ("wheels", "trees", "model"):
        with contextlib.suppress(FileNotFoundError):
            (draft / emptied).rmdir()
    return tuple(part for part, _ in parts)


def _size_bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


@contextlib.contextmanager
def _bundle_errors() -> Iterator[None]:
    try:
        yield
    except BundleError as error:
        raise PerfguardError(error.message, hint=error.mend) from error


class Bundle:
    """A bundle that was checked against its manifest, and what it gives to a run: trees, an environment, a model.

    `kind` and `origin` are those of the history that the trees are from. Its revisions can be named and laid out;
    nothing else is known of them, so that they can be measured and compared, and not bisected.
    """

    def __init__(self, path: Path, *, cache_dir: Path, progress: Progress) -> None:
        """Check every file of the bundle at `path`.

        Raises:
            PerfguardError: a file is missing or is not the one that was packed; it is no bundle.
        """
        progress.step(f"checking the bundle {path}")
        with _bundle_errors():
            manifest = bundle_install.read_manifest(path)
            self._files = bundle_install.verify(path, manifest)
        self.path = path.absolute()
        self.kind = HistoryKind(manifest["kind"])
        self.origin = str(manifest["origin"])
        self._revisions = tuple(msgspec.convert(each, Revision) for each in manifest["revisions"])
        self._names: dict[str, str] = manifest.get("names", {})
        self._model = manifest["model"]
        self._digest = bundle_install.manifest_digest(manifest)
        self._cache_dir = cache_dir.absolute()
        self._unpacked = self._cache_dir / "bundles" / self._digest
        self._progress = progress

    def resolve(self, ref: str) -> Revision:
        """The revision that `ref` names: what it was packed as, its label, its commit's hash, or the beginning of that.

        Raises:
            UnknownRevisionError: the bundle has no such revision, or several; the hint lists what it has.
        """
        found = [each for each in self._revisions if ref == each.label or self._names.get(ref) == each.commit] or [
            each for each in self._revisions if len(ref) >= _SHORTEST_PREFIX and each.commit.startswith(ref)
        ]
        if len(found) != 1:
            known = ", ".join(each.label for each in self._revisions)
            raise UnknownRevisionError(f"the bundle {self.path} has no one revision {ref!r}", hint=f"it has {known}")
        return found[0]

    def worktree(self, revision: Revision) -> Path:
        """The revision's tree, unpacked once.

        Raises:
            PerfguardError: the cache cannot be written.
        """
        archive = self._files[f"trees/{revision.commit}.zip"]
        return _unpacked(archive, self._unpacked / "trees" / revision.commit, progress=self._progress)

    def environment(self) -> Environment:
        """The environment with the bundle's wheels: the one that perfguard itself runs in, or one that is made now.

        Raises:
            PerfguardError: it cannot be made with the Python that runs perfguard.
        """
        if bundle_install.installed_digest(Path(sys.prefix)) == self._digest:
            return existing_environment(None)
        place = self._cache_dir / "environments" / f"bundle-{self._digest}"
        with cache_errors(self._cache_dir), locked(place.with_name(f"{place.name}.lock"), progress=self._progress):
            self._progress.step(f"installing the bundle's packages into {place}")
            with _bundle_errors():
                return existing_environment(str(bundle_install.install(self.path, place)))

    def tiny_model(self) -> Path | None:
        """The tiny model, unpacked; None where the bundle has none."""
        if self._model is None:
            return None
        return _unpacked(self._files[self._model], self._unpacked / "tiny-model", progress=self._progress)


def _unpacked(archive: Path, place: Path, *, progress: Progress) -> Path:
    """Unpack a zip file of the bundle, so that `place` is there complete or not at all."""
    with cache_errors(place.parent), locked(place.with_name(f"{place.name}.lock"), progress=progress):
        if not place.is_dir():
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=TEMPORARY_PREFIX) as scratch:
                draft = Path(scratch) / "contents"
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(draft)
                draft.rename(place)
    return place
