from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from revisions_support import GitRepo, Recorder, snapshot

from perfguard.model.errors import EXIT_USAGE, PerfguardError, UnknownRevisionError, UsageError
from perfguard.model.revision import HistoryKind
from perfguard.revisions.repository import Repository

_PROGRAM = """
import sys
from pathlib import Path
from perfguard.model.progress import Silent
from perfguard.revisions.repository import Repository
repository = Repository.open(sys.argv[1], cache_dir=Path(sys.argv[2]), progress=Silent())
print("ready", flush=True)
print(repository.worktree(repository.resolve(sys.argv[3])), flush=True)
"""


@pytest.fixture
def opened(repo, cache_dir, recorder):
    return Repository.open(str(repo.path), cache_dir=cache_dir, progress=recorder)


@pytest.mark.parametrize(
    ("ref", "subject"),
    [("v0", "c0"), ("v4", "c4"), ("topic", "c2"), ("HEAD~1", "c3"), ("main~3", "c1"), (":/c3", "c3"), ("v4~4", "c0")],
)
def test_resolves_whatever_git_can_name(opened, ref, subject):
    assert opened.resolve(ref).subject == subject


def test_a_revision_tells_who_and_when(opened, repo):
    revision = opened.resolve(repo.git("rev-parse", "--short", "HEAD"))
    assert revision.commit == repo.git("rev-parse", "HEAD")
    assert revision.commit.startswith(revision.label)
    assert revision.author == "Ada"
    assert revision.committed_at.startswith("2023-11-14T22:")
    assert (opened.kind, opened.origin) == (HistoryKind.COMMITS, str(repo.path))


def test_a_branch_made_after_opening_is_seen(opened, repo):
    new = repo.commit("later")
    assert opened.resolve("main").commit == new


@pytest.mark.parametrize("ref", ["", "--all", "v0..v4", "no-such", "v0:README", "0" * 40])
def test_what_names_no_commit_is_unknown(opened, ref):
    with pytest.raises(UnknownRevisionError) as caught:
        opened.resolve(ref)
    assert caught.value.exit_code == EXIT_USAGE


def test_an_unknown_ref_brings_near_names(opened):
    with pytest.raises(UnknownRevisionError) as caught:
        opened.resolve("topik")
    assert "topic" in caught.value.hint


def test_an_ambiguous_hash_asks_for_more_digits(opened, repo):
    entries = [
        f"commit refs/heads/n\ncommitter Ada <> {number} +0000\ndata 1\nn\nfrom refs/heads/main^0\n"
        for number in range(900)
    ]
    marked = [
        entry.replace("committer", f"mark :{number}\ncommitter", 1) for number, entry in enumerate(entries, start=1)
    ]
    marks = repo.path.parent / "marks"
    repo.git("fast-import", "--quiet", "--force", f"--export-marks={marks}", stdin="".join(marked))
    starts = [line.split()[1][:4] for line in marks.read_text().splitlines()]
    shared = next(start for start in starts if starts.count(start) > 1)
    with pytest.raises(UnknownRevisionError, match="more than one commit"):
        opened.resolve(shared)


def test_between_lists_both_ends_oldest_first(opened):
    found = opened.between("v0", "v4")
    assert [revision.subject for revision in found.revisions] == ["c0", "c1", "c2", "c3", "c4"]
    assert found.kind is HistoryKind.COMMITS


def test_a_merge_is_one_revision(repo, opened):
    repo.git("checkout", "--quiet", "-b", "side")
    repo.commit("s1", side="1")
    repo.commit("s2", side="2")
    repo.git("checkout", "--quiet", "main")
    repo.commit("m1")
    repo.git("merge", "--quiet", "--no-ff", "--message", "merge side", "side")
    repo.commit("m2")
    subjects = [revision.subject for revision in opened.between("v4", "main").revisions]
    assert subjects == ["c4", "m1", "merge side", "m2"]


def test_a_good_end_from_a_merged_branch_starts_the_list(repo, opened, recorder):
    repo.git("checkout", "--quiet", "-b", "side")
    repo.commit("s1", side="1")
    good = repo.commit("s2", side="2")
    repo.git("checkout", "--quiet", "main")
    repo.commit("m1")
    repo.git("merge", "--quiet", "--no-ff", "--message", "merge side", "side")
    subjects = [revision.subject for revision in opened.between(good, "main").revisions]
    assert subjects == ["s2", "m1", "merge side"]
    assert any("through a merge" in line for line in recorder.said)


