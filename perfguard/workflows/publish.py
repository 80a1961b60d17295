"""Keeps the issues of a GitHub repository in step with the alerts of a state folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.issue import IssueStep
from perfguard.report.issue_plan import plan_issues
from perfguard.store.issues import GitHubIssues
from perfguard.store.nights import NightStore
from perfguard.workflows.site import report_name

_URL = re.compile(r"https?://[^\s]+")


def publish(
    state: Path,
    repository: str,
    tell: Callable[[IssueStep, int | None], None],
    *,
    site: str | None = None,
    run: str | None = None,
    is_rehearsal: bool = False,
) -> int:
    """Open, update, reopen and close issues until each alert has its one; gives how many steps that took.

    `site` is the URL that the site of the same nights is served at, `run` that of a page for those without a report.
    `tell` hears of every step once it is done, with the issue's number; of a rehearsal, before it would be.

    Raises:
        UsageError: there is no state folder, or `repository` or a URL is not one.
        PerfguardError: `gh` is missing, or could not do a step; the next run does what is left.
    """
    for option, url in (("--site", site), ("--run-url", run)):
        if url is not None and _URL.fullmatch(url) is None:
            raise UsageError(f"{option} {url} is not a URL", hint="it begins with https://")
    issues = GitHubIssues(repository)
    history = NightStore(state).read()
    links = {night.night: run for night in history.nights if run}
    if site:
        links |= {each.night: f"{site.rstrip('/')}/{report_name(each)}" for each in history.nights if each.report}
    steps = plan_issues(history.nights, issues.read(), links)
    for done, step in enumerate(steps):
        if is_rehearsal:
            tell(step, step.number)
            continue
        try:
            number = issues.do(step)
        except PerfguardError as error:
            left = f"{error.message} ({done} of {len(steps)} steps done)"
            raise PerfguardError(left, hint=error.hint) from error
        tell(step, number)
    return len(steps)
