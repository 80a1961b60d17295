"""Studies over simulated arms: right answers, a resume that repeats nothing, clear refusals, and every face."""

import csv
import dataclasses
import io
import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_studies import REVISION, FakeRepository, World, crossing_cost, make_spec, make_trials

from perfguard.cli.main import run_cli
from perfguard.model.errors import MissingTrialError, UsageError
from perfguard.model.progress import Silent
from perfguard.model.scenario import Strategy
from perfguard.model.study import MemoryPages, StudyTarget
from perfguard.report.study_files import read_csv, to_cells_csv, to_csv, to_study_document, to_study_markdown
from perfguard.report.study_page import render_study
from perfguard.store import RunStore
from perfguard.workflows import study as study_module
from perfguard.workflows import study_arms
from perfguard.workflows.scenarios import load_scenario, scenario_dir
from perfguard.workflows.setup import RunRequest
from perfguard.workflows.study import is_study, read_study, study
from perfguard.workflows.study_arms import Arms
from perfguard.workflows.study_files import load_claims, load_study, read_effects
from perfguard.workflows.study_plan import expected_s, plan_study, remaining_s
from perfguard.workflows.trial import Bench

SPEC = make_spec(concurrency=(1,))  # 2 rank counts x 4 media; 2 starts of 2 blocks: 96 trials


class Said(Silent):
    """Progress that remembers."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)

    def step(self, message):
        self.lines.append(message)


class FakeArms(Arms):
    """Arms whose processes are a `World`."""

    def __init__(self, spec, ranks, world):
        super().__init__(spec, ranks)
        self.world = world
        self.closed = False

    @property
    def stand_ins(self):
        return ("vision tower: zeros",)

    def close(self):
        self.closed = True

    def _start(self, strategy):
        self.world.started.append((self.ranks, strategy))

    def _stop(self, _strategy):
        pass

    def _measure(self, strategy, cell):
        return self.world.value(strategy, cell)


class Runner:
    """Runs studies on worlds, in `run_dir` if nothing else is said; `made` are the arms."""

    def __init__(self, monkeypatch, run_dir):
        self.monkeypatch, self.run_dir, self.made = monkeypatch, run_dir, []

    def __call__(self, world, *, run_dir=None, resume=False, spec=SPEC, seed=1, progress=None):
        def make_arms(_bench, _spec, _revision, ranks, *, number, pages):
            self.made.append(FakeArms(spec, ranks, world))
            return self.made[-1]

        def open_bench(request, repository, store, told):
            return Bench(
                scenario=request.scenario,
                schedules=None,
                repository=repository,
                environment=SimpleNamespace(python=Path()),
                model_path=None,
                store=store,
                progress=told,
                port=None,
            )

        self.monkeypatch.setattr(study_module, "open_named", lambda *_: FakeRepository(REVISION))
        self.monkeypatch.setattr(study_module, "open_bench", open_bench)
        self.monkeypatch.setattr(study_module, "make_arms", make_arms)
        request = RunRequest(
            command="perfguard study r1 --api-key hunter2",
            repo=None,
            package="sglang",
            scenario=load_scenario("mm-small-images"),
            run_dir=run_dir or self.run_dir,
            resume=resume,
            seed=seed,
            port=None,
            installer="pip",
        )
        return study(request, "r1", spec, load_claims("17a57fd86"), progress or Silent())


@pytest.fixture
def run(tmp_path, monkeypatch):
    return Runner(monkeypatch, tmp_path / "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study and its folder; tests only read it, or make its files again."""
    folder = tmp_path_factory.mktemp("study") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Runner(monkeypatch, folder)(World(SPEC, crossing_cost(1e6))), folder


