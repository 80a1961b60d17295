"""Where perfguard keeps what it makes: the cache (environments, histories, trees) and the runs."""

from __future__ import annotations

import os
import re
from datetime import datetime, timezone
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "PERFGUARD_CACHE_DIR"
RUNS_VARIABLE = "PERFGUARD_RUNS_DIR"


def cache_dir() -> Path:
    """Return the cache's folder: $PERFGUARD_CACHE_DIR, or the user's cache."""
    override = os.environ.get(CACHE_VARIABLE)
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("perfguard"))


def runs_dir() -> Path:
    """Return where runs are kept: $PERFGUARD_RUNS_DIR, or `perfguard-runs` in the current folder."""
    override = os.environ.get(RUNS_VARIABLE)
    return Path(override).expanduser() if override else Path.cwd() / "perfguard-runs"


def new_run_dir(*words: str) -> Path:
    """Return a folder for a new run that tells by its name what it is and when it began."""
    name = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", word) for word in words)
    moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S")
    path = runs_dir() / f"{name}-{moment}"
    number = 2
    while path.exists():
        path = runs_dir() / f"{name}-{moment}-{number}"
        number += 1
    return path


def newest_run_dir(*words: str) -> Path | None:
    """Return the newest run whose name begins with `words`, or None."""
    name = "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", word) for word in words)
    found = [path for path in runs_dir().glob(f"{name}-*") if (path / "run.sqlite").exists()]
    return max(found, key=lambda path: (path / "run.sqlite").stat().st_mtime, default=None)
