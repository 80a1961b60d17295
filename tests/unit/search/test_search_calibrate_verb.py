"""`perfguard calibrate` prints what it counted."""

import json

import pytest

from perfguard.cli.main import run_cli
from perfguard.workflows.calibrate import METHODS


def test_the_verb_prints_a_document(capsys):
    words = "calibrate --effect 20 --revisions 16 --noise 2 --searches 4 --rivals --json -q"
    assert run_cli(words.split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    assert [cell["method"] for cell in document["cells"]] == list(METHODS)
    assert all(cell["searches"] == 4 and cell["effect_frac"] == 0.2 for cell in document["cells"])


def test_the_verb_prints_a_table(capsys):
    assert run_cli(["calibrate", "--effect", "0", "--effect", "20", "--revisions", "16", "--searches", "2", "-q"]) == 0
    out = capsys.readouterr().out
    assert "perfguard" in out
    assert len(out.strip().splitlines()) == 3


@pytest.mark.parametrize("wrong", ["--noise 0", "--confidence 2", "--effect -5", "--untestable 99", "--drift fast"])
def test_the_verb_refuses_what_cannot_be(wrong, capsys):
    assert run_cli(["calibrate", "--searches", "1", *wrong.split()]) == 129
    assert capsys.readouterr().out == ""
