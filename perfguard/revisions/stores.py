"""perfguard's own bare repositories: one that borrows a local clone's objects, or one that mirrors a URL.

Everything that git may want to write (checked out trees, lazily fetched file contents) goes into a store, so that the
user's clone stays untouched. A store is written by hand rather than by `git clone`, file by whole file, because git's
own lock files would survive a `kill -9` and block the next run.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from git.util import remove_password_if_present

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.revisions.cachefiles import TEMPORARY_PREFIX, locked, remove_leftovers, short_key, write_whole
from perfguard.revisions.gitcommand import Git, GitError, last_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perfguard.model.progress import Progress

_URL = re.compile(r"[a-z][a-z0-9+.-]*://|[\w.-]+@[\w.-]+:", re.IGNORECASE)
_FETCHED = "perfguard-fetched"
_EXPECTED = "pass the path of a local clone, or a URL such as https://github.com/sgl-project/sglang.git"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalClone:
    """What git says about a clone that is not ours.

    `root` is the top of its work tree (the git directory where there is none), `common_dir` where its objects lie.
    """

    root: Path
    common_dir: Path
    shallow: bool
    object_format: str
    git: Git

    def has_uncommitted_changes(self) -> bool:
        """Whether tracked files differ from HEAD; a clone that was never checked out has no changes."""
        git_dir = Path(self.git.text("rev-parse", "--absolute-git-dir"))
        if self.git.text("rev-parse", "--is-inside-work-tree") != "true" or not (git_dir / "index").exists():
            return False
        changes = self.git.attempt("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        return changes.status == 0 and changes.stdout != b""


def is_url(location: str) -> bool:
    """Whether `location` names a repository elsewhere (`https://`, `ssh://`, `file://`, `user@host:path`)."""
    return _URL.match(location) is not None and not Path(location).exists()


def without_credentials(url: str) -> str:
    """`url` as it may be shown in a report: user names and passwords are masked."""
    return remove_password_if_present([url])[0]


def inspect_clone(location: str) -> LocalClone:
    """Look at the clone at the path `location`: a work tree (or a directory in it), a bare clone, or a `.git`.

    Raises:
        UsageError: there is no repository, or git refuses to read it because somebody else owns it.
    """
    path = Path(location).expanduser().absolute()
    if path.is_file() and path.name == ".git":  # of a linked worktree, or a submodule
        path = path.parent
    if not path.is_dir():
        raise UsageError(f"{location} is not a git repository: there is no such directory", hint=_EXPECTED)
    git = Git.reading(path)
    found = git.attempt("rev-parse", "--path-format=absolute", "--git-common-dir", "--is-shallow-repository")
    if found.status != 0:
        raise _unreadable(location, path, found.stderr)
    common_dir, shallow = found.text.splitlines()
    top = git.attempt("rev-parse", "--show-toplevel")
    return LocalClone(
        root=Path(top.text if top.status == 0 and top.text else common_dir),
        common_dir=Path(common_dir),
        shallow=shallow == "true",
        object_format=git.text("rev-parse", "--show-object-format"),
        git=git,
    )


def borrow_clone(clone: LocalClone, *, cache_dir: Path, progress: Progress) -> Git:
    """The store that borrows `clone`'s objects; made, or brought up to date with its configuration."""
    directory = _store_directory(cache_dir, str(clone.common_dir.resolve()))
    with locked(directory.with_suffix(".lock"), progress=progress):
        lay_out_store(directory, settings=_borrowed_settings(clone), object_format=clone.object_format)
        write_whole(directory / "objects/info/alternates", f"{clone.common_dir.resolve() / 'objects'}\n")
        _copy_shallow_boundary(clone.common_dir / "shallow", directory / "shallow")
    return Git.in_store(directory)


def mirror_url(url: str, *, cache_dir: Path, progress: Progress, fresh: bool = False) -> Git:
    """The store that mirrors `url`'s branches and tags, fetched now; file contents are fetched when they are needed.

    Raises:
        PerfguardError: the URL cannot be fetched, and was not fetched before or has to be `fresh`.
    """
    directory = _store_directory(cache_dir, url)
    store = Git.in_store(directory)
    with locked(directory.with_suffix(".lock"), progress=progress):
        lay_out_store(directory, settings=[("remote.origin.url", url), *_promisor_settings("origin")])
        known = (directory / _FETCHED).exists()
        shown = without_credentials(url)
        progress.step(f"fetching {shown}" if known else f"cloning {shown} (history only; this happens once)")
        try:
            _fetch(store, directory)
        except GitError as error:
            why = last_line(error.output).replace(url, shown)
            if not known:
                raise PerfguardError(
                    f"cannot clone {shown}: {why}", hint="check the URL, the network and your credentials for it"
                ) from error
            if fresh:
                raise PerfguardError(
                    f"cannot fetch {shown}: {why}", hint="check the network and your credentials for it"
                ) from error
            progress.say(f"cannot fetch {shown} ({why}); using what was fetched before")
        write_whole(directory / _FETCHED, "")
    return store


