from __future__ import annotations

import json
import marshal

import pytest

from perfguard.cli.main import run_cli
from perfguard.model.errors import PerfguardError, UsageError
from perfguard.workflows.profile_files import ProfileSources, find_profiles, read_file, role_of

APP = "import pickle\ndef serve(x):\n    pickle.dumps(x)\n    compute(x)\n"


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "src" / "app").mkdir(parents=True)
    (tmp_path / "src" / "app" / "server.py").write_text(APP)
    return tmp_path / "src"


def write(path, pickled, computed, extra=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"thread (7): m;serve (/other/machine/app/server.py:3) {pickled}\n"
        f"thread (7): m;serve (/other/machine/app/server.py:4) {computed}\n{extra}"
    )
    return str(path)


def run(capsys, *arguments):
    code = run_cli([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_analyze_says_what_fires_and_exits_with_one(tmp_path, tree, capsys):
    profile = write(tmp_path / "rank-0.raw", 600, 400)

    code, out, err = run(capsys, "analyze", profile, "--source", tree, "--json")

    document = json.loads(out)
    assert (code, err, document["schema_version"]) == (1, "", 1)
    assert [(each["rule"], each["role"]) for each in document["findings"]] == [("pickle_dominated", "rank-0")]
    (summary,) = document["profiles"]
    assert (summary["samples"], summary["pickle_frac"], summary["classes_frac"]) == (
        1000,
        0.6,
        {"pickle": 0.6, "other": 0.4},
    )
    assert summary["top_self"] == [
        {"frame": "serve (/other/machine/app/server.py)", "self_frac": 1.0, "total_frac": 1.0}
    ]


def test_analyze_without_a_finding_exits_with_zero(tmp_path, tree, capsys):
    code, out, _ = run(capsys, "analyze", write(tmp_path / "a.raw", 1, 999), "--source", tree)

    assert code == 0
    assert "No rule fired" in out


def test_samples_without_source_are_shown_as_unknown(tmp_path, capsys):
    code, out, _ = run(capsys, "analyze", write(tmp_path / "a.raw", 600, 400), "--json")

    assert code == 0
    assert json.loads(out)["profiles"][0]["unclassed_frac"] == 1.0


def test_a_users_own_rules(tmp_path, tree, capsys):
    rules = tmp_path / "rules.toml"
    rules.write_text('[[call]]\nclass = "pickle"\nnames = "compute"\n')

    code, out, _ = run(
        capsys, "analyze", write(tmp_path / "a.raw", 0 + 1, 999), "--source", tree, "--call-rules", rules, "--json"
    )

    assert code == 1
    assert json.loads(out)["profiles"][0]["pickle_frac"] == 1.0


def test_a_cprofile_table_is_shown(tmp_path, capsys):
    path = tmp_path / "run.prof"
    path.write_bytes(marshal.dumps({("app.py", 3, "serve"): (2, 2, 1.5, 2.5, {})}))

    code, out, _ = run(capsys, "analyze", path, "--json")
    _, text, _ = run(capsys, "analyze", path)

    assert code == 0
    assert json.loads(out)["profiles"][0]["functions"][0] == {
        "function": "serve",
        "file": "app.py",
        "line": 3,
        "calls": 2,
        "self_s": 1.5,
        "total_s": 2.5,
    }
    assert "serve (app.py:3)" in text


def test_hostile_names_neither_move_the_cursor_nor_are_markup(tmp_path, capsys):
    path = tmp_path / "a.raw"
    path.write_text("[red]f[/red]\x1b[2J</script> (a.py:1) 300\n")

    _, out, _ = run(capsys, "analyze", path)

    assert "\x1b" not in out
    assert "[red]f[/red]" in out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("analyze", "{tmp}/gone.raw"), 129, "there is no profile at"),
        (("analyze", "{tmp}/*.nothing"), 129, "there is no profile at"),
        (("analyze", "{tmp}/empty.raw"), 128, "is empty"),
        (("analyze", "{tmp}/half.raw"), 128, "line 1"),
        (("analyze", "{tmp}/good.raw", "--source", "{tmp}/gone"), 129, "is not a folder"),
        (("analyze", "{tmp}/good.raw", "--call-rules", "{tmp}/gone.toml"), 129, "cannot read the call rules"),
        (("diff", "{tmp}/good.raw", "{tmp}/table.prof"), 128, "table of cProfile"),
        (("diff", "{tmp}/good.raw", "{tmp}/rank-0.raw"), 129, "no role in common"),
        (("diff", "{tmp}/good.raw", "{tmp}/good.raw", "--requests", "0"), 129, "--requests"),
        (("diff", "{tmp}/good.raw", "{tmp}/good.raw", "--rate", "0"), 129, "--rate"),
        (("diff", "{tmp}/good.raw", "{tmp}/good.raw", "--confidence", "2"), 129, "--confidence"),
    ],
)
def test_mistakes_end_in_one_clear_line(tmp_path, capsys, arguments, code, says):
    write(tmp_path / "good.raw", 5, 5)
    write(tmp_path / "rank-0.raw", 5, 5)
    (tmp_path / "empty.raw").write_text("")
    (tmp_path / "half.raw").write_text("serve (a.py:1) ")
    (tmp_path / "table.prof").write_bytes(marshal.dumps({("app.py", 3, "serve"): (2, 2, 1.5, 2.5, {})}))

    got, out, err = run(capsys, *[argument.format(tmp=tmp_path) for argument in arguments])

    assert (got, out) == (code, "")
    assert says in err
    assert "Traceback" not in err


