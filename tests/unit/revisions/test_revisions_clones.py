"""Partial clones, shallow clones, and URLs."""

from __future__ import annotations

import shutil

import pytest
from revisions_support import snapshot

from perfguard.model.errors import PerfguardError, UnknownRevisionError, UsageError
from perfguard.revisions.repository import Repository
from perfguard.revisions.stores import is_url, without_credentials


@pytest.fixture
def server(repo):
    """The repository as one that others clone from."""
    repo.git("config", "uploadpack.allowFilter", "true")
    repo.git("config", "uploadpack.allowAnySHA1InWant", "true")
    return repo


@pytest.fixture
def partial(server, tmp_path):
    path = tmp_path / "partial"
    server.git("clone", "--quiet", "--filter=blob:none", "--no-checkout", f"file://{server.path}", str(path))
    return path


def test_a_partial_clone_is_completed_in_our_store_only(partial, cache_dir, recorder):
    before = snapshot(partial)
    opened = Repository.open(str(partial), cache_dir=cache_dir, progress=recorder)
    for revision in opened.between("v0", "v4").revisions:
        number = revision.subject[1:]
        assert (opened.worktree(revision) / "README").read_text() == f"number {number}\n"
    assert len(opened.hunks(opened.resolve("v4"))) == 2
    for unknown in ("0" * 40, "deadbeef", "v4:README"):
        with pytest.raises(UnknownRevisionError):
            opened.resolve(unknown)
    assert snapshot(partial) == before


def test_what_was_fetched_for_a_partial_clone_is_not_fetched_again(partial, server, cache_dir, recorder):
    opened = Repository.open(str(partial), cache_dir=cache_dir, progress=recorder)
    opened.worktree(opened.resolve("v0"))
    opened.remove_worktrees()
    shutil.rmtree(server.path)
    again = Repository.open(str(partial), cache_dir=cache_dir, progress=recorder)
    assert (again.worktree(again.resolve("v0")) / "README").read_text() == "number 0\n"


def test_a_partial_clone_whose_remote_is_gone_is_a_clear_error(partial, server, cache_dir, recorder):
    opened = Repository.open(str(partial), cache_dir=cache_dir, progress=recorder)
    shutil.rmtree(server.path)
    with pytest.raises(PerfguardError, match="the clone is partial and its remote cannot be fetched"):
        opened.worktree(opened.resolve("v0"))


def test_a_partial_clone_with_a_relative_remote(server, partial, cache_dir, recorder):
    server.git("-C", str(partial), "config", "remote.origin.url", f"../{server.path.name}")
    opened = Repository.open(str(partial), cache_dir=cache_dir, progress=recorder)
    assert (opened.worktree(opened.resolve("v0")) / "README").read_text() == "number 0\n"


def _shallow(server, path, depth):
    server.git("clone", "--quiet", f"--depth={depth}", f"file://{server.path}", str(path))
    return path


def test_a_shallow_clone_lists_what_it_has(server, cache_dir, recorder, tmp_path):
    path = _shallow(server, tmp_path / "shallow", 3)
    before = snapshot(path)
    opened = Repository.open(str(path), cache_dir=cache_dir, progress=recorder)
    assert [each.subject for each in opened.between("HEAD~2", "HEAD").revisions] == ["c2", "c3", "c4"]
    assert len(opened.hunks(opened.resolve("HEAD~1"))) == 2
    assert snapshot(path) == before


def test_a_ref_that_a_shallow_clone_lacks_says_what_to_fetch(server, cache_dir, recorder, tmp_path):
    path = _shallow(server, tmp_path / "shallow", 2)
    opened = Repository.open(str(path), cache_dir=cache_dir, progress=recorder)
    for ref in ("v0", "HEAD~3"):
        with pytest.raises(UsageError) as caught:
            opened.resolve(ref)
        assert f"git -C {path} fetch --unshallow" in caught.value.hint
    server.git("-C", str(path), "fetch", "--quiet", "--unshallow", "--tags")
    again = Repository.open(str(path), cache_dir=cache_dir, progress=recorder)
    assert len(again.between("v0", "HEAD").revisions) == 5


def test_history_that_is_cut_between_the_ends_says_what_to_fetch(server, cache_dir, recorder, tmp_path):
    path = _shallow(server, tmp_path / "shallow", 2)
    server.git("-C", str(path), "fetch", "--quiet", "--depth=1", "origin", "tag", "v0")
    opened = Repository.open(str(path), cache_dir=cache_dir, progress=recorder)
    with pytest.raises(UsageError, match="is shallow") as caught:
        opened.between("v0", "HEAD")
    assert f"git -C {path} fetch --unshallow" in caught.value.hint


