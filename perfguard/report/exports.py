"""Profiles in the forms of other tools: folded stacks, speedscope's JSON, and the compared functions as CSV.

Costs are CPU per request, as everywhere: milliseconds in speedscope and CSV, and whole nanoseconds in folded stacks,
whose readers expect counts.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfguard.model.errors import PerfguardError
from perfguard.report import words
from perfguard.report.clean import AnyResult, clean
from perfguard.report.view import build_page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from perfguard.model.result import GrownFrame, RoleProfile
    from perfguard.report.flame import Side

_NS_PER_MS = 1_000_000
_FRAME = re.compile(r"(?P<name>.*) \((?P<file>[^()]*?)(?::(?P<line>\d+))?\)", re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def write_exports(result: AnyResult, directory: Path) -> tuple[Path, ...]:
    """Write every profile of `result` to `directory`; gives the files written.

    They are `<side>-<role>.folded`, one `profile.speedscope.json` with all of them, and `functions.csv` where functions
    were compared. Home directories and secrets are redacted.

    Raises:
        PerfguardError: a file cannot be written there.
    """
    shown = clean(result, home=str(Path.home()))
    sides = build_page(shown).sides
    texts = {
        f"{_slug(side.name)}-{_slug(profile.role)}.folded": folded(profile)
        for side in sides
        for profile in side.profiles
    }
    if sides:
        texts["profile.speedscope.json"] = json.dumps(speedscope(sides, shown.run.scenario), separators=(",", ":"))
    if grown := getattr(shown, "grown_frames", ()):
        texts["functions.csv"] = functions_csv(grown)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise PerfguardError(
            f"cannot write the exports to {directory}: {error.strerror or error}",
            hint="name a directory that you may write to",
        ) from error
    return tuple(directory / name for name in texts)


def folded(profile: RoleProfile) -> str:
    """Give a profile as folded stacks, `root;caller;leaf count`, the count in CPU nanoseconds per request.

    A semicolon or a line break inside a name would end it, and is written `:` or a space.
    """
    lines = []
    for frames, ms in _usable(profile):
        names = ";".join(frame.replace(";", ":").replace("\n", " ") for frame in frames)
        lines.append(f"{names} {max(1, round(ms * _NS_PER_MS))}\n")
    return "".join(lines)


def speedscope(sides: Iterable[Side], title: str) -> dict[str, Any]:
    """Give all profiles as one speedscope document, a profile for every side and role.

    Source: https://www.speedscope.app/file-format-schema.json
    """
    numbers: dict[str, int] = {}
    profiles = []
    for side in sides:
        for profile in side.profiles:
            usable = _usable(profile)
            profiles.append(
                {
                    "type": "sampled",
                    "name": f"{side.name}: {profile.role} ({side.label})",
                    "unit": "milliseconds",
                    "startValue": 0,
                    "endValue": math.fsum(ms for _, ms in usable),
                    "samples": [[numbers.setdefault(frame, len(numbers)) for frame in frames] for frames, _ in usable],
                    "weights": [ms for _, ms in usable],
                }
            )
    return {
        "$schema": _SCHEMA,
        "shared": {"frames": [_speedscope_frame(frame) for frame in numbers]},
        "profiles": profiles,
        "name": title,
        "exporter": "perfguard",
        "activeProfileIndex": 0,
    }


def functions_csv(grown: Iterable[GrownFrame]) -> str:
    """Give the compared functions as CSV; a field that a spreadsheet would take for a formula begins with `'`."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(
        [
            "role", "function", "before_ms_per_request", "after_ms_per_request", "before_self_ms_per_request",
            "after_self_ms_per_request", "change_low_ms_per_request", "change_high_ms_per_request", "significant",
        ]
    )  # fmt: skip
    for frame in grown:
        writer.writerow(
            [
                words.spreadsheet_text(frame.role),
                words.spreadsheet_text(frame.frame),
                frame.before_ms_per_request,
                frame.after_ms_per_request,
                frame.before_self_ms_per_request,
                frame.after_self_ms_per_request,
                "" if frame.low_ms is None else frame.low_ms,
                "" if frame.high_ms is None else frame.high_ms,
                "yes" if frame.significant else "no",
            ]
        )
    return written.getvalue()


def _usable(profile: RoleProfile) -> list[tuple[tuple[str, ...], float]]:
    return [(frames, ms) for frames, ms in profile.stacks if frames and ms > 0 and math.isfinite(ms)]


def _speedscope_frame(frame: str) -> dict[str, Any]:
    match = _FRAME.fullmatch(frame)
    if match is None:
        return {"name": frame}
    place = {"name": match["name"], "file": match["file"]}
    return {**place, "line": int(match["line"])} if match["line"] else place


def _slug(text: str) -> str:
    return (_UNSAFE.sub("-", text).strip("-.") or "profile").lower()[:80]
