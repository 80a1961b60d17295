"""Packs the perfguard that runs into a wheel, so that it can be installed where there is no index."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "perfguard"
_PACKAGE = Path(__file__).resolve().parents[1]
_WHEEL = "Wheel-Version: 1.0\nGenerator: perfguard\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_ENTRY_POINTS = "[console_scripts]\nperfguard = perfguard.cli.main:main\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = 0o100644


def requirements() -> tuple[str, ...]:
    """What perfguard needs to run, as its installed metadata says, extras left out.

    Raises:
        PerfguardError: perfguard runs from a folder, without being installed.
    """
    return tuple(each for each in _metadata().get_all("Requires-Dist") or () if "extra ==" not in each)


def write_own_wheel(directory: Path, *, version: str, scenarios: Path) -> Path:
    """Write this perfguard's wheel into `directory`; its bytes depend on its files alone.

    `scenarios` is the folder of the scenarios that come with perfguard, wherever it is installed from.

    Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/

    Raises:
        PerfguardError: perfguard is not installed.
    """
    info = f"{_NAME}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requirements())
    members = {
        **dict(_files(_PACKAGE, _NAME)),
        **dict(_files(scenarios, f"{_NAME}/_scenarios")),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {_NAME}\nVersion: {version}\n{needs}".encode(),
        f"{info}/WHEEL": _WHEEL.encode(),
        f"{info}/entry_points.txt": _ENTRY_POINTS.encode(),
    }
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in sorted(members.items()))
    members[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = directory / f"{_NAME}-{version}-py3-none-any.whl"
    write_zip(wheel, members)
    return wheel


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    """Write a zip file whose bytes depend on its members alone: their order is fixed, and they have no time."""
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(members.items()):
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = _FILE_MODE << 16
            archive.writestr(info, content)


def _metadata() -> importlib.metadata.PackageMetadata:
    try:
        return importlib.metadata.metadata(_NAME)
    except importlib.metadata.PackageNotFoundError as error:
        raise PerfguardError(
            "perfguard is not installed, so what it needs is not known", hint="install it (`pip install .`) first"
        ) from error


def _files(root: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{prefix}/{path.relative_to(root).as_posix()}", path.read_bytes()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
