"""Turns a package's releases into a git history, one commit a release, so that they are bisected as commits are.

The history is made once and cached. Its commits are deterministic: author and committer are the package, the date is
when the wheel was built by its own word, and only the wheels and their order decide the hashes.
"""

from __future__ import annotations

import calendar
import difflib
import json
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from perfguard.model.errors import PerfguardError, UnknownRevisionError, UsageError
from perfguard.model.revision import HistoryKind, Revision
from perfguard.revisions.cachefiles import (
    TEMPORARY_PREFIX,
    cache_errors,
    locked,
    remove_leftovers,
    short_key,
    write_whole,
)
from perfguard.revisions.gitcommand import Git
from perfguard.revisions.repository import Repository
from perfguard.revisions.stores import lay_out_store
from perfguard.revisions.wheels import WheelCache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from perfguard.model.progress import Progress

_PACKAGE_NAME = re.compile(r"[A-Z0-9](?:[A-Z0-9._-]*[A-Z0-9])?", re.IGNORECASE)
_LAYOUT = 2  # raise it when the commits of the same wheels would come out differently


def is_version(text: str) -> bool:
    """Whether `text` is a release's version (PEP 440) rather than a commit: `0.5.4.post2`, `v0.5.5`.

    A version must hold a dot here: `4096` and `12a4567` are valid versions too, but more likely short hashes.
    """
    try:
        Version(text)
    except InvalidVersion:
        return False
    return "." in text


def release_history(package: str, good: str, bad: str, *, cache_dir: Path, progress: Progress) -> Repository:
    """The releases of `package` from `good` to `bad` (both included, in PEP 440 order) as a history.

    Pre-releases are left out unless one of the ends is one. Wheels are downloaded once; what is there is not asked for
    again, and without a network everything that was made before still works. In the result `resolve` and `between`
    take versions, and a revision's label is its version.

    Raises:
        UnknownRevisionError: an end is no release of the package.
        UsageError: the ends are the same or reversed, or the package is unknown.
        PerfguardError: a release has no wheel, a download fails, or the cache cannot be written.
    """
    name = _canonical(package)
    ends = _version(name, good), _version(name, bad)
    _check_order(*ends)
    return _open_history(name, ends, lambda known: _between(known, *ends), cache_dir=cache_dir, progress=progress)


def named_releases(package: str, names: Sequence[str], *, cache_dir: Path, progress: Progress) -> Repository:
    """Just the releases of `package` that `names` names, in PEP 440 order; one is enough, and any order will do.

    Otherwise as `release_history`.

    Raises:
        UnknownRevisionError: a name is no release of the package.
        UsageError: the package is unknown.
        PerfguardError: a release has no wheel, a download fails, or the cache cannot be written.
    """
    name = _canonical(package)
    wanted = tuple(sorted({_version(name, each) for each in names}))
    return _open_history(name, wanted, lambda _: wanted, cache_dir=cache_dir, progress=progress)


def _open_history(
    name: str,
    needed: tuple[Version, ...],
    choose: Callable[[Sequence[Version]], tuple[Version, ...]],
    *,
    cache_dir: Path,
    progress: Progress,
) -> ReleaseHistory:
    """Open the history of the releases that `choose` picks among the known ones, which must hold the `needed` ones."""
    directory = cache_dir.absolute() / "releases" / name
    with cache_errors(cache_dir), locked(directory / "lock", progress=progress):
        remove_leftovers(directory)
        wheels = WheelCache(package=name, directory=directory, progress=progress)
        known = wheels.versions(needed=needed)
        for version in needed:
            if version not in known:
                raise _unknown(name, version, known)
        versions = choose(known)
        store_dir = directory / f"{name}.git"
        lay_out_store(store_dir)
        store = Git.in_store(store_dir)
        commits = _made_before(directory, versions, store)
        if commits is None:
            commits = _make_history(wheels, versions, store)
            write_whole(_manifest(directory, versions), json.dumps(_described(versions, commits)))
    return ReleaseHistory(package=name, store=store, commits=commits, cache_dir=cache_dir, progress=progress)