def lay_out_store(directory: Path, *, settings: Iterable[tuple[str, str]] = (), object_format: str = "sha1") -> None:
    """Make `directory` a bare repository with `settings`, or renew the settings of the one that is there.

    The caller holds the store's lock.
    """
    for part in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
        (directory / part).mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_leftovers(directory)
    _remove_stale_locks(directory)
    if not (directory / "HEAD").exists():
        write_whole(directory / "HEAD", "ref: refs/heads/main\n")
    base = [("core.repositoryformatversion", "1"), ("core.bare", "true")]
    if object_format != "sha1":
        base.append(("extensions.objectFormat", object_format))
    _write_config(directory, [*base, *settings])


def _unreadable(location: str, path: Path, stderr: str) -> UsageError:
    if "dubious ownership" in stderr:
        return UsageError(
            f"git refuses to read {location}: somebody else owns it",
            hint=f"if you trust it: git config --global --add safe.directory {path}",
        )
    if "not a git repository" in stderr.lower():
        return UsageError(f"{location} is not a git repository", hint=_EXPECTED)
    return UsageError(f"git cannot read {location}: {last_line(stderr)}", hint=_EXPECTED)


def _store_directory(cache_dir: Path, identity: str) -> Path:
    return cache_dir / "stores" / f"{short_key(identity)}.git"


def _borrowed_settings(clone: LocalClone) -> list[tuple[str, str]]:
    """The promisor remotes of a partial clone, with what reaching them needs; nothing for a full clone."""
    settings: list[tuple[str, str]] = []
    for key, value in _matching_settings(clone, r"^remote\..*\.promisor$"):
        name = key.removeprefix("remote.").removesuffix(".promisor")
        if value == "true":
            settings += [(f"remote.{name}.url", _remote_url(clone, name)), *_promisor_settings(name)]
    if settings:
        settings += _matching_settings(clone, r"^(http\.|credential\.|core\.sshcommand$)")
    return settings


def _promisor_settings(remote: str) -> list[tuple[str, str]]:
    return [
        ("extensions.partialClone", remote),
        (f"remote.{remote}.promisor", "true"),
        (f"remote.{remote}.partialCloneFilter", "blob:none"),
    ]


def _matching_settings(clone: LocalClone, pattern: str) -> list[tuple[str, str]]:
    listed = clone.git.attempt("config", "--local", "-z", "--get-regexp", pattern).stdout.decode("utf-8", "replace")
    pairs = (entry.partition("\n") for entry in listed.split("\0") if entry)
    return [(key, value if separator else "true") for key, separator, value in pairs]


def _remote_url(clone: LocalClone, name: str) -> str:
    """The URL git would fetch `name` from, made absolute: the store does not lie where the clone lies."""
    url = clone.git.text("ls-remote", "--get-url", name)
    return url if is_url(url) else str((clone.root / url).resolve())


def _write_config(directory: Path, settings: Iterable[tuple[str, str]]) -> None:
    """Replace the store's configuration as a whole; git does the quoting, in a temporary file."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=TEMPORARY_PREFIX) as scratch:
        file = Path(scratch) / "config"
        file.touch()
        for key, value in settings:
            # `extensions.partialClone` may hold one remote only; the last one wins as it does for git.
            Git(where=()).run("config", "--file", str(file), "--add", key, value)
        file.replace(directory / "config")


def _copy_shallow_boundary(source: Path, target: Path) -> None:
    """Borrowed objects do not tell where a shallow clone's history is cut; without it git sees a broken repository."""
    if source.exists():
        write_whole(target, source.read_text())
    else:
        target.unlink(missing_ok=True)


def _remove_stale_locks(directory: Path) -> None:
    """Remove the lock files of a killed git; the store is locked by us, so no live perfguard owns them."""
    for lock in [*directory.glob("*.lock"), *(directory / "refs").rglob("*.lock")]:
        lock.unlink(missing_ok=True)


def _fetch(store: Git, directory: Path) -> None:
    head = store.run("ls-remote", "--symref", "origin", "HEAD").text.partition("\n")[0]
    store.run(
        "fetch",
        "--force",
        "--prune",
        "--no-tags",
        "--no-write-fetch-head",
        "--filter=blob:none",
        "origin",
        "+refs/heads/*:refs/heads/*",
        "+refs/tags/*:refs/tags/*",
    )
    if head.startswith("ref: "):
        write_whole(directory / "HEAD", f"{head.split()[0]} {head.split()[1]}\n")