def test_reversed_ends_are_told_to_swap(opened):
    with pytest.raises(UsageError, match=r"is an ancestor of GOOD .* swap them"):
        opened.between("v4", "v0")


def test_ends_on_two_branches_are_told_their_common_ancestor(repo, opened):
    repo.git("checkout", "--quiet", "topic")
    repo.commit("off the main line", other="x")
    with pytest.raises(UsageError, match="is not an ancestor") as caught:
        opened.between("topic", "main")
    assert repo.git("rev-parse", "main~2") in caught.value.hint


def test_ends_without_common_history(repo, opened):
    repo.git("checkout", "--quiet", "--orphan", "island")
    repo.commit("alone")
    with pytest.raises(UsageError, match="no common history"):
        opened.between("island", "main")


def test_equal_ends_are_refused(opened):
    with pytest.raises(UsageError, match="same revision"):
        opened.between("main", "v4")


def test_a_worktree_holds_the_commit_and_no_git_directory(opened):
    tree = opened.worktree(opened.resolve("topic"))
    assert (tree / "python/server.py").read_text() == "STEP = 2\n"
    assert sorted(path.name for path in tree.iterdir()) == ["README", "python"]


def test_the_users_clone_is_never_written_to(repo, cache_dir, recorder):
    (repo.path / "README").write_text("edited, not committed\n")
    os.utime(repo.path / "python/server.py")  # makes a plain `git status` rewrite the index
    before = snapshot(repo.path)
    opened = Repository.open(str(repo.path), cache_dir=cache_dir, progress=recorder)
    for revision in opened.between("v0", "v4").revisions:
        opened.worktree(revision)
        opened.hunks(revision)
    with pytest.raises(UnknownRevisionError):
        opened.resolve("nothing")
    opened.remove_worktrees()
    assert snapshot(repo.path) == before
    assert any("uncommitted changes" in line for line in recorder.said)


@pytest.mark.usefixtures("opened")
def test_a_clean_clone_is_not_called_dirty(recorder):
    assert recorder.said == []


def test_an_intact_worktree_is_used_again(opened, recorder):
    tree = opened.worktree(opened.resolve("v0"))
    (tree / "__pycache__").mkdir()
    inode = tree.stat().st_ino
    assert opened.worktree(opened.resolve("v0")).stat().st_ino == inode
    assert recorder.steps == [f"checking out {opened.resolve('v0').label}"]


def _delete_file(tree):
    (tree / "README").unlink()


def _change_file(tree):
    (tree / "python/server.py").write_text("STEP = 9\n")


def _delete_marker(tree):
    (tree.parent / "complete.json").unlink()


def _empty_marker(tree):
    (tree.parent / "complete.json").write_text("")


def _wrong_marker(tree):
    (tree.parent / "complete.json").write_text('{"commit": "' + "0" * 40 + '"}')


def _delete_index(tree):
    (tree.parent / "index").unlink()


@pytest.mark.parametrize(
    "damage", [_delete_file, _change_file, _delete_marker, _empty_marker, _wrong_marker, _delete_index]
)
def test_a_damaged_worktree_is_made_anew(opened, damage):
    revision = opened.resolve("v0")
    tree = opened.worktree(revision)
    damage(tree)
    again = opened.worktree(revision)
    assert again == tree
    assert (again / "README").read_text() == "number 0\n"
    assert (again / "python/server.py").read_text() == "STEP = 0\n"


def test_remove_worktrees_removes_all_of_them(opened):
    trees = [opened.worktree(revision) for revision in opened.between("v0", "v4").revisions]
    opened.remove_worktrees()
    assert not any(tree.exists() for tree in trees)
    assert opened.worktree(opened.resolve("v0")).is_dir()


def test_kill_9_at_any_moment_leaves_nothing_half_made(tmp_path, cache_dir):
    repo = GitRepo(tmp_path / "big")
    files = {f"d{number % 20}__f{number}_py": f"{number}\n" * 50 for number in range(600)}
    commit = repo.commit("many files", **files)
    command = [sys.executable, "-c", _PROGRAM, str(repo.path), str(cache_dir), commit]
    for delay_s in (0.0, 0.01, 0.02, 0.04):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert child.stdout.readline() == "ready\n"
        time.sleep(delay_s)
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        opened = Repository.open(str(repo.path), cache_dir=cache_dir, progress=Recorder())
        tree = opened.worktree(opened.resolve(commit))
        assert sum(path.is_file() for path in tree.rglob("*")) == 600
        assert not list(tree.parent.parent.glob(".tmp-*"))
        opened.remove_worktrees()


