"""Installs a bundle where nothing can be downloaded. Standard library only: a copy of this file lies in every bundle.

    python3 BUNDLE/install.py --into DIRECTORY

checks every file of the bundle against its manifest, makes a virtual environment in DIRECTORY that also sees the
packages of the Python that runs this (the bundle leaves to the machine what its manifest calls `provided`: torch, say),
installs the bundle's wheels into it without asking any index, and prints the path of its `perfguard`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1
MARK = "perfguard-bundle.json"
_PARTS = "part-*"
_BLOCK_BYTES = 1 << 20
_TAIL_LINES = 8


class BundleError(Exception):
    """The bundle cannot be used; the text says why, `mend` what to do about it."""

    def __init__(self, message: str, *, mend: str) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend


def read_manifest(bundle: Path) -> dict[str, Any]:
    """Read what the bundle says of itself, from its folder or from one of its parts.

    Raises:
        BundleError: there is no manifest, or none that this version understands.
    """
    for place in _places(bundle):
        try:
            manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise BundleError(f"cannot read {place / MANIFEST}: {error}", mend="copy the bundle again") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise BundleError(
                f"{place / MANIFEST} is no manifest of a bundle of format {FORMAT}",
                mend="make the bundle with this version of perfguard",
            )
        return manifest
    raise BundleError(f"{bundle} is no bundle: it has no {MANIFEST}", mend="name the folder that `bundle create` made")


def manifest_digest(manifest: dict[str, Any]) -> str:
    """12 hexadecimal digits that stand for the bundle's contents."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:12]


def verify(bundle: Path, manifest: dict[str, Any]) -> dict[str, Path]:
    """Check every file of the bundle; gives where each lies, by its name in the manifest.

    Raises:
        BundleError: a file is missing, or is not the one that was packed.
    """
    found = {}
    for entry in manifest["files"]:
        name = str(entry["path"])
        path = next((place / name for place in _places(bundle) if (place / name).is_file()), None)
        if path is None:
            raise BundleError(
                f"the bundle {bundle} lacks {name} ({entry['size_bytes']} bytes)",
                mend="copy the bundle again; the parts of one that was split belong side by side in one folder",
            )
        if path.stat().st_size != entry["size_bytes"] or sha256(path) != entry["sha256"]:
            raise BundleError(
                f"{path} is not the file that was packed: its hash differs from the manifest's",
                mend="copy the bundle again",
            )
        found[name] = path
    return found


def sha256(path: Path) -> str:
    """Hash a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def install(bundle: Path, into: Path) -> Path:
    """Make the environment in `into`, or take the one that this bundle made there before; gives its Python.

    Raises:
        BundleError: the bundle is damaged, is for another Python, or needs a package that this Python does not have; an
            installation fails; there is something else in `into`.
    """
    manifest = read_manifest(bundle)
    python = into / "bin" / "python"
    if installed_digest(into) == manifest_digest(manifest):
        return python
    if into.exists() and any(into.iterdir()):
        raise BundleError(f"{into} holds something else", mend="name a new folder, or remove that one")
    files = verify(bundle, manifest)
    _check_python(manifest)
    wheels = [str(path) for name, path in files.items() if name.endswith(".whl")]
    try:
        _run([sys.executable, "-m", "venv", "--without-pip", str(into)], what="making a virtual environment")
        # Before the machine's packages are seen: pip would try to replace them.
        _run(
            [sys.executable, "-m", "pip", "--python", str(python), *_PIP_INSTALL, *wheels], what="installing the wheels"
        )
        _see_packages_of_this_python(into)
        mark = {"digest": manifest_digest(manifest), "bundle": str(bundle.resolve())}
        (into / MARK).write_text(json.dumps(mark) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    return python


_PIP_INSTALL = (
    "install",
    "--no-index",
    "--no-deps",
    "--no-compile",
    "--no-cache-dir",
    "--disable-pip-version-check",
    "--no-input",
    "--no-color",
    "--progress-bar=off",
)


def installed_digest(prefix: Path) -> str | None:
    """Tell which bundle made the environment at `prefix`; None where none did."""
    try:
        return str(json.loads((prefix / MARK).read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _places(bundle: Path) -> list[Path]:
    return [bundle, *sorted(path for path in bundle.glob(_PARTS) if path.is_dir())]


def _check_python(manifest: dict[str, Any]) -> None:
    running = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if running != manifest["python"]:
        raise BundleError(
            f"the bundle is for Python {manifest['python']}; {sys.executable} is {running}",
            mend=f"run it with a Python {manifest['python']}, or make a bundle with --python {running}",
        )
    missing = [name for name in manifest["provided"] if not _has(name)]
    if missing:
        raise BundleError(
            f"the bundle leaves {', '.join(missing)} to the machine, and {sys.executable} has no such package",
            mend="run it with the Python that has them, or make the bundle without these in --provided",
        )


def _has(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _see_packages_of_this_python(into: Path) -> None:
    """Let the environment see this Python's packages, after its own; `--system-site-packages` would skip a venv's."""
    here = list(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))
    lines = "".join(f"import site; site.addsitedir({path!r})\n" for path in here)
    site_packages = next(into.glob("lib/python*/site-packages"))
    # Read last among the environment's own: its packages come first.
    (site_packages / "zz-perfguard-machine.pth").write_text(lines, encoding="utf-8")


def _run(command: list[str], *, what: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not re.match(r"PYTHON|PIP_|VIRTUAL_ENV$", name)}
    done = subprocess.run(
        command,
        env=environment | {"PIP_CONFIG_FILE": os.devnull},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_TAIL_LINES:])
        mend = "run it with a Python that has venv and pip 22.3 or newer, and has room on its disk"
        raise BundleError(f"{what} with {sys.executable} failed:\n{tail}", mend=mend)


def main() -> int:
    """Install the bundle that this file lies in."""
    parser = argparse.ArgumentParser(description="Install a perfguard bundle; nothing is downloaded.")
    parser.add_argument("--into", type=Path, required=True, help="the folder of the environment that is made")
    parser.add_argument("--bundle", type=Path, help="the bundle's folder; by default where this file lies")
    arguments = parser.parse_args()
    here = Path(__file__).resolve().parent
    bundle = arguments.bundle or (here.parent if here.match(_PARTS) else here)
    try:
        python = install(bundle, arguments.into.absolute())
    except BundleError as error:
        sys.stderr.write(f"perfguard: {error.message}\n  mend: {error.mend}\n")
        return 128
    sys.stdout.write(f"{python.parent / 'perfguard'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
