"""Managed environments: virtual environments in perfguard's cache that hold what a server needs, shared by revisions.

An environment lies in `<cache>/environments/<key>`, the key being made of the spec, the Python's minor version and the
platform. It is made in place (a virtual environment's scripts hold its path, so it cannot be renamed) and counts only
once its manifest is there, which is written last: whatever is there without one is wiped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.progress import Silent
from perfguard.revisions.cachefiles import cache_errors, locked, remove_leftovers, remove_tree, write_whole
from perfguard.revisions.installers import Installer, InstallerName, Interpreter, ask_interpreter

if TYPE_CHECKING:
    from perfguard.model.progress import Progress
    from perfguard.revisions.specs import EnvironmentSpec

_MANIFEST = "perfguard-environment.json"
# While pip works, a wheel and what it is unpacked to are there at once.
_SPACE_FACTOR = 1.3
_GB = 1e9
_SILENT = Silent()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A managed environment that is complete, or one of the user's own (`existing_environment`).

    `key` names its directory, `name` its spec, `python` its interpreter; `created_at` is an ISO 8601 time, `packages`
    holds (name, version) pairs. `packages_dir` is where the packages of a user's own lie, which is not the same
    everywhere.
    """

    key: str
    name: str
    path: Path
    python: Path
    size_bytes: int
    created_at: str
    packages: tuple[tuple[str, str], ...]
    packages_dir: Path | None = None


class EnvironmentManager:
    """Makes, lists and removes the managed environments under `cache_dir`."""

    def __init__(self, cache_dir: Path, *, installer: InstallerName = "pip") -> None:
        """`installer` is the program that installs packages: pip, or uv."""
        self._root = cache_dir.absolute() / "environments"
        self._installer = installer

    def list(self) -> tuple[Environment, ...]:
        """The environments that are complete, by key."""
        found = (_read(path) for path in sorted(self._root.glob("*/")))
        return tuple(environment for environment in found if environment is not None)

    def path(self, spec: EnvironmentSpec, *, python: str | None = None) -> Path:
        """Where the environment of `spec` for that Python lies, or would lie.

        Raises:
            UsageError: there is no such Python.
        """
        return self._path(spec, ask_interpreter(python))

    def ensure(self, spec: EnvironmentSpec, *, python: str | None, progress: Progress) -> Environment:
        """The environment of `spec`: the one that is there, or one that is made now.

        `python` is the Python to make it with (a path or a command's name); None is perfguard's own.

        Raises:
            UsageError: the Python does not satisfy the spec, or there is none.
            PerfguardError: too little disk space, or a step of the installation fails.
        """
        interpreter = ask_interpreter(python)
        if not spec.allows_python(interpreter.version):
            raise UsageError(
                f"the environment {spec.name} needs Python {spec.requires_python}; "
                f"{interpreter.executable} is {interpreter.version}",
                hint="pass a Python that satisfies it",
            )
        path = self._path(spec, interpreter)
        with cache_errors(self._root), locked(self._lock(path), progress=progress) as lock:
            return _read(path) or self._make(spec, interpreter, path, lock_descriptor=lock, progress=progress)

    def remove(self, key_or_name: str, *, progress: Progress = _SILENT) -> tuple[Environment, ...]:
        """Remove the environment with that key, or all of that spec's name; returns those that were complete.

        What a killed installation of them left behind is removed as well.

        Raises:
            UsageError: there is none.
        """
        directories = [path for path in self._root.glob("*") if path.is_dir() and _is_named(path, key_or_name)]
        if not directories:
            known = ", ".join(each.key for each in self.list()) or "there are none"
            raise UsageError(f"there is no managed environment {key_or_name!r}", hint=f"known: {known}")
        complete = tuple(each for each in self.list() if each.path in directories)
        for path in directories:
            with cache_errors(self._root), locked(self._lock(path), progress=progress):
                _wipe(path)
        return complete

    def _path(self, spec: EnvironmentSpec, interpreter: Interpreter) -> Path:
        identity = json.dumps([spec.digest(), interpreter.minor, interpreter.platform])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return self._root / f"{spec.name}-py{interpreter.minor}-{digest}"

    def _lock(self, path: Path) -> Path:
        return self._root / f"{path.name}.lock"

    def _make(
        self, spec: EnvironmentSpec, interpreter: Interpreter, path: Path, *, lock_descriptor: int, progress: Progress
    ) -> Environment:
        _wipe(path)
        _check_space(spec, self._root)
        progress.say(
            f"making the environment {spec.name} ({spec.summary}): about {spec.expected_size_bytes / _GB:.1f} GB in "
            f"{path}, about {_duration(spec.expected_time_s)}; this happens once"
        )
        if spec.note:
            progress.say(spec.note)
        started_s = time.monotonic()
        installer = Installer(name=self._installer, directory=path, lock_descriptor=lock_descriptor, progress=progress)
        try:
            installer.make_environment(interpreter)
            for number, step in enumerate(spec.steps, start=1):
                what = f"step {number} of {len(spec.steps)} of the environment {spec.name}"
                progress.step(f"{what}: {len(step.packages)} packages")
                installer.install(step, what=what)
        except BaseException:
            _wipe(path)  # gigabytes that nobody would use; a kill -9 leaves them for the next call to wipe
            raise
        environment = _describe(path, spec.name)
        write_whole(path / _MANIFEST, json.dumps(_as_manifest(environment), indent=1))
        progress.say(
            f"made the environment {spec.name}: {len(environment.packages)} packages, "
            f"{environment.size_bytes / _GB:.1f} GB, {_duration(time.monotonic() - started_s)}"
        )
        return environment