def test_the_diff_at_the_cut_is_refused(server, cache_dir, recorder, tmp_path):
    path = _shallow(server, tmp_path / "shallow", 2)
    opened = Repository.open(str(path), cache_dir=cache_dir, progress=recorder)
    with pytest.raises(UsageError, match=r"the parent of .* is missing"):
        opened.hunks(opened.resolve("HEAD~1"))


def test_a_main_line_that_is_cut_before_good_is_refused(server, cache_dir, recorder, tmp_path):
    server.git("checkout", "--quiet", "-b", "side")
    good = server.commit("s1", side="1")
    server.git("checkout", "--quiet", "main")
    for number in range(3):
        server.commit(f"m{number}")
    server.git("merge", "--quiet", "--no-ff", "--message", "merge side", "side")
    path = _shallow(server, tmp_path / "shallow", 2)
    opened = Repository.open(str(path), cache_dir=cache_dir, progress=recorder)
    with pytest.raises(UsageError, match=r"the main line before .* is missing"):
        opened.between(good, "HEAD")


def test_a_url_is_cloned_once_without_contents_and_fetched_again(server, cache_dir, recorder):
    url = f"file://{server.path}"
    opened = Repository.open(url, cache_dir=cache_dir, progress=recorder)
    assert opened.origin == url
    assert [each.subject for each in opened.between("v0", "main").revisions] == ["c0", "c1", "c2", "c3", "c4"]
    (store,) = (cache_dir / "stores").glob("*.git")
    assert "README" not in server.git("--git-dir", str(store), "rev-list", "--objects", "--missing=print", "v0")
    assert (opened.worktree(opened.resolve("v0")) / "README").read_text() == "number 0\n"
    new = server.commit("later")
    server.git("branch", "-D", "topic")
    again = Repository.open(url, cache_dir=cache_dir, progress=recorder)
    assert again.resolve("HEAD").commit == again.resolve("main").commit == new
    with pytest.raises(UnknownRevisionError):
        again.resolve("topic")
    assert [step.split()[0] for step in recorder.steps] == ["cloning", "checking", "fetching"]


def test_the_default_branch_of_a_url_is_its_head(server, cache_dir, recorder):
    server.git("checkout", "--quiet", "topic")
    opened = Repository.open(f"file://{server.path}", cache_dir=cache_dir, progress=recorder)
    assert opened.resolve("HEAD").subject == "c2"


def test_a_url_that_is_gone_is_served_from_the_cache(server, cache_dir, recorder):
    url = f"file://{server.path}"
    Repository.open(url, cache_dir=cache_dir, progress=recorder)
    shutil.rmtree(server.path)
    opened = Repository.open(url, cache_dir=cache_dir, progress=recorder)
    assert opened.resolve("v4").subject == "c4"
    assert any("using what was fetched before" in line for line in recorder.said)


def test_locks_of_a_killed_fetch_do_not_block_the_next(server, cache_dir, recorder):
    url = f"file://{server.path}"
    Repository.open(url, cache_dir=cache_dir, progress=recorder)
    (store,) = (cache_dir / "stores").glob("*.git")
    for lock in ("packed-refs.lock", "config.lock", "refs/heads/main.lock", "shallow.lock"):
        (store / lock).write_text("")
    new = server.commit("later")
    assert Repository.open(url, cache_dir=cache_dir, progress=recorder).resolve("main").commit == new


def test_a_url_that_cannot_be_cloned_is_a_clear_error(cache_dir, recorder, tmp_path):
    with pytest.raises(PerfguardError, match=r"cannot clone file://.*nothing"):
        Repository.open(f"file://{tmp_path}/nothing", cache_dir=cache_dir, progress=recorder)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://github.com/sgl-project/sglang.git", True),
        ("ssh://git@example.org/x.git", True),
        ("git@example.org:x/y.git", True),
        ("file:///srv/x", True),
        ("/srv/x", False),
        ("../x", False),
        ("x", False),
        ("ext::sh -c evil", False),
    ],
)
def test_tells_urls_from_paths(location, expected):
    assert is_url(location) is expected


def test_credentials_are_never_shown():
    assert "secret" not in without_credentials("https://me:secret@example.org/x.git")
