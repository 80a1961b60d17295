from __future__ import annotations

import os
import subprocess

import pytest
from revisions_support import GitRepo, make_wheel, snapshot

from perfguard.revisions.releases import release_history
from perfguard.revisions.repository import Repository

BEFORE = """class Server:
    def start(self):
        return 1

    def share(self, item):
        return item

    def stop(self):
        return 0
"""
SLOW = BEFORE.replace("        return item\n", "        copies = pickle(item)\n        return copies\n")


@pytest.fixture
def made(tmp_path):
    return GitRepo(tmp_path / "clone")


def opened(made, cache_dir, recorder):
    return Repository.open(str(made.path), cache_dir=cache_dir, progress=recorder)


def reverted(made, cache_dir, recorder, culprit, on="main"):
    repository = opened(made, cache_dir, recorder)
    done, revision = repository.revert(repository.resolve(culprit), on=repository.resolve(on))
    return repository, done, revision


def test_a_clean_revert_is_a_revision_with_a_patch_and_the_clone_is_untouched(made, cache_dir, recorder, tmp_path):
    made.commit("first", server_py=BEFORE)
    culprit = made.commit("made it slow", server_py=SLOW)
    made.commit("else", server_py="import os\n\n" + SLOW, other_py="x = 1\n")
    made.git("status")
    before = snapshot(made.path)
    repository, done, revision = reverted(made, cache_dir, recorder, culprit)
    assert snapshot(made.path) == before
    assert done.conflicts == ()
    tree = repository.worktree(revision)
    assert (tree / "server.py").read_text() == "import os\n\n" + BEFORE
    assert (tree / "other.py").read_text() == "x = 1\n"
    assert revision.label == f"{repository.resolve('main').label} without {repository.resolve(culprit).label}"
    assert revision.subject == 'Revert "made it slow"'
    # What was measured is what the patch gives whoever applies it.
    checkout = tmp_path / "applied"
    subprocess.run(["git", "clone", "--quiet", str(made.path), str(checkout)], check=True)
    subprocess.run(["git", "apply", "-"], input=done.patch, cwd=checkout, check=True)
    assert (checkout / "server.py").read_text() == "import os\n\n" + BEFORE


