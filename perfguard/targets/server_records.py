"""What a server's processes wrote down of themselves: replaced things, loaded files, the strategy that was put in.

The records are JSON lines; `perfguard/inside/site/perfguard_hook.py` writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perfguard.model.errors import UntestableError
from perfguard.model.scenario import Strategy


def read_stand_ins(report_dir: Path) -> tuple[str, ...]:
    """Read what the server's processes recorded: each replaced thing and each stand-in kernel that was called, once."""
    found = set()
    for entry in _records(report_dir):
        if "replaced" in entry:
            found.add(f"{entry['replaced']}: {entry['detail']}")
        elif "computed" in entry:
            found.add(f"{entry['computed']}: called, and computed in plain torch by the stand-in")
        elif "called" in entry:
            found.add(f"{entry['called']}: called, and raised, because it is a stand-in")
    return tuple(sorted(found))


def read_loaded_files(report_dir: Path, source_root: Path, source_tree: Path) -> tuple[str, ...]:
    """Read which source files the server's processes imported, relative to the tree; `source_root` is below it."""
    modules = {str(entry["loaded"]) for entry in _records(report_dir) if "loaded" in entry}
    found = set()
    for module in modules:
        base = source_root.joinpath(*module.split("."))
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                found.add(file.relative_to(source_tree).as_posix())
    return tuple(sorted(found))


def _records(report_dir: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in report_dir.glob("*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def check_strategy(report_dir: Path, strategy: Strategy) -> None:
    """Make sure that the hook put the strategy in: a revision whose modules have other names would run as it is.

    Raises:
        UntestableError: no process recorded it.
    """
    if strategy is Strategy.AS_COMMITTED:
        return
    if not any(entry.get("strategy") == strategy.value for entry in _records(report_dir)):
        raise UntestableError(
            f"strategy {strategy.value} was not put in: the revision has no module of the names it knows"
        )
