"""Issues of a forge: those that exist, and what is done so that every alert has its one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class IssueAction(str, Enum):
    """What is done with an alert's issue. `DUPLICATE`: it is a second one of the same alert, and is closed."""

    OPEN = "open"
    UPDATE = "update"
    REOPEN = "reopen"
    CLOSE = "close"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownIssue:
    """An issue that exists: its text, and whether it is open."""

    number: int
    is_open: bool
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueStep:
    """One thing to do.

    `number` is None where the issue has yet to be opened. `comment` says what happened, for those who follow the issue;
    it is empty where nobody needs to be told, and begins with a hidden line that no other comment of the issue has.
    """

    action: IssueAction
    number: int | None
    title: str
    body: str
    comment: str = ""