def trials(folder, pickled):
    for number in range(6):
        write(folder / f"rank-0-{number}.raw", pickled + number, 300 - number)
    return str(folder)


def test_diff_of_two_folders_of_trials(tmp_path, tree, capsys):
    before, after = trials(tmp_path / "a", 100), tmp_path / "b"
    for number in range(6):
        write(after / f"rank-0-{number}.raw", 100, 300, extra=f"thread (7): m;extra (/x/y.py:3) {100 + number}\n")

    code, out, _ = run(capsys, "diff", before, after, "--requests", "100", "--json")

    document = json.loads(out)
    grown = [each for each in document["frames"] if each["regression"]]
    assert (code, document["unit"], document["trials"]) == (0, "ms_per_request", {"rank-0": {"before": 6, "after": 6}})
    assert [each["frame"] for each in grown] == ["extra (/x/y.py)"]
    # 102.5 samples of 10 ms in 100 requests.
    assert (grown[0]["before"], grown[0]["after"]) == (0.0, pytest.approx(10.25))
    assert grown[0]["change_low"] < 10.25 < grown[0]["change_high"]


def test_diff_by_shares_and_by_single_profiles(tmp_path, capsys):
    before, after = write(tmp_path / "a.raw", 100, 300), write(tmp_path / "b.raw", 300, 300, "serve;new (n.py:1) 400\n")

    code, out, _ = run(capsys, "diff", before, after, "--json")
    _, text, _ = run(capsys, "diff", before, after)

    document = json.loads(out)
    new = next(each for each in document["frames"] if each["frame"] == "new (n.py)")
    assert (code, document["unit"], new["after"], new["significant"]) == (0, "percent_of_working_samples", 40.0, False)
    assert "nothing is certain" in text
    assert "new (n.py)" in text


def test_diff_of_equal_trials_marks_nothing(tmp_path, capsys):
    place = trials(tmp_path / "a", 100)

    _, out, _ = run(capsys, "diff", place, place)

    assert "No function changed beyond the noise" in out


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("rank-0.raw", "rank-0"),
        ("rank1-3.raw", "rank-1"),
        ("scheduler_TP3.speedscope.json", "rank-3"),
        ("TP2.raw", "rank-2"),
        ("tokenizer.raw", "tokenizer"),
        ("detokenizer-2.raw", "detokenizer"),
        ("http.raw", "profile"),
    ],
)
def test_roles_are_told_by_file_names(tmp_path, name, role):
    assert role_of(tmp_path / name) == role


def test_folders_and_patterns_are_found_once_and_hidden_files_passed_over(tmp_path):
    for name in ("x/b.raw", "x/a.raw", "x/.hidden", "x/readme.md", "y.raw"):
        write(tmp_path / name, 1, 1)

    found = find_profiles([str(tmp_path / "x"), str(tmp_path / "x" / "a.raw"), str(tmp_path / "*.raw")])

    assert [str(path.relative_to(tmp_path)) for path in found] == ["x/a.raw", "x/b.raw", "y.raw"]


def test_sources_are_found_by_the_longest_tail_that_a_root_holds(tmp_path, tree):
    sources = ProfileSources([tree])

    assert sources.source("/other/machine/app/server.py") == APP
    assert sources.source("app/server.py") == APP
    assert sources.source("server.py") == APP
    assert sources.source("/other/app/client.py") is None
    assert sources.source("<frozen os>") is None
    assert ProfileSources([]).source(str(tree / "app" / "server.py")) == APP
    assert ProfileSources([]).source("\x00.py") is None
    (tree / "other").mkdir()
    (tree / "other" / "server.py").write_text("else\n")
    assert ProfileSources([tree]).source("server.py") is None  # two files of that name
    with pytest.raises(UsageError):
        ProfileSources([tmp_path / "gone"])


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "large.raw"
    with path.open("wb") as file:
        file.truncate((1 << 30) + 1)

    with pytest.raises(PerfguardError, match="more than the 1024"):
        read_file(path)
