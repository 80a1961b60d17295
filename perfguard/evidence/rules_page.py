"""The page of the documentation that lists the rules: made from what the rules themselves are held against.

Write it anew with `python -m perfguard.evidence.rules_page > docs/rules.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields

from perfguard.evidence.rule_config import CHANGE_SETTINGS, RULE_DOCS, RuleConfig

_HEAD = """\
# The rules

A rule turns numbers into a finding. `bisect` and `compare` judge every rule for each process of the server, the bad
revision beside the good one; `analyze` judges profiles that stand alone. A rule that stays silent is listed too, with
the numbers that kept it silent.

This page is made from the code: `python -m perfguard.evidence.rules_page > docs/rules.md`.
"""
_CHANGES = """\
## Telling a change from noise

Every rule that compares two revisions asks whether the cost rose beyond its noise: zero has to lie outside the interval
over trials. With one trial a side there is no interval, and the last three thresholds all have to be passed.
"""


def rules_page() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD]
    for doc in RULE_DOCS:
        helps = doc.helps[:1].lower() + doc.helps[1:]
        parts.append(f"\n## `{doc.rule}`\n\n{doc.meaning}\n\nWhat usually helps: {helps}\n\n{_table(doc.settings)}")
    parts.append(f"\n{_CHANGES}\n{_table(CHANGE_SETTINGS)}")
    return "".join(parts)


def _table(settings: Sequence[str]) -> str:
    rows = "\n".join(_row(name) for name in settings)
    return f"| threshold | default | where it comes from |\n|---|---|---|\n{rows}\n"


def _row(name: str) -> str:
    setting = next(each for each in fields(RuleConfig) if each.name == name)
    return f"| `{name}` | {getattr(RuleConfig(), name):g} | {setting.metadata['why']} |"


if __name__ == "__main__":
    sys.stdout.write(rules_page())