def test_two_perfguards_at_once_share_a_worktree(repo, cache_dir):
    command = [sys.executable, "-c", _PROGRAM, str(repo.path), str(cache_dir), "v4"]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {child.communicate()[0] for child in children}
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    assert len(outputs) == 1


def test_threads_share_a_worktree(opened):
    revision = opened.resolve("v4")
    trees = []
    threads = [threading.Thread(target=lambda: trees.append(opened.worktree(revision))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trees) == 4
    assert len(set(trees)) == 1


def test_no_hook_runs(repo, cache_dir, recorder, tmp_path, monkeypatch):
    ran = tmp_path / "hook-ran"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "post-index-change", "reference-transaction"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {ran}\n")
        (hooks / name).chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(f"[core]\n\thooksPath = {hooks}\n\tfsmonitor = touch {ran}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    opened = Repository.open(str(repo.path), cache_dir=cache_dir, progress=recorder)
    opened.worktree(opened.resolve("v0"))
    assert not ran.exists()


def test_lfs_pointers_stay_pointers(repo, cache_dir, recorder, tmp_path, monkeypatch):
    settings = tmp_path / "gitconfig"
    settings.write_text('[filter "lfs"]\n\tsmudge = false\n\tclean = cat\n\trequired = true\n')
    pointer = "version https://git-lfs.github.com/spec/v1\n"
    repo.path.joinpath(".gitattributes").write_text("*.bin filter=lfs\n")
    commit = repo.commit("big file", **{"weights.bin": pointer})
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    opened = Repository.open(str(repo.path), cache_dir=cache_dir, progress=recorder)
    assert (opened.worktree(opened.resolve(commit)) / "weights.bin").read_text() == pointer


def test_a_surrounding_git_does_not_lead_astray(repo, cache_dir, recorder, tmp_path, monkeypatch):
    other = GitRepo(tmp_path / "other")
    other.commit("elsewhere")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.path))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.path / ".git/index"))
    opened = Repository.open(str(repo.path), cache_dir=cache_dir, progress=recorder)
    assert opened.resolve("main").subject == "c4"
    assert (opened.worktree(opened.resolve("v0")) / "README").read_text() == "number 0\n"


def test_hunks_are_against_the_first_parent(opened):
    by_path = {hunk.path: hunk for hunk in opened.hunks(opened.resolve("v4"))}
    assert set(by_path) == {"README", "python/server.py"}
    hunk = by_path["python/server.py"]
    assert (hunk.old_start, hunk.new_start, hunk.new_lines) == (1, 1, 1)
    assert hunk.text == "-STEP = 3\n+STEP = 4"


def test_hunks_of_the_first_commit_add_everything(opened):
    texts = {hunk.path: hunk.text for hunk in opened.hunks(opened.resolve("v0"))}
    assert texts == {"README": "+number 0", "python/server.py": "+STEP = 0"}


def test_hunks_of_a_merge_are_what_it_brought_in(repo, opened):
    repo.git("checkout", "--quiet", "-b", "side")
    repo.commit("s1", side_py="x = 1\n")
    repo.git("checkout", "--quiet", "main")
    repo.commit("m1", main_py="y = 1\n")
    repo.git("merge", "--quiet", "--no-ff", "--message", "merge side", "side")
    assert [hunk.path for hunk in opened.hunks(opened.resolve("main"))] == ["side.py"]


def test_changes_of_a_range_are_those_of_its_revisions_one_by_one(repo, opened):
    repo.git("checkout", "--quiet", "-b", "side")
    repo.commit("s1", side_py="x = 1\n")
    repo.git("checkout", "--quiet", "main")
    repo.git("merge", "--quiet", "--no-ff", "--message", "merge side", "side")
    repo.git("commit", "--quiet", "--allow-empty", "--message", "nothing")
    repo.git("mv", "side.py", "a \u00fc.py")
    repo.git("commit", "--quiet", "--message", "move")
    revisions = opened.between("v0", "main").revisions
    first, *changes = opened.changes(revisions)
    assert (first.paths, first.hunks) == (frozenset(), ())
    assert [change.hunks for change in changes[:5]] == [opened.hunks(revision) for revision in revisions[1:6]]
    assert [change.paths for change in changes[-3:]] == [{"side.py"}, set(), {"side.py", "a \u00fc.py"}]


