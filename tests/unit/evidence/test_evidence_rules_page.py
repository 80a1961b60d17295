from __future__ import annotations

from pathlib import Path

from perfguard.evidence.rule_config import RULE_DOCS
from perfguard.evidence.rules_page import rules_page

PAGE = Path(__file__).parents[3] / "docs" / "rules.md"


def test_the_page_in_the_documentation_is_current():
    assert PAGE.read_text(encoding="utf-8") == rules_page(), (
        "write it anew: python -m perfguard.evidence.rules_page > docs/rules.md"
    )


def test_every_rule_has_a_section():
    page = rules_page()

    assert all(f"## `{doc.rule}`" in page and doc.meaning in page for doc in RULE_DOCS)
