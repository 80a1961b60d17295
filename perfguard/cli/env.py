"""`perfguard env list|create|remove|path`: the managed environments that servers run in."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from perfguard.cli.options import Installer, InstallerOption, JsonOption, QuietOption
from perfguard.cli.progress import make_progress
from perfguard.model.errors import EXIT_OK
from perfguard.model.progress import Silent
from perfguard.revisions.environments import EnvironmentManager
from perfguard.revisions.specs import load_spec
from perfguard.workflows.places import cache_dir

app = typer.Typer(help="The managed environments that servers run in.", no_args_is_help=True)

SpecArgument = Annotated[str, typer.Argument(help="The environment's spec.")]
DEFAULT_SPEC = "sglang-cpu"


@app.command("list")
def list_command(as_json: JsonOption = False) -> int:
    """List the environments that exist."""
    environments = EnvironmentManager(cache_dir()).list()
    if as_json:
        rows = [
            {
                "key": environment.key,
                "name": environment.name,
                "path": str(environment.path),
                "size_bytes": environment.size_bytes,
                "created_at": environment.created_at,
            }
            for environment in environments
        ]
        sys.stdout.write(json.dumps({"schema_version": 1, "environments": rows}, indent=2) + "\n")
        return EXIT_OK
    if not environments:
        sys.stdout.write("no managed environment yet; the first run makes one, or `perfguard env create`\n")
        return EXIT_OK
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("spec", "key", "size", "created", "path"):
        table.add_column(heading)
    for environment in environments:
        size = f"{environment.size_bytes / 1e9:.1f} GB"
        table.add_row(environment.name, environment.key, size, environment.created_at, str(environment.path))
    Console().print(table)
    return EXIT_OK


@app.command("create")
def create_command(
    spec: SpecArgument = DEFAULT_SPEC, installer: InstallerOption = Installer.PIP, quiet: QuietOption = False
) -> int:
    """Create an environment, unless it exists."""
    progress = make_progress(Console(stderr=True), quiet=quiet)
    try:
        environment = EnvironmentManager(cache_dir(), installer=installer.value).ensure(
            load_spec(spec), python=None, progress=progress
        )
    finally:
        progress.close()
    sys.stdout.write(f"{environment.path}\n")
    return EXIT_OK


@app.command("remove")
def remove_command(spec: Annotated[str, typer.Argument(help="The environment's key or its spec's name.")]) -> int:
    """Remove an environment."""
    removed = EnvironmentManager(cache_dir()).remove(spec, progress=Silent())
    sys.stdout.write("".join(f"removed {environment.path}\n" for environment in removed))
    return EXIT_OK


@app.command("path")
def path_command(spec: SpecArgument = DEFAULT_SPEC) -> int:
    """Print where an environment lies, or will lie."""
    sys.stdout.write(f"{EnvironmentManager(cache_dir()).path(load_spec(spec))}\n")
    return EXIT_OK
