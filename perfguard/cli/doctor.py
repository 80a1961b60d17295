"""`perfguard doctor`: can this machine measure?"""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfguard.cli.options import JsonOption
from perfguard.model.errors import EXIT_FAILURE, EXIT_OK
from perfguard.workflows.doctor import Health, examine

_SIGNS = {Health.OK: ("ok", "green"), Health.WARNING: ("warning", "yellow"), Health.FAILED: ("FAILED", "red")}


def doctor_command(as_json: JsonOption = False) -> int:
    """Check ptrace, cores, memory, disk, ports, git, the package index and cgroup limits, each with a mend."""
    checks = examine()
    failed = any(check.health is Health.FAILED for check in checks)
    if as_json:
        rows = [{"name": c.name, "health": c.health.value, "found": c.found, "mend": c.mend} for c in checks]
        sys.stdout.write(json.dumps({"schema_version": 1, "checks": rows}, indent=2) + "\n")
        return EXIT_FAILURE if failed else EXIT_OK
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for check in checks:
        sign, colour = _SIGNS[check.health]
        table.add_row(Text(sign, style=colour), check.name, Text(check.found))
        if check.mend:
            table.add_row("", "", Text(f"mend: {check.mend}", style="bold"))
    Console().print(table)
    return EXIT_FAILURE if failed else EXIT_OK