class ReleaseHistory(Repository):
    """A history whose revisions are releases; `resolve` and `between` take versions."""

    def __init__(
        self, *, package: str, store: Git, commits: Mapping[Version, str], cache_dir: Path, progress: Progress
    ) -> None:
        """Put it together; use `release_history`. `commits` maps every version to its commit in `store`."""
        super().__init__(
            kind=HistoryKind.RELEASES, origin=package, store=store, names=store, cache_dir=cache_dir, progress=progress
        )
        self._commits = dict(commits)
        self._labels = {commit: str(version) for version, commit in commits.items()}

    def resolve(self, ref: str) -> Revision:
        """The release that `ref` names: a version in any PEP 440 spelling, or its commit's hash.

        Raises:
            UnknownRevisionError: this history has no such release; the hint lists near ones.
        """
        if ref in self._labels:
            return super().resolve(ref)
        version = _version(self.origin, ref)
        if version not in self._commits:
            raise _unknown(self.origin, version, tuple(self._commits))
        return super().resolve(self._commits[version])

    def _label(self, commit: str, short_hash: str) -> str:
        return self._labels.get(commit, short_hash)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """One file of a wheel and the path it is installed at."""

    info: zipfile.ZipInfo
    path: str


def _canonical(package: str) -> str:
    if not _PACKAGE_NAME.fullmatch(package):
        raise UsageError(f"{package!r} is not a package name", hint="pass a name such as sglang")
    return str(canonicalize_name(package))


