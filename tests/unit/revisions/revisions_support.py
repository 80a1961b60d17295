"""Small repositories and wheels for the tests of this room, and a progress that remembers."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import zipfile
from pathlib import Path


class Recorder:
    """A `Progress` that keeps what it was told."""

    def __init__(self):
        self.said = []
        self.steps = []

    def say(self, message):
        self.said.append(message)

    def step(self, message):
        self.steps.append(message)


class GitRepo:
    """A repository that a test writes commits into."""

    def __init__(self, path, *, object_format="sha1"):
        self.path = Path(path)
        self.path.mkdir(parents=True)
        self.clock = 1_700_000_000
        self.git("init", "--quiet", "--initial-branch=main", f"--object-format={object_format}")

    @classmethod
    def at(cls, path, *, clock):
        """The repository that is at `path` already."""
        made = cls.__new__(cls)
        made.path, made.clock = Path(path), clock
        return made

    def git(self, *arguments, stdin=None):
        self.clock += 60
        date = f"{self.clock} +0000"
        identity = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        for role in ("AUTHOR", "COMMITTER"):
            identity |= {f"GIT_{role}_NAME": "Ada", f"GIT_{role}_EMAIL": "ada@example.org"}
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments],
            env={**os.environ, **identity},
            input=stdin,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def write(self, **files):
        for name, content in files.items():
            file = self.path / name.replace("__", "/").replace("_py", ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    def commit(self, subject, **files):
        self.write(**(files or {"log_py": f"# {subject}\n"}))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")


def snapshot(directory):
    """Every file under `directory` with its bytes' hash and its times: equal only if nothing was written."""
    entries = {}
    for path in sorted(Path(directory).rglob("*")):
        stat = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        entries[str(path.relative_to(directory))] = (stat.st_mode, stat.st_mtime_ns, stat.st_size, content)
    return entries


def make_wheel(directory, version, files, *, name="pgdemo", requires_python=None):
    """A wheel that pip accepts, holding `files` (path: text) and the metadata pip insists on."""
    directory.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    python_line = f"Requires-Python: {requires_python}\n" if requires_python else ""
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{python_line}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_record_hash(text)},{len(text)}\n" for path, text in contents.items())
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in {**contents, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), text)
    return wheel


def _record_hash(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
