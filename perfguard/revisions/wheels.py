"""Lists and downloads a package's wheels with the user's own pip, and so from the user's own index or mirror."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.revisions.cachefiles import TEMPORARY_PREFIX, disk_full, remove_leftovers, says_disk_full, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perfguard.model.progress import Progress

_PIP = (sys.executable, "-m", "pip")
_COMMON = ("--disable-pip-version-check", "--no-input", "--no-color")
# Releases are measured in a managed environment: the version of perfguard's own Python is no reason to hide them.
_ANY_PYTHON = ("--ignore-requires-python",)
_FEW_RETRIES = ("--retries", "1")  # without a network, five would take most of a minute
_AVAILABLE_LINE = re.compile(r"^Available versions: (.*)$", re.MULTILINE)
_UNREACHABLE = re.compile(r"retrying \(|connection|could not fetch url|timed out|temporary failure", re.IGNORECASE)


class IndexUnreachableError(PerfguardError):
    """pip could not ask its package index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelCache:
    """The wheels and the list of versions of one `package` (its canonical name), kept in `directory`.

    The caller holds the package's lock.
    """

    package: str
    directory: Path
    progress: Progress

    def versions(self, *, needed: Iterable[Version]) -> tuple[Version, ...]:
        """Every version there is, oldest first: what pip lists now, or what it listed before if it cannot be asked.

        The list of before is also taken where today's lacks one of the `needed` versions and it has them all.

        Raises:
            UsageError: pip knows no such package.
            PerfguardError: the index cannot be reached and was not asked before, or pip is missing.
        """
        self.progress.step(f"listing the releases of {self.package}")
        before = self._listed_before()
        wanted = set(needed)
        try:
            listed = list_versions(self.package)
        except IndexUnreachableError as error:
            if not before:
                raise
            self.progress.say(f"{error.message}; using the list of releases of the last time")
            return before
        if not wanted <= set(listed) and wanted <= set(before):
            self.progress.say(f"pip no longer lists all of {self.package}; using the list of releases of the last time")
            return before
        write_whole(self._list_file, json.dumps([str(version) for version in listed]))
        return listed

    def wheel(self, version: Version) -> Path:
        """The wheel of `version`: the one downloaded before, or one that pip downloads now.

        Raises:
            PerfguardError: there is no wheel for it, or the download fails.
        """
        return self._downloaded(version) or self._download(version)

    def discard(self, wheel: Path) -> None:
        """Forget a wheel that turned out to be damaged."""
        wheel.unlink(missing_ok=True)

    @property
    def _list_file(self) -> Path:
        return self.directory / "versions.json"

    @property
    def _wheels(self) -> Path:
        return self.directory / "wheels"

    def _listed_before(self) -> tuple[Version, ...]:
        try:
            return _in_order(json.loads(self._list_file.read_text()))
        except (FileNotFoundError, ValueError):
            return ()

    def _downloaded(self, version: Version) -> Path | None:
        for path in sorted(self._wheels.glob("*.whl")):
            try:
                _, found, _, _ = parse_wheel_filename(path.name)
            except InvalidWheelFilename:
                continue
            if found == version:
                if zipfile.is_zipfile(path):
                    return path
                self.discard(path)
        return None

    def _download(self, version: Version) -> Path:
        self.progress.step(f"downloading {self.package} {version}")
        self._wheels.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._wheels)
        with tempfile.TemporaryDirectory(dir=self._wheels, prefix=TEMPORARY_PREFIX) as scratch:
            only_wheels = ("--no-deps", "--only-binary=:all:", *_ANY_PYTHON)
            outcome = _pip("download", *only_wheels, "--dest", scratch, f"{self.package}=={version}")
            found = sorted(Path(scratch).glob("*.whl"))
            if outcome.returncode != 0 or not found:
                raise self._cannot_download(version, outcome.stdout + outcome.stderr)
            return found[0].rename(self._wheels / found[0].name)

    def _cannot_download(self, version: Version, output: str) -> PerfguardError:
        what = f"cannot download {self.package} {version}"
        if says_disk_full(output):
            return disk_full(self.directory)
        if "No matching distribution found" in output and not _UNREACHABLE.search(output):
            return PerfguardError(
                f"{what}: it has no wheel for this platform (a source-only release?)",
                hint="choose ends that leave this release out, or bisect the commits of a clone",
            )
        return PerfguardError(
            f"{what}: {last_error(output)}", hint="check the network and pip's configuration (pip config list)"
        )


def list_versions(package: str) -> tuple[Version, ...]:
    """Every version of `package` that pip finds, pre-releases and those for other Pythons included, oldest first.

    Raises:
        UsageError: pip finds no such package.
        IndexUnreachableError: the package index cannot be reached.
        PerfguardError: pip is missing.
    """
    arguments = ("index", "versions", "--pre", *_ANY_PYTHON, *_FEW_RETRIES)
    outcome = _pip(*arguments, "--json", package)
    if outcome.returncode == 0:
        return parse_json_list(outcome.stdout)
    if "no such option: --json" in outcome.stderr:  # pip before 25.1
        outcome = _pip(*arguments, package)
        if outcome.returncode == 0:
            return parse_plain_list(outcome.stdout)
    if _UNREACHABLE.search(outcome.stderr):
        raise IndexUnreachableError(
            f"pip cannot reach its package index for {package}",
            hint="check the network and pip's configuration (pip config list)",
        )
    raise UsageError(
        f"pip cannot list the releases of {package}: {last_error(outcome.stderr)}",
        hint="check the package's name; for commits of a repository pass --repo",
    )


def parse_json_list(output: str) -> tuple[Version, ...]:
    """The versions in what `pip index versions --json` printed, oldest first."""
    return _in_order(json.loads(output)["versions"])


def parse_plain_list(output: str) -> tuple[Version, ...]:
    """The versions in what `pip index versions` printed, oldest first."""
    line = _AVAILABLE_LINE.search(output)
    return _in_order(line.group(1).split(", ")) if line else ()


def last_error(output: str) -> str:
    """The last `ERROR:` line of pip's output, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip said nothing"])[-1].removeprefix("ERROR: ")


def _in_order(texts: Iterable[str]) -> tuple[Version, ...]:
    parsed = (_parsed(text) for text in texts)
    return tuple(sorted({version for version in parsed if version is not None}))


def _parsed(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:  # from before PEP 440; pip cannot install those either
        return None


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    outcome = subprocess.run(
        [*_PIP, arguments[0], *arguments[1:-1], *_COMMON, arguments[-1]],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if "No module named pip" in outcome.stderr:
        raise PerfguardError(
            f"{sys.executable} has no pip, which lists and downloads releases",
            hint=f"install it: {sys.executable} -m ensurepip",
        )
    return outcome
