"""Makes a result fit to show: secrets and home directories taken out, control characters made visible.

The whole result is walked once, so that no face of it can forget a field.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar, cast

from perfguard.model.result import BisectResult, CompareResult, GrownFrame, RoleProfile, RunResult
from perfguard.model.revision import Hunk
from perfguard.model.trial import LoadResult

AnyResult = BisectResult | CompareResult | RunResult
ResultT = TypeVar("ResultT")

REDACTED = "[redacted]"
_PAIR = 2

_SECRET = r"(?:api[_-]?key|apikey|key|token|secret|password|passwd|passphrase|credentials?|authorization|auth)"  # noqa: S105 - a pattern
# A secret word must be a whole part of a name: HF_TOKEN and --api-key are secrets, tokenizers and max_tokens are not.
_SECRET_NAME = rf"(?:[A-Za-z0-9]+[_-])*{_SECRET}(?:[_-][A-Za-z0-9]+)*"
_WHOLE_NAME = re.compile(rf"-{{0,2}}{_SECRET_NAME}", re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"(?<![A-Za-z0-9_])(?<![A-Za-z0-9]-)(?P<name>{_SECRET_NAME})(?P<sign>[\"']?\s?=\s?|[\"']?\s?:\s?)(?P<quote>[\"']?)"
    r"(?P<scheme>(?:Bearer|Basic|Token)\s+)?(?P<value>[^\s\"',;&)\]}]+)",
    re.IGNORECASE,
)
_FLAG = re.compile(
    rf"(?<!\S)(?P<flag>--?{_SECRET_NAME})\s+(?P<quote>[\"']?)(?P<value>[^\s\"'-][^\s\"']*)", re.IGNORECASE
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_URL_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30}://)[^/\s@]+@")
# Shapes that vendors give their tokens, wherever they stand: Hugging Face, OpenAI-like, GitHub, GitLab, AWS, Slack.
_KNOWN_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|AKIA[A-Z0-9]{16}|xox[abpr]-[\w-]{10,})"
)
_ANY_HOME = re.compile(r"(?<![\w.~-])(?:/home/|/Users/)[^/\s'\":,;()]+|(?<![\w./~-])/root(?=/|$|[\s'\":,;)])")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
# C0 and C1 controls but tab and newline, every character that reorders or hides text, and lone surrogates.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def clean(result: ResultT, *, home: str | None = None) -> ResultT:
    """Give `result`, any frozen dataclass, with every text in it fit to show; numbers are untouched.

    `home` is the home directory to write as `~`; the usual places of home directories are always written so. The
    records of single requests are left out: no face shows them.
    """
    return cast("ResultT", _Cleaner(home).value(result))


def clean_text(text: str, *, home: str | None = None) -> str:
    """Give one text fit to show."""
    return _Cleaner(home).text(text)


class _Cleaner:
    """One walk; every distinct text is worked on once, since profiles repeat theirs thousands of times."""

    def __init__(self, home: str | None) -> None:
        home = (home or "").rstrip("/")
        self._home = re.compile(re.escape(home) + r"(?![\w.-])") if home else None
        self._texts: dict[str, str] = {}
        self._source: dict[str, str] = {}

    def value(self, value: Any, *, source: bool = False) -> Any:
        if isinstance(value, str):
            # The enums of the model are strings too, and stay what they are.
            return value if type(value) is not str else (self.source(value) if source else self.text(value))
        if isinstance(value, tuple):
            if not source and value and all(type(item) is str for item in value):
                return self._texts_in_order(value)
            return tuple(self.value(item, source=source) for item in value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            # `key=lambda ...` in source code is no secret.
            source = source or isinstance(value, (Hunk, RoleProfile, GrownFrame))
            changed = {
                field.name: () if field.name == "records" and isinstance(value, LoadResult) else
                self.value(getattr(value, field.name), source=source)
                for field in dataclasses.fields(value)
            }  # fmt: skip
            return dataclasses.replace(value, **changed)
        return value

    def _texts_in_order(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Clean arguments or a (name, value) pair, where a secret's name stands before its value."""
        cleaned: list[str] = []
        previous = ""
        for text in texts:
            is_value = bool(_WHOLE_NAME.fullmatch(previous)) and (previous.startswith("-") or len(texts) == _PAIR)
            cleaned.append(REDACTED if is_value and not text.startswith("--") else self.text(text))
            previous = text
        return tuple(cleaned)

    def text(self, text: str) -> str:
        if text not in self._texts:
            bare = _ASSIGNED.sub(_hide_assigned, self._shown(text))
            bare = _FLAG.sub(lambda match: f"{match['flag']} {match['quote']}{REDACTED}", bare)
            self._texts[text] = self._without_tokens(bare)
        return self._texts[text]

    def source(self, text: str) -> str:
        """Clean source code and frame names: paths and tokens of a known shape only."""
        if text not in self._source:
            self._source[text] = self._without_tokens(self._shown(text))
        return self._source[text]

    def _shown(self, text: str) -> str:
        plain = _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
        return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", plain)

    def _without_tokens(self, text: str) -> str:
        text = _URL_USER.sub(lambda match: f"{match['scheme']}{REDACTED}@", text)
        text = _KNOWN_SHAPES.sub(REDACTED, _BEARER.sub(lambda match: f"{match[1]} {REDACTED}", text))
        if self._home is not None:
            text = self._home.sub("~", text)
        return _ANY_HOME.sub("~", text)


def _hide_assigned(match: re.Match[str]) -> str:
    if match["name"].lower() in ("key", "auth") and ":" in match["sign"]:
        return match[0]  # "missing key: model.layers.0" is prose
    return f"{match['name']}{match['sign']}{match['quote']}{match['scheme'] or ''}{REDACTED}"
