"""`perfguard bundle create`: pack what a run needs, for a machine that can download nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from perfguard.cli.options import JsonOption, PackageOption, QuietOption, RepoOption
from perfguard.cli.progress import make_progress
from perfguard.model.errors import EXIT_OK

DEFAULT_SPEC = "sglang-cpu"
DEFAULT_PROVIDED = "torch,torchvision,triton"
_MIB = 2**20

app = typer.Typer(help="Runs packed for machines that can download nothing.", no_args_is_help=True)


@app.callback()
def _bundle() -> None:
    """Keep `create` a word of its own: there may be more verbs."""


@app.command("create")
def create_command(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to pack into; it must not exist yet.")],
    revisions: Annotated[str, typer.Option(help="Versions, or with --repo anything git names; commas between.")],
    python: Annotated[str, typer.Option(help="The machine's Python.")] = f"{sys.version_info[0]}.{sys.version_info[1]}",
    platform: Annotated[
        str, typer.Option(help="manylinux (x86-64), or a tag such as manylinux_2_34_aarch64.")
    ] = "manylinux",
    provided: Annotated[
        str, typer.Option(help="Packages that the machine has and that stay out; commas between.")
    ] = DEFAULT_PROVIDED,
    environment: Annotated[str, typer.Option(help="The spec of the server's packages.")] = DEFAULT_SPEC,
    split: Annotated[str | None, typer.Option(metavar="SIZE", help="Make folders of at most this, as 60MiB.")] = None,
    repo: RepoOption = None,
    package: PackageOption = "sglang",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Pack wheels, the revisions' trees, the tiny model and perfguard itself into one folder."""
    from perfguard.workflows.bundle import BundleRequest, pack

    request = BundleRequest(
        out=out,
        revisions=revisions,
        python=python,
        platform=platform,
        provided=provided,
        environment_spec=environment,
        repo=repo,
        package=package,
        split=split,
    )
    progress = make_progress(Console(stderr=True), quiet=quiet)
    try:
        summary = pack(request, progress)
    finally:
        progress.close()
    if as_json:
        parts = [{"path": path, "size_bytes": size} for path, size in summary.parts]
        document = {
            "schema_version": 1,
            "path": str(summary.path),
            "size_bytes": summary.size_bytes,
            "wheels": summary.wheels,
            "revisions": summary.revisions,
            "parts": parts,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return EXIT_OK
    sys.stdout.write(
        f"{summary.path}: {summary.size_bytes / _MIB:.1f} MiB, {summary.wheels} wheels, "
        f"{', '.join(summary.revisions)}\n"
    )
    if len(summary.parts) > 1:
        sys.stdout.write("".join(f"  {path}: {size / _MIB:.1f} MiB\n" for path, size in summary.parts))
    sys.stdout.write(
        "There: python3 DIR/install.py --into ENVIRONMENT, then ENVIRONMENT/bin/perfguard run --bundle DIR ...\n"
    )
    return EXIT_OK
