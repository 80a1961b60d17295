"""Nights as tables for other programs: CSV for spreadsheets, Parquet with types."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from perfguard.model.errors import PerfguardError
from perfguard.report import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.model.night import NightRecord

    Value = str | int | float | None

_TYPES = {
    "number": "Int64", "night": "string", "started_at": "string", "branch": "string", "scenario": "string",
    "verdict": "string", "head": "string", "baseline": "string", "culprit": "string",
    "metric": "string", "ratio": "Float64", "low": "Float64", "high": "Float64",
    "trials": "Int64", "wall_s": "Float64", "machine": "string", "sentence": "string", "reason": "string",
}  # fmt: skip


def to_csv(nights: Sequence[NightRecord]) -> str:
    """Write a row a night; what is not known is empty, and no text can be taken for a formula."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_TYPES), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in _row(night).items()} for night in nights)
    return text.getvalue()


def to_parquet(nights: Sequence[NightRecord]) -> bytes:
    """Write a row a night, with a type for every column; what is not known is null.

    Raises:
        PerfguardError: pyarrow, which writes Parquet, is not installed.
    """
    import pandas as pd  # noqa: PLC0415 - takes half a second that only this export is worth

    rows = [_row(night) for night in nights]
    columns = {
        name: pd.array([row[name] for row in rows], dtype=kind)  # type: ignore[call-overload]
        for name, kind in _TYPES.items()
    }
    try:
        written: bytes = pd.DataFrame(columns).to_parquet(None, engine="pyarrow", index=False)
    except ImportError as error:
        raise PerfguardError(
            "Parquet files are written by pyarrow, which is not installed", hint="pip install 'perfguard[parquet]'"
        ) from error
    return written


def _row(night: NightRecord) -> dict[str, Value]:
    effect = night.effects[0] if night.effects else None
    return {
        "number": night.number,
        "night": night.night,
        "started_at": night.started_at,
        "branch": night.branch,
        "scenario": night.scenario,
        "verdict": night.verdict.value,
        "head": night.head.commit if night.head else None,
        "baseline": night.baseline.commit if night.baseline else None,
        "culprit": night.culprit.revision.commit if night.culprit else None,
        "metric": effect.metric if effect else night.metric,
        "ratio": effect.ratio if effect else None,
        "low": effect.low if effect else None,
        "high": effect.high if effect else None,
        "trials": night.trials,
        "wall_s": night.wall_s,
        "machine": night.machine.described,
        "sentence": night.sentence,
        "reason": night.reason,
    }


def _cell(value: Value) -> Value:
    return words.spreadsheet_text(value) if isinstance(value, str) else value
