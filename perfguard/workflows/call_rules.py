"""The names that a server gave its own calls: the TOML files that come with perfguard, and a user's own."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from perfguard.evidence.callrules import GENERIC_RULES, CallRules, make_call_rules
from perfguard.model.errors import UsageError

_PACKAGED = Path(__file__).resolve().parent.parent / "call_rules"


@lru_cache(maxsize=1)
def packaged_call_rules() -> CallRules:
    """Return the generic rules, with those of every server that perfguard knows before them."""
    rules = GENERIC_RULES
    for path in sorted(_PACKAGED.glob("*.toml"), reverse=True):
        rules = read_call_rules(path).before(rules)
    return rules


def read_call_rules(path: Path) -> CallRules:
    """Read one file of call rules; `perfguard.evidence.callrules` says what it holds.

    Raises:
        UsageError: the file cannot be read, is no TOML, or holds something else.
    """
    try:
        document = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the call rules {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    return make_call_rules(document, str(path))
