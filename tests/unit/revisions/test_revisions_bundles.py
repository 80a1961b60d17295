"""Bundles made by hand: verified before use, taken up without an index, and one clear error for each kind of damage."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import pytest
from packaging.requirements import Requirement

from perfguard.model.errors import PerfguardError, UnknownRevisionError, UsageError
from perfguard.model.progress import Silent
from perfguard.model.revision import HistoryKind, Revision
from perfguard.revisions import bundle_install
from perfguard.revisions.bundle_wheels import Machine, wheel_requirements
from perfguard.revisions.bundles import Bundle, split_into_parts
from perfguard.revisions.own_wheel import requirements, write_own_wheel, write_zip
from perfguard.workflows.bundle import parse_size
from perfguard.workflows.scenarios import scenario_dir

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
COMMIT = "a" * 40


def make_bundle(path, **changes):
    """Write a small bundle: one tree, one wheel of a package `tiny_thing`, and a model."""
    (path / "trees").mkdir(parents=True)
    (path / "wheels").mkdir()
    (path / "model").mkdir()
    write_zip(
        path / "trees" / f"{COMMIT}.zip", {"sglang/__init__.py": b"", "sglang/version.py": b"__version__ = '1'\n"}
    )
    write_zip(path / "model" / "tiny-model.zip", {"config.json": b"{}"})
    info = "tiny_thing-1.0.dist-info"
    members = {
        "tiny_thing.py": b"ANSWER = 42\n",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: me\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    members[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"]).encode()
    write_zip(path / "wheels" / "tiny_thing-1.0-py3-none-any.whl", members)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    revision = {"commit": COMMIT, "label": "0.5.4", "subject": "s", "author": "a", "committed_at": "2025-01-01"}
    manifest = {
        "format": bundle_install.FORMAT,
        "python": HERE,
        "provided": [],
        "kind": "releases",
        "origin": "sglang",
        "revisions": [revision],
        "model": "model/tiny-model.zip",
        "files": [
            {
                "path": each.relative_to(path).as_posix(),
                "size_bytes": each.stat().st_size,
                "sha256": bundle_install.sha256(each),
            }
            for each in files
        ],
        **changes,
    }
    (path / bundle_install.MANIFEST).write_text(json.dumps(manifest))
    return path


@pytest.fixture
def opened(tmp_path):
    def open_bundle(path):
        return Bundle(path, cache_dir=tmp_path / "cache", progress=Silent())

    return open_bundle


def test_revisions_are_named_and_laid_out_once(tmp_path, opened):
    bundle = opened(make_bundle(tmp_path / "bundle"))
    assert (bundle.kind, bundle.origin) == (HistoryKind.RELEASES, "sglang")
    revision = bundle.resolve("0.5.4")
    assert isinstance(revision, Revision)
    assert bundle.resolve("aaaa") == revision
    tree = bundle.worktree(revision)
    assert (tree / "sglang" / "version.py").read_text() == "__version__ = '1'\n"
    (tree / "mine").touch()
    assert opened(tmp_path / "bundle").worktree(revision) == tree
    assert (tree / "mine").exists()
    model = bundle.tiny_model()
    assert (model / "config.json").read_text() == "{}"


@pytest.mark.parametrize("ref", ["0.5.5", "bbbb", "aaa", ""])
def test_a_revision_that_is_not_there_lists_those_that_are(tmp_path, opened, ref):
    with pytest.raises(UnknownRevisionError, match="no one revision") as caught:
        opened(make_bundle(tmp_path / "bundle")).resolve(ref)
    assert caught.value.hint == "it has 0.5.4"


def test_a_missing_file_is_one_clear_error(tmp_path, opened):
    path = make_bundle(tmp_path / "bundle")
    (path / "trees" / f"{COMMIT}.zip").unlink()
    with pytest.raises(PerfguardError, match=f"lacks trees/{COMMIT}.zip"):
        opened(path)


def test_a_tampered_file_is_one_clear_error(tmp_path, opened):
    path = make_bundle(tmp_path / "bundle")
    wheel = path / "wheels" / "tiny_thing-1.0-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[40] ^= 1  # the size stays
    wheel.write_bytes(content)
    with pytest.raises(PerfguardError, match=r"tiny_thing-1\.0-py3-none-any\.whl is not the file that was packed"):
        opened(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "is no bundle"), ("{", "cannot read"), ('{"format": 99}', "of format 1"), ("[]", "of format 1")],
)
def test_what_is_no_bundle_is_said(tmp_path, opened, text, message):
    path = make_bundle(tmp_path / "bundle")
    if text is None:
        (path / bundle_install.MANIFEST).unlink()
    else:
        (path / bundle_install.MANIFEST).write_text(text)
    with pytest.raises(PerfguardError, match=message):
        opened(path)


def test_parts_side_by_side_are_one_bundle(tmp_path, opened):
    path = make_bundle(tmp_path / "bundle")
    files = sorted(each for each in path.rglob("*") if each.is_file() and each.name != bundle_install.MANIFEST)
    largest = max(each.stat().st_size for each in files)
    parts = split_into_parts(path, files, largest)
    assert len(parts) >= 2
    for part in parts:
        size = sum(each.stat().st_size for each in part.rglob("*") if each.is_file())
        assert 0 < size <= largest
    assert not (path / "wheels").exists()
    (path / bundle_install.MANIFEST).rename(parts[0] / bundle_install.MANIFEST)
    assert opened(path).resolve("0.5.4").label == "0.5.4"


def test_a_file_larger_than_a_part_is_said(tmp_path):
    path = make_bundle(tmp_path / "bundle")
    with pytest.raises(PerfguardError, match="more than a part"):
        split_into_parts(path, [path / "wheels" / "tiny_thing-1.0-py3-none-any.whl"], 10)


def install(bundle, into, *options):
    return subprocess.run(
        [sys.executable, bundle_install.__file__, "--bundle", str(bundle), "--into", str(into), *options],
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_installed_without_an_index_beside_what_the_machine_has(tmp_path):
    into = tmp_path / "environment"
    done = install(make_bundle(tmp_path / "bundle", provided=["pip"]), into)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{into / 'bin' / 'perfguard'}\n"
    # Its own package and one of the Python that made it.
    code = "import tiny_thing, pip; print(tiny_thing.ANSWER, tiny_thing.__file__)"
    asked = subprocess.run([into / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, check=False)
    assert asked.stdout.split()[0] == "42", asked.stderr
    assert asked.stdout.split()[1].startswith(str(into))
    assert install(tmp_path / "bundle", into).returncode == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": "3.9"}, "the bundle is for Python 3.9"),
        ({"provided": ["no-such-package"]}, "leaves no-such-package to the machine"),
    ],
)
def test_a_machine_that_does_not_fit_is_told_before_anything_is_made(tmp_path, changes, message):
    into = tmp_path / "environment"
    done = install(make_bundle(tmp_path / "bundle", **changes), into)
    assert done.returncode == 128
    assert message in done.stderr
    assert "mend:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not into.exists()


def test_another_folder_is_not_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    done = install(make_bundle(tmp_path / "bundle"), tmp_path / "mine")
    assert "holds something else" in done.stderr
    assert (tmp_path / "mine" / "file").exists()


def test_perfguards_own_wheel_is_one_and_its_bytes_are_fixed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    wheel = write_own_wheel(tmp_path / "a", version="1.2", scenarios=scenario_dir())
    again = write_own_wheel(tmp_path / "b", version="1.2", scenarios=scenario_dir())
    assert wheel.read_bytes() == again.read_bytes()
    assert list(wheel_requirements(wheel)) == [Requirement(each) for each in requirements()]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"perfguard/cli/main.py", "perfguard/_scenarios/mm-small-images.toml"} <= names
    assert {"perfguard/inside/tiny_model.py", "perfguard-1.2.dist-info/entry_points.txt"} <= names
    assert not [name for name in names if "__pycache__" in name]


def test_markers_are_judged_for_the_machine_and_not_for_this_one():
    machine = Machine(python="3.12", platform="manylinux", provided=frozenset({"torch"}))
    machine.check()
    assert machine.needs(Requirement('new; python_version >= "3.12"'))
    assert not machine.needs(Requirement('tomli; python_version < "3.11"'))
    assert not machine.needs(Requirement('win; sys_platform == "win32"'))
    assert not machine.needs(Requirement("Torch>=2"))
    assert not machine.needs(Requirement('more; extra == "all"'))
    options = machine.pip_options()
    assert "--platform=manylinux_2_28_x86_64" in options
    assert "--platform=manylinux_2_29_x86_64" not in options
    arm = Machine(python="3.11", platform="manylinux_2_34_aarch64", provided=frozenset())
    assert "--platform=manylinux_2_34_aarch64" in arm.pip_options()


@pytest.mark.parametrize(("python", "platform"), [("3", "manylinux"), ("2.7", "manylinux"), ("3.12", "windows")])
def test_a_machine_that_cannot_be_is_a_usage_error(python, platform):
    with pytest.raises(UsageError):
        Machine(python=python, platform=platform, provided=frozenset()).check()


def test_sizes_are_read_with_their_units():
    assert [parse_size(text) for text in ("60MiB", "1.5 GB", "1000")] == [60 * 2**20, 1_500_000_000, 1000]
    for text in ("sixty", "60 MiBs", "0", "-1"):
        with pytest.raises(UsageError, match="is no size"):
            parse_size(text)
