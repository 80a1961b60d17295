"""The files that a result is written to besides its report."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

import sample_results

from perfguard.cli.faces import Faces, check_faces, write_faces
from perfguard.model.errors import UsageError


@pytest.mark.parametrize("name", ["bisect", "compare", "run"])
def test_every_face_is_written_where_it_was_asked_for(tmp_path, name):
    result = getattr(sample_results, f"{name}_result")()
    (tmp_path / "run").mkdir()
    faces = Faces(markdown=tmp_path / "a.md", junit=tmp_path / "b.xml", sarif=tmp_path / "c.sarif")
    check_faces(faces)
    write_faces(result, tmp_path / "run" / "report.html", faces)
    assert "(run/report.html)" in faces.markdown.read_text()
    assert ET.parse(faces.junit).getroot().tag == "testsuites"  # noqa: S314 - our own file
    assert json.loads(faces.sarif.read_text())["version"] == "2.1.0"


def test_nothing_is_written_that_was_not_asked_for(tmp_path):
    write_faces(sample_results.run_result(), tmp_path / "report.html", Faces())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(UsageError, match=r"--junit .* is a folder"):
        check_faces(Faces(junit=tmp_path))
    with pytest.raises(UsageError, match=r"--markdown .* there is no folder"):
        check_faces(Faces(markdown=tmp_path / "no" / "a.md"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="may not be written"):
        check_faces(Faces(sarif=tmp_path / "a.sarif"))