def _version(package: str, text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion as error:
        raise UnknownRevisionError(
            f"{text!r} is not a version of {package}",
            hint="pass versions such as 0.5.4.post1; for commits pass the repository too",
        ) from error


def _check_order(good: Version, bad: Version) -> None:
    if good == bad:
        raise UsageError(f"GOOD and BAD are the same release, {good}", hint="pass two different releases")
    if good > bad:
        raise UsageError(
            f"BAD {bad} is an older release than GOOD {good}; swap them", hint="GOOD is the older, faster revision"
        )


def _between(known: Sequence[Version], good: Version, bad: Version) -> tuple[Version, ...]:
    with_pre_releases = good.is_prerelease or bad.is_prerelease
    inside = (version for version in known if good <= version <= bad)
    return tuple(version for version in inside if with_pre_releases or not version.is_prerelease)


def _unknown(package: str, version: Version, known: Sequence[Version]) -> UnknownRevisionError:
    near = difflib.get_close_matches(str(version), [str(other) for other in reversed(known)], n=4)
    listed = near or [str(other) for other in known[-4:]]
    return UnknownRevisionError(f"{package} has no release {version}", hint=f"near ones: {', '.join(listed)}")


def _manifest(directory: Path, versions: Sequence[Version]) -> Path:
    listed = short_key(" ".join(map(str, versions)))
    return directory / "histories" / f"{versions[0]}--{versions[-1]}-{listed}.json"


def _described(versions: Sequence[Version], commits: Mapping[Version, str]) -> dict[str, object]:
    return {"layout": _LAYOUT, "releases": [[str(version), commits[version]] for version in versions]}


def _made_before(directory: Path, versions: Sequence[Version], store: Git) -> dict[Version, str] | None:
    """The commits of exactly these `versions` if they were made before and are all still there."""
    try:
        manifest = json.loads(_manifest(directory, versions).read_text())
        commits = {Version(version): str(commit) for version, commit in manifest["releases"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if manifest.get("layout") != _LAYOUT or tuple(commits) != tuple(versions):
        return None
    newest = commits[versions[-1]]
    reachable = store.attempt("rev-list", "--objects", "--quiet", newest).status == 0
    chain = store.attempt("rev-list", "--reverse", newest).text.split() if reachable else []
    return commits if chain == list(commits.values()) else None


def _make_history(wheels: WheelCache, versions: Sequence[Version], store: Git) -> dict[Version, str]:
    paths = [wheels.wheel(version) for version in versions]
    with tempfile.TemporaryDirectory(dir=wheels.directory, prefix=TEMPORARY_PREFIX) as scratch:
        marks = Path(scratch) / "marks"
        with (Path(scratch) / "stream").open("w+b") as stream:
            for mark, (version, path) in enumerate(zip(versions, paths, strict=True), start=1):
                wheels.progress.step(f"unpacking {wheels.package} {version}")
                try:
                    _write_commit(stream, mark, path, package=wheels.package, version=version)
                except zipfile.BadZipFile as error:
                    wheels.discard(path)
                    raise PerfguardError(
                        f"the wheel of {wheels.package} {version} was damaged and has been removed: {error}",
                        hint="run the same command again",
                    ) from error
            stream.flush()
            stream.seek(0)
            store.run("fast-import", "--quiet", "--force", f"--export-marks={marks}", stdin=stream)
        hashes = dict(line.removeprefix(":").split() for line in marks.read_text().splitlines())
    return {version: hashes[str(mark)] for mark, version in enumerate(versions, start=1)}


def _write_commit(stream: BinaryIO, mark: int, wheel: Path, *, package: str, version: Version) -> None:
    """Write one release as a commit in git's fast-import format; nothing is unpacked onto the disk.

    Source: https://git-scm.com/docs/git-fast-import
    """
    subject = f"{package} {version}".encode()
    # The ref lives in the stream only long enough to be fast-import's target; the manifest is what names commits.
    stream.write(b"commit refs/heads/latest-import\nmark :%d\n" % mark)
    with zipfile.ZipFile(wheel) as archive:
        date = _built_at(archive)
        stream.write(f"author {package} <> {date}\ncommitter {package} <> {date}\n".encode())
        stream.write(b"data %d\n%s\n" % (len(subject), subject))
        if mark > 1:
            stream.write(b"from :%d\n" % (mark - 1))
        stream.write(b"deleteall\n")
        for member in _members(archive, wheel):
            content = archive.read(member.info)
            mode = b"100755" if member.info.external_attr >> 16 & 0o100 else b"100644"
            stream.write(b"M %s inline %s\ndata %d\n" % (mode, _quoted(member.path), len(content)))
            stream.write(content + b"\n")


def _built_at(archive: zipfile.ZipFile) -> str:
    """When a wheel was built by its own word, its youngest file's time, in git's form."""
    youngest = max((info.date_time for info in archive.infolist()), default=(1980, 1, 1, 0, 0, 0))
    return f"{calendar.timegm((*youngest, 0, 0, 0))} +0000"


def _members(archive: zipfile.ZipFile, wheel: Path) -> list[_Member]:
    """The files of a wheel as they are installed, in a fixed order.

    Raises:
        PerfguardError: a file would leave the directory that the wheel is unpacked into.
    """
    members = {}
    for info in archive.infolist():
        if info.is_dir():
            continue
        path = PurePosixPath(info.filename)
        unsafe = {"..", ".", ""}.intersection(info.filename.split("/")) or path.is_absolute() or "\\" in info.filename
        if unsafe or any(part.lower() == ".git" for part in path.parts) or "\0" in info.filename:
            raise PerfguardError(
                f"{wheel.name} holds a file with the unsafe path {info.filename!r}", hint="do not use this wheel"
            )
        installed = _installed_path(path)
        members[installed] = _Member(info=info, path=installed)
    return [members[path] for path in sorted(members)]


def _installed_path(path: PurePosixPath) -> str:
    """Where an installer puts a file: `NAME.data/purelib/` and `platlib/` are spread over the root (PEP 427)."""
    is_library = len(path.parts) > 2 and path.parts[0].endswith(".data") and path.parts[1] in {"purelib", "platlib"}  # noqa: PLR2004
    return "/".join(path.parts[2:] if is_library else path.parts)


def _quoted(path: str) -> bytes:
    """A path in fast-import's C-style quotes."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'.encode("utf-8", "surrogateescape")
