"""The files that a result is written to besides its report: what a pull request and a CI read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

from perfguard.model.errors import UsageError
from perfguard.report.clean import AnyResult
from perfguard.report.document import write_document
from perfguard.report.junit import to_junit
from perfguard.report.markdown import to_markdown
from perfguard.report.sarif import to_sarif


@dataclass(frozen=True, slots=True, kw_only=True)
class Faces:
    """Where each face goes; None: it is not wanted."""

    markdown: Path | None = None
    junit: Path | None = None
    sarif: Path | None = None


def check_faces(faces: Faces) -> None:
    """Refuse what cannot be written before anything is measured.

    Raises:
        UsageError: a folder stands in a file's place, or is missing, or may not be written to.
    """
    for field in fields(faces):
        path: Path | None = getattr(faces, field.name)
        if path is not None:
            check_file(f"--{field.name}", path)


def check_file(option: str, path: Path) -> None:
    """Refuse a file that cannot be written.

    Raises:
        UsageError: `path` is a folder, or its folder is missing or may not be written to.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder", hint="name a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}", hint="make it, or name another place")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise UsageError(f"{option} {path} may not be written", hint="name another place")


def write_faces(result: AnyResult, report: Path, faces: Faces) -> None:
    """Write the faces that are wanted; the Markdown says where `report` lies.

    Raises:
        PerfguardError: a file cannot be written.
    """
    if faces.markdown is not None:
        write_document(to_markdown(result, report=_place(report, faces.markdown)), faces.markdown)
    if faces.junit is not None:
        write_document(to_junit(result), faces.junit)
    if faces.sarif is not None:
        write_document(json.dumps(to_sarif(result), indent=2, allow_nan=False) + "\n", faces.sarif)


def _place(report: Path, markdown: Path) -> str:
    """Give the report's place as a link from the Markdown file, which travels with it."""
    return Path(os.path.relpath(report.resolve(), markdown.resolve().parent)).as_posix()
