"""What tests of the real server share: the managed environment and unpacked releases, made once by perfguard itself."""

import os

import pytest

from perfguard.model.progress import Silent
from perfguard.revisions.environments import EnvironmentManager
from perfguard.revisions.releases import release_history
from perfguard.revisions.specs import load_spec
from perfguard.workflows.places import cache_dir


@pytest.fixture(scope="session")
def managed_environment():
    """The environment that the real server runs in; made on the first use, kept in perfguard's cache."""
    return EnvironmentManager(cache_dir()).ensure(load_spec("sglang-cpu"), python=None, progress=Silent())


@pytest.fixture(scope="session")
def release_tree():
    """A function that gives the unpacked tree of a release of SGLang."""
    history = release_history("sglang", "0.5.4.post1", "0.5.5.post3", cache_dir=cache_dir(), progress=Silent())
    return lambda version: history.worktree(history.resolve(version))


@pytest.fixture
def cli_environment(tmp_path):
    """The environment of a perfguard command whose runs land in the test's folder."""
    return {**os.environ, "PERFGUARD_RUNS_DIR": str(tmp_path / "runs"), "NO_COLOR": "1"}
