"""Nights as CSV and as Parquet: the same rows, harmless in a spreadsheet, with types where there are any."""

from __future__ import annotations

import csv
import io
import sys

import pandas as pd
import pytest
from sample_nights import night

from perfguard.model.errors import PerfguardError
from perfguard.model.night import NightVerdict
from perfguard.report.night_export import to_csv, to_parquet

NIGHTS = (
    night(1, NightVerdict.FIRST, baseline=None),
    night(2, NightVerdict.REGRESSION, -9, sentence="=HYPERLINK(1), \u202e 9% slower"),
    night(3, NightVerdict.FAILED, head=None, reason="no network"),
)


def test_parquet_has_types_nulls_and_the_texts_as_they_are():
    table = pd.read_parquet(io.BytesIO(to_parquet(NIGHTS)), dtype_backend="numpy_nullable")
    assert list(table["number"]) == [1, 2, 3]
    assert list(table["verdict"]) == ["first", "regression", "failed"]
    assert list(table["ratio"].isna()) == [True, False, True]
    assert table["ratio"][1] == pytest.approx(0.91)
    assert table["low"][1] < table["ratio"][1] < table["high"][1]
    assert table["sentence"][1] == "=HYPERLINK(1), \u202e 9% slower"
    assert list(table["head"].isna()) == [False, False, True]
    assert (str(table["trials"].dtype), str(table["wall_s"].dtype)) == ("Int64", "Float64")


def test_csv_has_the_same_columns_and_no_formula():
    rows = list(csv.DictReader(io.StringIO(to_csv(NIGHTS))))
    assert list(rows[0]) == list(pd.read_parquet(io.BytesIO(to_parquet(NIGHTS))).columns)
    assert [row["ratio"] for row in rows][::2] == ["", ""]
    assert rows[1]["sentence"].startswith("'=HYPERLINK")
    assert rows[2]["reason"] == "no network"


def test_no_night_at_all_is_an_empty_table_with_its_columns():
    assert len(pd.read_parquet(io.BytesIO(to_parquet([])))) == 0
    assert to_csv([]).startswith("number,night,")


def test_without_pyarrow_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PerfguardError, match="pyarrow") as told:
        to_parquet(NIGHTS)
    assert "perfguard[parquet]" in told.value.hint