def test_hunks_ignore_the_users_diff_settings(repo, cache_dir, recorder, tmp_path, monkeypatch):
    settings = tmp_path / "gitconfig"
    settings.write_text(
        "[diff]\n\tnoprefix = true\n\texternal = false\n\tsuppressBlankEmpty = true\n\tcontext = 0\n"
        "[color]\n\tui = always\n"
    )
    repo.commit("long", **{"a ü.py": "1\n\n3\n4\n\n"})
    repo.commit("change", **{"a ü.py": "1\n\nthree\n4\n\n"})
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    opened = Repository.open(str(repo.path), cache_dir=cache_dir, progress=recorder)
    (hunk,) = opened.hunks(opened.resolve("main"))
    assert (hunk.path, hunk.text) == ("a ü.py", " 1\n \n-3\n+three\n 4\n ")


@pytest.mark.parametrize("inside", ["", ".git", "python"])
def test_opens_a_work_tree_its_git_directory_or_a_place_in_it(repo, cache_dir, recorder, inside):
    opened = Repository.open(str(repo.path / inside), cache_dir=cache_dir, progress=recorder)
    assert opened.resolve("v0").subject == "c0"


def test_opens_a_bare_clone_and_a_linked_worktree(repo, cache_dir, recorder, tmp_path):
    bare = tmp_path / "bare.git"
    repo.git("clone", "--quiet", "--bare", ".", str(bare))
    repo.git("worktree", "add", "--quiet", str(tmp_path / "linked"), "topic")
    assert Repository.open(str(bare), cache_dir=cache_dir, progress=recorder).resolve("HEAD").subject == "c4"
    for location in (tmp_path / "linked", tmp_path / "linked/.git"):
        opened = Repository.open(str(location), cache_dir=cache_dir, progress=recorder)
        assert opened.resolve("HEAD").subject == "c2"
        assert (opened.worktree(opened.resolve("HEAD")) / "README").read_text() == "number 2\n"


def test_a_clone_that_borrows_from_another_works(repo, cache_dir, recorder, tmp_path):
    repo.git("clone", "--quiet", "--shared", ".", str(tmp_path / "sharing"))
    opened = Repository.open(str(tmp_path / "sharing"), cache_dir=cache_dir, progress=recorder)
    assert (opened.worktree(opened.resolve("v0")) / "README").read_text() == "number 0\n"


def test_a_sha256_repository_works(cache_dir, recorder, tmp_path):
    made = GitRepo(tmp_path / "sha256", object_format="sha256")
    made.commit("first", a="1\n")
    opened = Repository.open(str(made.path), cache_dir=cache_dir, progress=recorder)
    revision = opened.resolve("HEAD")
    assert len(revision.commit) == 64
    assert (opened.worktree(revision) / "a").read_text() == "1\n"
    assert [hunk.text for hunk in opened.hunks(revision)] == ["+1"]


def test_what_is_no_repository_says_what_to_pass(cache_dir, recorder, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    for location in ("plain", "missing"):
        with pytest.raises(UsageError, match="is not a git repository") as caught:
            Repository.open(str(tmp_path / location), cache_dir=cache_dir, progress=recorder)
        assert "local clone" in caught.value.hint


def test_somebody_elses_repository_is_refused_with_the_mend(repo, cache_dir, recorder, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UsageError, match="somebody else owns it") as caught:
        Repository.open(str(repo.path), cache_dir=cache_dir, progress=recorder)
    assert f"safe.directory {repo.path}" in caught.value.hint


def test_a_missing_git_is_said(repo, cache_dir, recorder, monkeypatch):
    monkeypatch.setenv("PATH", str(cache_dir))
    with pytest.raises(PerfguardError, match="git was not found"):
        Repository.open(str(repo.path), cache_dir=cache_dir, progress=recorder)


def test_a_cache_that_cannot_be_written_is_said(repo, recorder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PerfguardError, match="cannot use the cache"):
        Repository.open(str(repo.path), cache_dir=tmp_path / "file", progress=recorder)


def test_a_full_disk_is_said(opened, tmp_path, monkeypatch):
    fake = tmp_path / "bin"
    fake.mkdir()
    real = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    (fake / "git").write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '*read-tree*) echo "error: unable to write file README: No space left on device" >&2; exit 128;;\n'
        "esac\n"
        f'exec {real} "$@"\n'
    )
    (fake / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:{os.environ['PATH']}")
    with pytest.raises(PerfguardError, match="no space left on the disk"):
        opened.worktree(opened.resolve("v0"))
    monkeypatch.undo()
    assert (opened.worktree(opened.resolve("v0")) / "README").exists()
    assert Path(opened.worktree(opened.resolve("v0"))).is_dir()
