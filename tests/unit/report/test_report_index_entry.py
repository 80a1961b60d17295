"""What an index reads of finished runs."""

from __future__ import annotations

import json

import pytest

from perfguard.model.errors import UsageError
from perfguard.report.index_entry import ENTRY, entry_of, read_entries, write_entry
from perfguard.report.index_page import render_index


def write_run(folder, result):
    folder.mkdir(parents=True)
    (folder / "run.sqlite").touch()
    return write_entry(result, folder / "report.html")


@pytest.mark.parametrize("name", ["bisect", "compare", "run", "unknown", "hostile"])
def test_what_is_written_is_read(samples, tmp_path, name):
    result = getattr(samples, f"{name}_result")()
    write_run(tmp_path / "a", result)
    (entry,), left_out = read_entries(tmp_path, tmp_path)
    assert entry == entry_of(result, "a/report.html")
    assert left_out == ()
    assert "a/report.html" in render_index([entry])


def test_runs_lie_anywhere_under_the_folder_and_the_unfinished_are_named(samples, tmp_path):
    write_run(tmp_path / "runs" / "night" / "b", samples.compare_result())
    write_run(tmp_path / "runs" / "c", samples.bisect_result())
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "runs" / "unfinished" / "run.sqlite").touch()
    write_run(tmp_path / "runs" / "damaged", samples.run_result()).write_text("{")
    entries, left_out = read_entries(tmp_path / "runs", tmp_path / "site")
    assert sorted(entry.path for entry in entries) == ["../runs/c/report.html", "../runs/night/b/report.html"]
    assert sorted(path.name for path in left_out) == ["damaged", "unfinished"]


def test_the_entry_is_of_what_was_judged(samples, tmp_path):
    result = samples.bisect_result()
    entry = entry_of(result, "x")
    assert entry.revision == result.culprit.revision.label
    summary = next(each for each in result.revisions if each.revision.label == entry.revision)
    assert entry.metric_mean == summary.metric_mean
    assert entry.effect.metric == result.run.metric
    assert [name for name, _ in entry.untestable] == [
        each.revision.label for each in result.revisions if each.metric_mean is None
    ]


def test_an_unknown_verdict_or_kind_is_left_out(samples, tmp_path):
    path = write_run(tmp_path / "a", samples.compare_result())
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "verdict": "luck"}))
    with pytest.raises(UsageError, match="no finished run"):
        read_entries(tmp_path, tmp_path)


def test_no_folder_and_no_run_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        read_entries(tmp_path / "nothing", tmp_path)
    with pytest.raises(UsageError, match="no finished run"):
        read_entries(tmp_path, tmp_path)
    assert not (tmp_path / ENTRY).exists()
