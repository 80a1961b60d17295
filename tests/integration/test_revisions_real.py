"""The package index and the managed environment, for real."""

from __future__ import annotations

import subprocess

import pytest

from perfguard.model.progress import Silent
from perfguard.revisions.environments import EnvironmentManager
from perfguard.revisions.releases import release_history
from perfguard.revisions.specs import load_spec

pytestmark = pytest.mark.slow


def test_sglangs_releases_around_the_regression(tmp_path):
    history = release_history("sglang", "0.5.4.post1", "0.5.5.post2", cache_dir=tmp_path, progress=Silent())
    revisions = history.between("0.5.4.post1", "0.5.5.post2").revisions
    labels = [revision.label for revision in revisions]
    assert labels == ["0.5.4.post1", "0.5.4.post2", "0.5.4.post3", "0.5.5", "0.5.5.post1", "0.5.5.post2"]
    scheduler = "sglang/srt/managers/scheduler.py"
    before, after = ((history.worktree(revision) / scheduler).read_text() for revision in revisions[:2])
    assert "_process_and_broadcast_mm_inputs" not in before
    assert "_process_and_broadcast_mm_inputs" in after
    added = [hunk.text for hunk in history.hunks(revisions[1]) if hunk.path == scheduler]
    assert any("+    def _process_and_broadcast_mm_inputs" in text for text in added)


def test_the_sglang_environment_imports_its_packages(tmp_path):
    spec = load_spec("sglang-cpu")
    made = EnvironmentManager(tmp_path).ensure(spec, python=None, progress=Silent())
    program = (
        "import torch, transformers, zmq, fastapi; print(torch.__version__.split('+')[0], transformers.__version__)"
    )
    ran = subprocess.run([made.python, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["2.13.0", "4.57.1"]
    assert made.size_bytes < 1.3 * spec.expected_size_bytes