def site_packages(environment: Environment) -> Path:
    """The directory that the environment's packages lie in."""
    return environment.packages_dir or _site_packages(environment.path)


def existing_environment(python: str | None) -> Environment:
    """An environment that is not perfguard's: of the interpreter `python`, or of the one that runs perfguard.

    Raises:
        UsageError: it cannot be run.
    """
    executable = Path(ask_interpreter(python).executable)
    asked = subprocess.run(
        [executable, "-I", "-c", "import sys, sysconfig; print(sys.prefix); print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    prefix, packages_dir = map(Path, asked.stdout.splitlines())
    return Environment(
        key="",
        name="python",
        path=prefix,
        python=executable,
        size_bytes=0,
        created_at="",
        packages=(),
        packages_dir=packages_dir,
    )


def _is_named(path: Path, key_or_name: str) -> bool:
    return (
        path.name == key_or_name
        or re.fullmatch(rf"{re.escape(key_or_name)}-py[0-9.]+-[0-9a-f]+", path.name) is not None
    )


def _site_packages(path: Path) -> Path:
    return next(path.glob("lib/python*/site-packages"))


def _describe(path: Path, name: str) -> Environment:
    distributions = metadata.distributions(path=[str(_site_packages(path))])
    return Environment(
        key=path.name,
        name=name,
        path=path,
        python=path / "bin" / "python",
        size_bytes=_size_bytes(path),
        created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        packages=tuple(sorted((each.metadata["Name"], each.version) for each in distributions)),
    )


def _as_manifest(environment: Environment) -> dict[str, object]:
    """What is written down; the paths follow from where the manifest lies."""
    return {key: value for key, value in asdict(environment).items() if key not in {"path", "python", "packages_dir"}}


def _read(path: Path) -> Environment | None:
    """The environment at `path` if it is complete and its Python is still there."""
    python = path / "bin" / "python"
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        packages = tuple((str(name), str(version)) for name, version in manifest.pop("packages"))
        environment = Environment(path=path, python=python, packages=packages, **manifest)
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    # Its Python is a link: it dangles once the Python that it was made with is gone.
    return environment if os.access(python, os.X_OK) else None


def _wipe(path: Path) -> None:
    """Remove an environment, or what is left of one, so that at no moment half of it counts as complete."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        (path / _MANIFEST).unlink()
    remove_leftovers(path.parent)  # only removals use temporary names there
    remove_tree(path)


def _check_space(spec: EnvironmentSpec, root: Path) -> None:
    needed = spec.expected_size_bytes * _SPACE_FACTOR
    free = shutil.disk_usage(root).free
    if free < needed:
        raise PerfguardError(
            f"the environment {spec.name} needs {needed / _GB:.1f} GB in {root}; {free / _GB:.1f} GB of disk is free",
            hint="free some space there, or pass a cache directory on another disk",
        )


def _size_bytes(path: Path) -> int:
    """Bytes of the files under `path`; links are not followed."""
    return sum(
        os.lstat(os.path.join(directory, file)).st_size  # noqa: PTH118 - tens of thousands of files
        for directory, _, files in os.walk(path)
        for file in files
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"  # noqa: PLR2004