def test_a_study_tells_who_is_fastest_the_break_even_and_the_threshold(finished):
    result, _ = finished
    assert "shared-memory in 8" in result.sentence
    assert "SGLANG_MM_BROADCAST_THRESHOLD=" in result.sentence
    assert {each.candidate for each in result.break_evens} == {Strategy.BROADCAST, Strategy.SHARED_MEMORY}
    assert result.run.stand_ins == ("vision tower: zeros",)
    assert len(result.trials) == 8 * 4 * 3


def test_an_interrupted_study_goes_on_with_the_missing_trial_on_new_processes(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(World(SPEC, crossing_cost(1e6), die_after=40))
    assert run.made[-1].closed
    with pytest.raises(MissingTrialError, match="trial 41 is missing") as missing:
        read_study(tmp_path / "run", Silent())
    assert missing.value.hint.startswith(
        "40 trials are kept; continue with: perfguard study r1 --api-key hunter2 --resume"
    )
    rest = World(SPEC, crossing_cost(1e6), seed=2)
    result = run(rest, resume=True)
    planned = plan_study(SPEC, seed=1)
    assert len(rest.measured) == len(planned) - 40
    assert [(each.cell, each.strategy) for each in result.trials] == [(each.cell, each.strategy) for each in planned]
    # What was measured after the interrupt is on a start of its own.
    assert result.trials[40].start == result.trials[39].start + 1
    assert sorted({trial.start for trial in result.trials}) == [1, 2, 3, 4, 5]


def test_a_finished_study_is_judged_again_without_measuring(finished, run):
    result, folder = finished
    again = read_study(folder, Silent())
    assert again == result
    assert is_study(folder)
    idle = World(SPEC, crossing_cost(1e6))
    assert run(idle, run_dir=folder, resume=True) == result
    assert idle.measured == []


def test_another_grid_or_seed_cannot_be_continued(finished, run):
    _, folder = finished
    with pytest.raises(UsageError, match="another study"):
        run(World(SPEC, crossing_cost(1e6)), run_dir=folder, resume=True, spec=dataclasses.replace(SPEC, requests=99))
    with pytest.raises(UsageError, match="another seed"):
        run(World(SPEC, crossing_cost(1e6)), run_dir=folder, resume=True, seed=2)


def test_a_strategy_that_fails_is_untestable_the_rest_goes_on_and_the_time_left_is_kept_current(run):
    said = Said()
    result = run(World(SPEC, crossing_cost(1e6), untestable=(Strategy.BROADCAST,)), progress=said)
    assert {each.untestable.reason for each in result.trials if each.untestable} == {"ImportError: broken"}
    assert all(cell.leaders == (Strategy.SHARED_MEMORY,) for cell in result.cells)
    assert result.threshold.is_told is False
    assert "broadcast is untestable: ImportError: broken" in render_study(result)
    assert said.lines[0].startswith("96 trials of 96 to run: about ")
    told = [line for line in said.lines if line.startswith("trial ")]
    assert len(told) == 96
    assert "about" in told[0]
    assert "trial 96 of 96" in told[-1]
    assert sum(line.endswith("broadcast: untestable") for line in told) == 32


def test_memory_pages_are_a_dimension_measured_side_by_side(run, monkeypatch):
    monkeypatch.setattr(study_module, "probe_pages", lambda _python, pages: f"tried {pages.value}")
    pages = (MemoryPages.DEFAULT, MemoryPages.HUGE)
    spec = make_spec(concurrency=(1,), ranks=(2,), strategies=(Strategy.LOCAL, Strategy.BROADCAST), memory_pages=pages)
    world = World(spec, crossing_cost(1e6))
    result = run(world, spec=spec)
    assert len(world.started) == 2 * len(run.made) == 2 * 2 * spec.starts
    assert all(arms.closed for arms in run.made)
    for first in range(0, len(result.trials), 4):  # a cell's strategies follow each other on both
        own = result.trials[first : first + 4]
        assert len({(each.cell.media, each.block) for each in own}) == 1
        assert {(each.strategy, each.cell.memory_pages) for each in own} == set(
            itertools.product(spec.strategies, pages)
        )
    assert len(result.pages) == 4 * 2
    for each in result.pages:
        assert each.effect.low <= 0.5 <= each.effect.high
        assert (each.effect.pairs, each.effect.starts) == (4, 2)
    assert ("memory pages: huge", "tried huge") in result.run.environment
    page = render_study(result)
    assert page.count('class="chart"') == 2
    assert "Fastest strategy on 2 ranks, huge pages" in page
    assert "56x56, huge pages" in page
    rows = list(csv.DictReader(io.StringIO(to_csv(result.trials))))
    assert [row["memory_pages"] for row in rows] == [each.cell.memory_pages.value for each in result.trials]


@pytest.mark.parametrize("pages", list(MemoryPages))
def test_servers_of_a_study_get_the_scenarios_environment_and_their_memory_pages(monkeypatch, tmp_path, pages):
    started = []

    def launch(bench, **_options):
        started.append(bench.scenario.target)
        server = SimpleNamespace(park=lambda: None)
        return SimpleNamespace(stop=lambda: None, wait=lambda: server)

    monkeypatch.setattr(study_arms, "launch", launch)
    scenario = load_scenario("mm-small-images")
    target = dataclasses.replace(scenario.target, extra_environment=(("OF_THE_SCENARIO", "1"),))
    bench = Bench(
        scenario=dataclasses.replace(scenario, target=target),
        schedules=None,
        repository=FakeRepository(REVISION),
        environment=None,
        model_path=None,
        store=SimpleNamespace(run_dir=tmp_path),
        progress=Silent(),
        port=None,
    )
    spec = make_spec(target=StudyTarget.SERVER)
    with study_arms.make_arms(bench, spec, REVISION, 4, number=1, pages=pages) as arms:
        arms.start(Silent())
    assert len(started) == len(spec.strategies)
    asked = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if pages is MemoryPages.HUGE else {}
    for each in started:
        assert dict(each.extra_environment) == {"OF_THE_SCENARIO": "1", **asked}
        assert (each.tensor_parallel_size, each.kind) == (4, scenario.target.kind)


def test_without_the_dimension_nothing_is_said_of_pages(finished):
    result, _ = finished
    assert result.pages == ()
    assert not any("memory pages" in name for name, _ in result.run.environment)
    assert "Huge pages" not in render_study(result)


def test_what_trials_took_replaces_the_guess():
    planned = plan_study(SPEC, seed=1)
    first = make_trials(SPEC, crossing_cost(1e6))[:20]  # of the first leg
    cells = [expected_s(SPEC, trial.cell) for trial in first]
    as_guessed = [dataclasses.replace(trial, wall_s=s) for trial, s in zip(first, cells, strict=True)]
    twice = [dataclasses.replace(trial, wall_s=2 * s) for trial, s in zip(first, cells, strict=True)]
    measuring = sum(expected_s(SPEC, each.cell) for each in planned[20:])
    assert remaining_s(SPEC, planned, twice) - remaining_s(SPEC, planned, as_guessed) == pytest.approx(measuring)
    assert remaining_s(SPEC, planned, make_trials(SPEC, crossing_cost(1e6))) == 0.0


def test_the_csv_comes_back_as_the_same_trials(finished, tmp_path):
    result, _ = finished
    path = tmp_path / "study.csv"
    path.write_text(to_csv(result.trials))
    back = read_csv(path)
    assert len(back) == len(result.trials)
    for trial, other in zip(result.trials, back, strict=True):
        assert (trial.cell, trial.strategy, trial.block, trial.start) == (
            other.cell,
            other.strategy,
            other.block,
            other.start,
        )
        assert other.measured.ms_per_request == pytest.approx(trial.measured.ms_per_request, rel=1e-5)
    assert sum(row["received_ms"] != "" for row in csv.DictReader(io.StringIO(path.read_text()))) == 96


def test_the_cells_csv_names_who_leads_and_the_paired_ratio(finished):
    result, _ = finished
    rows = list(csv.DictReader(io.StringIO(to_cells_csv(result.cells))))
    assert len(rows) == 8 * 3
    for row in rows:
        leads = row["strategy"] == "shared-memory"
        assert (row["leads"], row["is_tie"], row["trials"]) == ("yes" if leads else "no", "no", "4")
        if row["strategy"] == "local":
            assert float(row["times_fastest_low"]) <= 2.5 <= float(row["times_fastest_high"])
        assert bool(row["times_fastest"]) is not leads


def test_a_csv_of_an_earlier_version_lacks_what_was_added_since(finished, tmp_path):
    rows = list(csv.DictReader(io.StringIO(to_csv(finished[0].trials))))
    path = tmp_path / "study.csv"
    with path.open("w", newline="") as file:
        kept = csv.DictWriter(file, [name for name in rows[0] if name != "delivered_ms"], extrasaction="ignore")
        kept.writeheader()
        kept.writerows(rows)
    back = read_csv(path)
    assert len(back) == len(rows)
    assert {each.measured.delivered_ms for each in back} == {None}
    assert None not in {each.measured.received_ms for each in back}


@pytest.mark.parametrize(
    ("text", "said"),
    [("a,b\n1,2\n", "is no study's CSV"), (None, "cannot read")],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, text, said):
    path = tmp_path / "x.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_csv(path)


def test_a_broken_row_is_named_by_its_line(finished, tmp_path):
    lines = to_csv(finished[0].trials).splitlines()
    path = tmp_path / "study.csv"
    path.write_text(
        "\n".join([*lines[:3], lines[3].replace("local", "loca").replace("broadcast", "b").replace("shared-", "")])
    )
    with pytest.raises(UsageError, match="line 4"):
        read_csv(path)


def test_the_page_shows_the_maps_the_claims_and_every_cell_and_escapes_what_comes_from_outside(finished):
    result, _ = finished
    page = render_study(result)
    assert "r<1>" not in page
    assert "r&lt;1&gt;" in page
    assert "hunter2" not in page
    assert page.count('class="chart"') == 2
    assert "<script" not in page
    for claim in result.claims:
        assert claim.verdict.value in page
    assert page.count("not measured in this run") >= 1
    # Text in the map stays text.
    assert ">shared-memory</text>" in page.replace("\n", "").replace("<!--", "")


def test_the_document_and_the_markdown_hold_what_the_page_says(finished):
    result, folder = finished
    document = json.loads(json.dumps(to_study_document(result, folder / "report.html"), allow_nan=False))
    assert document["schema_version"] == 1
    assert document["trials"] == 96
    assert {cell["fastest"] for cell in document["cells"]} == {"shared-memory"}
    assert document["threshold"]["overall"]["size_bytes"] == pytest.approx(1e6, rel=0.15)
    text = to_study_markdown(result)
    assert "hunter2" not in text
    assert text.count("\n| ") > 25
    shared = next(arm for arm in result.cells[0].arms if arm.strategy is Strategy.SHARED_MEMORY)
    assert f", {shared.to_limit.ratio:.2f}x \\(" in text


def test_tune_reads_a_folder_and_a_csv_alike(finished, tmp_path, capsys):
    result, folder = finished
    path = tmp_path / "study.csv"
    path.write_text(to_csv(result.trials))
    assert run_cli(["tune", str(folder)]) == 0
    of_folder = capsys.readouterr().out
    assert "et SGLANG_MM_BROADCAST_THRESHOLD=" in of_folder
    assert "2 ranks: broadcast is faster than local at" in of_folder
    assert run_cli(["tune", str(path), "--json"]) == 0
    of_csv = json.loads(capsys.readouterr().out)
    told = int(re.search(r"THRESHOLD=(\d+)", of_folder)[1])
    assert of_csv["overall"]["size_bytes"] == pytest.approx(told, rel=1e-4)  # the CSV holds six digits
    assert of_csv["is_told"] is True
    assert run_cli(["tune", str(tmp_path / "nothing")]) == 129


def test_report_shows_a_study_again(finished, capsys):
    _, folder = finished
    assert run_cli(["report", str(folder), "-q"]) == 0
    assert "Report: " in capsys.readouterr().out
    assert {path.name for path in folder.glob("*.*")} >= {
        "report.html",
        "study.json",
        "study.csv",
        "cells.csv",
        "study.md",
    }
    assert run_cli(["report", "--index", str(folder.parent)]) == 0
    assert capsys.readouterr().out.startswith("Index of 1 runs")
    assert "shared-memory in 8" in (folder.parent / "index.html").read_text()
    assert run_cli(["report", str(folder), "-q", "--junit", str(folder / "x.xml")]) == 129


def test_a_run_that_is_no_study_is_told_apart(tmp_path):
    RunStore.create(tmp_path / "r", {"verb": "run x1", "seed": 1}).close()
    assert not is_study(tmp_path / "r")
    with pytest.raises(UsageError, match="holds no study"):
        read_study(tmp_path / "r", Silent())
    assert not is_study(tmp_path / "nothing")


def test_every_study_that_comes_along_can_be_read_and_planned():
    for name in ("transport", "transport-small", "one-request", "memory-pages", "server"):
        spec = load_study(name)
        planned = plan_study(spec, seed=0)
        assert remaining_s(spec, planned, []) > 0.0
    names = {medium.name for medium in load_study("transport").media} | {
        medium.name for medium in load_study("server").media
    }
    assert {claim.media for claim in load_claims("17a57fd86").claims if claim.media} <= names


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ranks = [2, 4]", "ranks = [2, 2]", "names something twice"),
        ("ranks = [2, 4]", "ranks = []", "every entry of ranks must be greater than 0"),
        ('baseline = "local"', 'baseline = "as-committed"', "is none of the strategies"),
        ("blocks_per_start = 2", "blocks_per_start = 0", "must be greater than 0"),
        ("confidence = 0.95", "confidence = 95", "between 0.5 and 1"),
        (
            "confidence = 0.95",
            "confidence = 0.95\nmemory_pages = []",
            "the number of memory_pages must be greater than 0",
        ),
        ("confidence = 0.95", 'confidence = 0.95\nmemory_pages = ["big"]', "memory_pages"),
        ("most_in_flight_mb = 350", "most_in_flight_mb = 0.001", "no cell is left"),
        ("requests = 3", "request = 3", "unknown field request"),
        ("frames = 8", "frames = 0", "frames belong to kind"),
        ("height_px = 56", 'height_px = "tall"', "Expected `int`"),
    ],
)
def test_a_study_that_cannot_run_is_refused_with_its_place(tmp_path, old, new, said):
    text = (scenario_dir() / "studies" / "transport.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=said) as caught:
        load_study(str(path))
    assert "mine.toml" in caught.value.message


def test_effects_are_read_from_a_result_and_nothing_else(tmp_path):
    effect = {
        "metric": "throughput_rps",
        "ratio": 0.9,
        "low": 0.8,
        "high": 1.0,
        "confidence": 0.95,
        "pairs": 4,
        "starts": 2,
    }
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"verdict": "slower", "effects": [effect]}))
    (read,) = read_effects(path)
    assert (read.metric, read.low) == ("throughput_rps", 0.8)
    path.write_text(json.dumps({"revisions": []}))
    with pytest.raises(UsageError, match="holds no effects"):
        read_effects(path)
    with pytest.raises(UsageError, match="cannot read"):
        read_effects(tmp_path / "missing.json")


def test_a_name_that_is_nearly_right_gets_a_hint():
    with pytest.raises(UsageError, match="no study is called 'transprt'") as caught:
        load_study("transprt")
    assert "transport" in caught.value.hint
