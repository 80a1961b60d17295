"""One HTML file of a template: our own style and script inline, and a policy that lets nothing else run or load."""

from __future__ import annotations

import base64
import hashlib
import os
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from perfguard import __version__
from perfguard.model.errors import PerfguardError
from perfguard.model.result import SCHEMA_VERSION
from perfguard.report import assets

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from perfguard.report.drawing import Chart


def make_document(template: str, *, script: str, charts: Iterable[Chart] = (), **context: object) -> str:
    """Fill in `template`; `script` is one of the assets, empty where the page needs none.

    A download made in the page is a Blob handed to the browser: the policy needs no exception for it.
    """
    style = assets.style()
    scripts = f"'{_csp_hash(script)}'" if script else "'none'"
    policy = (
        f"default-src 'none'; style-src '{_csp_hash(style)}'; script-src {scripts}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            charts=[(chart, Markup(chart.svg)) for chart in charts],  # noqa: S704 - built by us, escaped there
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            policy=policy,
            version=__version__,
            schema_version=SCHEMA_VERSION,
            **context,
        )
    )


def write_document(document: str, path: Path) -> Path:
    """Write `document` to `path` in one step, so that no reader ever sees half a file; gives `path`.

    Raises:
        PerfguardError: the file cannot be written there.
    """
    return write_bytes(document.encode(), path)


def write_bytes(data: bytes, path: Path) -> Path:
    """Write `data` to `path` in one step; gives `path`.

    Raises:
        PerfguardError: the file cannot be written there.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(data)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise PerfguardError(
            f"cannot write to {path}: {error.strerror or error}",
            hint="name a file in a directory that exists and that you may write to",
        ) from error
    return path


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("perfguard.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
