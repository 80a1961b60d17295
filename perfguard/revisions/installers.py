"""Runs pip or uv to make a virtual environment and install into it, streaming what they say."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.revisions.cachefiles import disk_full, says_disk_full

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.model.progress import Progress
    from perfguard.revisions.specs import InstallStep

InstallerName = Literal["pip", "uv"]

_TAIL_LINES = 15
_ASK_PYTHON = (
    "import json, platform, sysconfig; print(json.dumps([platform.python_version(), sysconfig.get_platform()]))"
)
# A surrounding virtual environment or PYTHONPATH must not leak into the one that is made.
_INHERITED = (
    "PYTHONPATH",
    "PYTHONHOME",
    "VIRTUAL_ENV",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_USER",
    "PIP_REQUIRE_VIRTUALENV",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python that an environment can be made with: `version` as in `3.11.7`, `platform` as in `linux-x86_64`."""

    executable: str
    version: str
    platform: str

    @property
    def minor(self) -> str:
        """Its minor version, such as `3.11`."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Installer:
    """Makes one environment at `directory`.

    `lock_descriptor` is handed to every child: a pip that outlives a killed perfguard keeps the environment locked.
    """

    name: InstallerName
    directory: Path
    lock_descriptor: int
    progress: Progress

    def make_environment(self, interpreter: Interpreter) -> None:
        """Make an empty virtual environment.

        Raises:
            PerfguardError: venv or uv is missing or fails.
        """
        if self.name == "uv":
            command = [_uv(), "venv", "--python", interpreter.executable, str(self.directory)]
        else:
            command = [interpreter.executable, "-m", "venv", str(self.directory)]
        self._run(command, what=f"making a virtual environment with {interpreter.executable}")

    def install(self, step: InstallStep, *, what: str) -> None:
        """Install one step's packages.

        Raises:
            PerfguardError: it fails; the message says which step, and ends with the installer's last lines.
        """
        python = str(self.directory / "bin" / "python")
        if self.name == "uv":
            command = [_uv(), "pip", "install", "--color", "never", "--python", python]
        else:
            quiet = ("--disable-pip-version-check", "--no-input", "--no-color", "--progress-bar", "off")
            command = [python, "-m", "pip", "install", *quiet]
        self._run([*command, *(["--no-deps"] if step.no_deps else []), *step.packages], what=what)

    def _run(self, command: Sequence[str], *, what: str) -> None:
        tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        environment = {name: value for name, value in os.environ.items() if name not in _INHERITED}
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            pass_fds=(self.lock_descriptor,),
        )
        with child:
            try:
                for line in child.stdout or ():
                    tail.append(line.rstrip())
                    self.progress.step(line.strip())
            except BaseException:  # Ctrl-C too: no installer may go on writing without us
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                raise
        if child.returncode != 0:
            raise self._failed(what, child.returncode, "\n".join(tail))

    def _failed(self, what: str, status: int, tail: str) -> PerfguardError:
        if says_disk_full(tail):
            return disk_full(self.directory.parent)
        if "ensurepip" in tail:
            return PerfguardError(
                f"{what} failed: that Python lacks the venv module's ensurepip",
                hint="install it (Debian, Ubuntu: apt install python3-venv), or pass another Python",
            )
        return PerfguardError(
            f"{what} failed (exit status {status}); {self.name} said last:\n{tail}",
            hint="check the network and the installer's configuration, then run the same command again",
        )


def ask_interpreter(python: str | None) -> Interpreter:
    """What kind of Python `python` is (a path or a command's name); perfguard's own where it is None.

    Raises:
        UsageError: it cannot be run.
    """
    wanted = python or sys.executable
    executable = shutil.which(wanted)
    if executable is None:
        raise UsageError(f"there is no Python {wanted}", hint="pass the path of a Python's executable")
    try:
        asked = subprocess.run([executable, "-I", "-c", _ASK_PYTHON], capture_output=True, text=True, check=False)
        version, platform = json.loads(asked.stdout)
    except (OSError, ValueError) as error:
        raise UsageError(f"{executable} does not answer as a Python does", hint="pass a Python's executable") from error
    # Debian builds such as `3.11.2+` are no PEP 440 versions.
    return Interpreter(executable=str(Path(executable).absolute()), version=version.rstrip("+"), platform=platform)


def _uv() -> str:
    uv = shutil.which("uv")
    if uv is None:
        raise PerfguardError("uv was not found", hint="install uv, or use pip as the installer")
    return uv