def test_the_same_revert_is_the_same_revision_whoever_makes_it(made, tmp_path, recorder, monkeypatch):
    made.commit("first", server_py=BEFORE)
    culprit = made.commit("slow", server_py=SLOW)
    made.commit("else", other_py="x = 1\n")
    _, done, _ = reverted(made, tmp_path / "one", recorder, culprit)
    config = tmp_path / "config"
    config.write_text(
        "[user]\nname = Else\n[merge]\nconflictStyle = diff3\nrenames = false\n[i18n]\ncommitEncoding = latin1\n"
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody Else")
    _, again, _ = reverted(made, tmp_path / "two", recorder, culprit)
    assert (again.commit, again.patch) == (done.commit, done.patch)


def test_a_conflict_is_told_by_file_and_function(made, cache_dir, recorder):
    made.commit("first", server_py=BEFORE)
    culprit = made.commit("slow", server_py=SLOW)
    made.commit("same lines", server_py=SLOW.replace("pickle(item)", "pickle(item, protocol=5)"))
    _, done, revision = reverted(made, cache_dir, recorder, culprit)
    assert revision is None
    assert done.patch == b""
    (conflict,) = done.conflicts
    assert (conflict.path, conflict.functions) == ("server.py", ("Server.share",))
    assert conflict.reason == "the same lines were changed since"


def test_a_conflict_where_the_later_side_has_no_lines_names_the_function(made, cache_dir, recorder):
    made.commit("first", server_py=BEFORE)
    culprit = made.commit("slow", server_py=SLOW)
    made.commit("gone", server_py=SLOW.replace("        copies = pickle(item)\n        return copies\n", ""))
    _, done, _ = reverted(made, cache_dir, recorder, culprit)
    (conflict,) = done.conflicts
    # An empty body does not parse, so there is no function to name: nothing is guessed.
    assert (conflict.path, conflict.functions) == ("server.py", ())


def test_a_file_that_was_moved_since_is_reverted_where_it_lies_now(made, cache_dir, recorder):
    made.commit("first", server_py=BEFORE)
    culprit = made.commit("slow", server_py=SLOW)
    (made.path / "core").mkdir()
    made.git("mv", "server.py", "core/server.py")
    made.git("commit", "--quiet", "--message", "moved")
    repository, done, revision = reverted(made, cache_dir, recorder, culprit)
    assert done.conflicts == ()
    assert (repository.worktree(revision) / "core" / "server.py").read_text() == BEFORE


def test_a_file_that_is_gone_or_binary_conflicts_without_functions(made, cache_dir, recorder):
    (made.path / "weights.bin").write_bytes(bytes(range(256)))
    made.commit("first", server_py=BEFORE)
    (made.path / "weights.bin").write_bytes(bytes(range(255, -1, -1)))
    culprit = made.commit("slow", server_py=SLOW)
    (made.path / "weights.bin").write_bytes(bytes(256))
    made.git("rm", "--quiet", "server.py")
    made.commit("later", other_py="x = 1\n")
    _, done, _ = reverted(made, cache_dir, recorder, culprit)
    told = {conflict.path: (conflict.reason, conflict.functions) for conflict in done.conflicts}
    assert told == {
        "server.py": ("removed or moved since", ()),
        "weights.bin": ("the same lines were changed since", ()),
    }


def test_a_binary_file_is_reverted_and_its_patch_applies(made, cache_dir, recorder):
    (made.path / "weights.bin").write_bytes(bytes(range(256)))
    made.commit("first", server_py=BEFORE)
    (made.path / "weights.bin").write_bytes(bytes(range(255, -1, -1)))
    culprit = made.commit("slow", server_py=SLOW)
    repository, done, revision = reverted(made, cache_dir, recorder, culprit)
    assert (repository.worktree(revision) / "weights.bin").read_bytes() == bytes(range(256))
    assert b"GIT binary patch" in done.patch


def test_what_was_reverted_already_has_nothing_to_take_back(made, cache_dir, recorder):
    made.commit("first", server_py=BEFORE)
    culprit = made.commit("slow", server_py=SLOW)
    made.commit("revert", server_py=BEFORE)
    _, done, revision = reverted(made, cache_dir, recorder, culprit)
    assert (done.commit, done.conflicts, revision) == ("", (), None)


def test_a_merge_is_reverted_against_its_main_line(made, cache_dir, recorder):
    made.commit("first", server_py=BEFORE)
    made.git("checkout", "--quiet", "-b", "topic")
    made.commit("slow", server_py=SLOW)
    made.git("checkout", "--quiet", "main")
    made.commit("else", other_py="x = 1\n")
    made.git("merge", "--quiet", "--no-ff", "--message", "merge topic", "topic")
    culprit = made.git("rev-parse", "HEAD")
    made.commit("later", log_py="y = 2\n")
    repository, done, revision = reverted(made, cache_dir, recorder, culprit)
    assert done.conflicts == ()
    tree = repository.worktree(revision)
    assert (tree / "server.py").read_text() == BEFORE
    assert (tree / "other.py").exists()


def test_hostile_names_of_files_and_subjects_are_names_only(made, cache_dir, recorder):
    name = 'we"ird\n<<<<<<< $(touch pwned) ü.py'
    (made.path / name).write_text(BEFORE)
    made.commit("first", server_py=BEFORE)
    (made.path / name).write_text(SLOW)
    culprit = made.commit("--help\n`touch pwned`", server_py=SLOW)
    (made.path / name).write_text(SLOW.replace("pickle(item)", "pickle(item, 5)"))
    made.commit("later", other_py="x = 1\n")
    _, done, _ = reverted(made, cache_dir, recorder, culprit)
    (conflict,) = done.conflicts
    assert (conflict.path, conflict.functions) == (name, ("Server.share",))
    assert not (made.path / "pwned").exists()


def test_a_release_is_reverted_like_a_commit(tmp_path, local_index, cache_dir, recorder):
    for number, text in enumerate((BEFORE, SLOW, "import os\n" + SLOW), start=1):
        make_wheel(local_index, f"{number}.0", {"pgdemo/server.py": text, "pgdemo/version.py": f"V = {number}\n"})
    history = release_history("pgdemo", "1.0", "3.0", cache_dir=cache_dir, progress=recorder)
    done, revision = history.revert(history.resolve("2.0"), on=history.resolve("3.0"))
    assert revision is None
    assert "pgdemo/version.py" in {conflict.path for conflict in done.conflicts}
    assert "pgdemo/server.py" not in {conflict.path for conflict in done.conflicts}
    last, newest = history.revert(history.resolve("3.0"), on=history.resolve("3.0"))
    assert newest.label == "3.0 without 3.0"
    assert last.commit != os.fspath(history.resolve("2.0").commit)
    assert (history.worktree(newest) / "pgdemo" / "version.py").read_text() == "V = 2\n"
