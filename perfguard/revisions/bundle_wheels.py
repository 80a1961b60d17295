"""Downloads the wheels of a bundle: for another Python and another platform than those that run this."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.revisions.wheels import last_error

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perfguard.model.progress import Progress
    from perfguard.revisions.specs import InstallStep

# What any Linux that is in use offers; a machine with an older C library is refused by pip when it installs.
_NEWEST_GLIBC_MINOR = 28
_OLDEST_GLIBC_MINOR = 5
_LEGACY_TAGS = ("manylinux2014", "manylinux2010", "manylinux1")
_PLATFORM = re.compile(r"manylinux(?:_2_(\d+)_(\w+))?")
_PYTHON = re.compile(r"3\.(1\d)")
_MAX_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine that a bundle is for: a Python such as `3.12`, and a platform.

    `platform` is `manylinux` (x86-64, any Linux in use), or a tag such as `manylinux_2_34_aarch64`. `provided` are the
    packages (canonical names) that are there already and stay out of the bundle.
    """

    python: str
    platform: str
    provided: frozenset[str]

    def check(self) -> None:
        """Refuse what pip could not be told.

        Raises:
            UsageError: the Python or the platform has no such form.
        """
        if not _PYTHON.fullmatch(self.python):
            raise UsageError(f"--python {self.python} is no Python that runs perfguard", hint="give one such as 3.12")
        if not _PLATFORM.fullmatch(self.platform):
            raise UsageError(
                f"--platform {self.platform} is not known",
                hint="give manylinux, or a tag such as manylinux_2_34_aarch64",
            )

    def pip_options(self) -> tuple[str, ...]:
        """Tell pip what to download for."""
        minor, machine = self._platform()
        tags = [f"manylinux_2_{each}_{machine}" for each in range(minor, _OLDEST_GLIBC_MINOR - 1, -1)]
        tags += [f"{tag}_{machine}" for tag in _LEGACY_TAGS]
        options = ["--only-binary=:all:", f"--python-version={self.python}", "--implementation=cp"]
        return (*options, *(f"--platform={tag}" for tag in tags))

    def marker_environment(self) -> dict[str, str]:
        """What environment markers (PEP 508) are judged by there."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self._platform()[1],
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }

    def needs(self, requirement: Requirement) -> bool:
        """Whether the bundle has to meet `requirement`: it applies there, and is not met there already."""
        applies = requirement.marker is None or requirement.marker.evaluate(self.marker_environment())
        return applies and canonicalize_name(requirement.name) not in self.provided

    def _platform(self) -> tuple[int, str]:
        found = _PLATFORM.fullmatch(self.platform)
        minor, machine = found.groups() if found else (None, None)
        return int(minor or _NEWEST_GLIBC_MINOR), machine or "x86_64"


def download_wheels(
    steps: Iterable[InstallStep], requirements: Iterable[str], machine: Machine, into: Path, progress: Progress
) -> tuple[Path, ...]:
    """Download into `into` the wheels of an environment's `steps` and of more `requirements`, in one resolution.

    pip judges environment markers by the Python that runs it, whatever it downloads for; so what the wheels themselves
    say that they need on `machine` is looked up afterwards, and fetched where it is missing.

    Raises:
        PerfguardError: a download fails, or a package has no wheel for that machine.
    """
    steps = tuple(steps)
    wanted = _wanted([*(each for step in steps if not step.no_deps for each in step.packages), *requirements], machine)
    alone = _wanted([each for step in steps if step.no_deps for each in step.packages], machine)
    progress.step(f"downloading {len(wanted)} packages and what they need, for Python {machine.python}")
    _download(wanted, machine, into)
    _drop(into, machine.provided)
    if alone:
        progress.step(f"downloading {len(alone)} packages by themselves")
        _download([*alone, "--no-deps"], machine, into)
    without_needs = frozenset(canonicalize_name(Requirement(each).name) for each in alone)
    for _ in range(_MAX_ROUNDS):
        missing = _missing(into, machine, without_needs)
        if not missing:
            return tuple(sorted(into.glob("*.whl")))
        progress.step(f"downloading what Python {machine.python} needs besides: {', '.join(missing)}")
        _download([*missing, "--no-deps"], machine, into)
    raise PerfguardError(f"the packages of the bundle go on needing others: {', '.join(missing)}")


def wheel_name(path: Path) -> str:
    """The canonical name of a wheel's package."""
    return str(parse_wheel_filename(path.name)[0])


def wheel_version(path: Path) -> str:
    """The version of a wheel's package."""
    return str(parse_wheel_filename(path.name)[1])


def wheel_requirements(path: Path) -> tuple[Requirement, ...]:
    """What a wheel says that it needs."""
    with zipfile.ZipFile(path) as archive:
        name = next(each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
        metadata = BytesParser().parsebytes(archive.read(name), headersonly=True)
    return tuple(Requirement(each) for each in metadata.get_all("Requires-Dist") or ())


def _wanted(packages: Iterable[str], machine: Machine) -> list[str]:
    parsed = (Requirement(each) for each in packages)
    return [_without_marker(each) for each in parsed if machine.needs(each)]


def _without_marker(requirement: Requirement) -> str:
    """As pip is to take it: it would judge the marker by another Python."""
    plain = Requirement(str(requirement))
    plain.marker = None
    return str(plain)


def _missing(into: Path, machine: Machine, without_needs: frozenset[str]) -> list[str]:
    wheels = {wheel_name(path): path for path in sorted(into.glob("*.whl"))}
    missing = {
        _without_marker(each)
        for name, path in wheels.items()
        if name not in without_needs
        for each in wheel_requirements(path)
        if machine.needs(each) and canonicalize_name(each.name) not in wheels
    }
    return sorted(missing)


def _drop(into: Path, provided: frozenset[str]) -> None:
    for path in into.glob("*.whl"):
        if wheel_name(path) in provided:
            path.unlink()


def _download(arguments: list[str], machine: Machine, into: Path) -> None:
    common = ("--disable-pip-version-check", "--no-input", "--no-color", "--progress-bar=off", f"--dest={into}")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *common, *machine.pip_options(), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise PerfguardError(
            f"cannot download the bundle's packages: {last_error(done.stderr)}",
            hint="leave out what the machine has itself (--provided); else check pip's configuration",
        )
