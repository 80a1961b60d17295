from __future__ import annotations

import os
import shutil

import pytest
from revisions_support import GitRepo, Recorder


@pytest.fixture(autouse=True)
def _plain_tools(monkeypatch):
    """No configuration of the machine: neither git's nor pip's."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    made = GitRepo(tmp_path_factory.mktemp("template") / "clone")
    for number in range(5):
        made.commit(f"c{number}", python__server_py=f"STEP = {number}\n", README=f"number {number}\n")
    made.git("tag", "v0", "HEAD~4")
    made.git("tag", "--annotate", "--message", "four", "v4")
    made.git("branch", "topic", "HEAD~2")
    return made


@pytest.fixture
def repo(template, tmp_path):
    """`main` with five commits c0..c4, tags v0 and v4, a branch `topic` at c2."""
    shutil.copytree(template.path, tmp_path / "clone", symlinks=True)
    copied = GitRepo.at(tmp_path / "clone", clock=template.clock)
    copied.git("status")  # renews the index's times, so that nothing has to be written later
    return copied


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    """A directory that pip takes for its only index."""
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory
