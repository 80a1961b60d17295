"""A night as files: the texts that a job shows and posts, and the document that other programs read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.night import NightRecord
from perfguard.report.document import write_document
from perfguard.report.night_text import to_annotations, to_issue, to_summary

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
_ISSUE = re.compile(r"issue-\d+\.md")


def night_document(night: NightRecord) -> dict[str, Any]:
    """Give the document that `nightly --json` prints: the night as it is kept, which is fit to show."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(night))
    return document


def check_output(output: Path | None) -> None:
    """Refuse a folder that cannot be written before anything is measured.

    Raises:
        UsageError: it is a file, or it cannot be made or written.
    """
    if output is None:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {output} cannot be made: {error.strerror}", hint="name another folder") from error
    if not os.access(output, os.W_OK):
        raise UsageError(f"--output {output} may not be written", hint="name another folder")


def write_faces_of_night(night: NightRecord, output: Path | None) -> None:
    """Write the texts of a night into `output`, and append the summary to $GITHUB_STEP_SUMMARY where that is set.

    `issue-N.md` is the text of the night's alert N, its title as the heading; those of an earlier night are removed.

    Raises:
        PerfguardError: a file cannot be written.
    """
    summary = to_summary(night)
    if output is not None:
        for path in output.iterdir():
            if _ISSUE.fullmatch(path.name):
                path.unlink(missing_ok=True)
        write_document(summary, output / "summary.md")
        write_document(to_annotations(night), output / "annotations.txt")
        for number, alert in enumerate(night.alerts, start=1):
            title, body = to_issue(alert, night)
            # The marker stays first: it is what an issue is found by.
            marker, _, rest = body.partition("\n")
            write_document(f"{marker}\n# {title}\n\n{rest}", output / f"issue-{number}.md")
    job = os.environ.get(SUMMARY_VARIABLE)
    if job:
        try:
            with Path(job).open("a", encoding="utf-8") as file:
                file.write(summary + "\n")
        except OSError as error:
            raise PerfguardError(
                f"cannot append to ${SUMMARY_VARIABLE}, {job}: {error.strerror}", hint="the night itself is kept"
            ) from error
