"""The guard's site out of a state folder: its pages, and a copy of each report that is still there."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.night import NightRecord
from perfguard.report.site import write_site
from perfguard.report.site_view import build_site
from perfguard.store.nights import RUNS, NightStore

_REPORTS = "reports"
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What was written: the first page, how many nights and reports it holds, and what was set aside while reading."""

    index: Path
    nights: int
    reports: int
    problems: tuple[str, ...]


def make_site(state: Path, output: Path) -> Site:
    """Write the site of `state` into `output`, over one that is there.

    Raises:
        UsageError: there is no state folder, a newer perfguard wrote it, or `output` lies in it.
        PerfguardError: the state folder cannot be read, or `output` cannot be written.
    """
    if output.resolve().is_relative_to(state.resolve()):
        raise UsageError(f"--output {output} lies in the state folder", hint="name a folder outside it")
    history = NightStore(state).read()
    names = {}
    for night in history.nights:
        source = _report_of(state, night)
        if source is not None:
            names[night.night] = report_name(night)
            _copy(source, output / names[night.night])
    index = write_site(build_site(history.nights, history.acceptances, names), output)
    return Site(index=index, nights=len(history.nights), reports=len(names), problems=history.problems)


def report_name(night: NightRecord) -> str:
    """Give the path, in the site, of a night's report."""
    return f"{_REPORTS}/{_UNSAFE.sub('_', night.night)}.html"


def _report_of(state: Path, night: NightRecord) -> Path | None:
    """The report of a night, where it is still there; only ever a file of the runs, whatever the record says."""
    if night.report is None:
        return None
    path = (state / night.report).resolve()
    is_ours = path.is_relative_to((state / RUNS).resolve()) and path.suffix == ".html"
    return path if is_ours and path.is_file() else None


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    except OSError as error:
        raise PerfguardError(
            f"cannot copy {source} to {target}: {error.strerror or error}",
            hint="name a folder that may be written, with room for the reports",
        ) from error
