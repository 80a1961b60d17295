"""The bisect and compare workflows over a simulated server: right answers, and a resume that repeats nothing."""

import contextlib
import dataclasses
import itertools
import json
import math
import sqlite3
from types import SimpleNamespace

import numpy as np
import pytest
from made_trials import make_samples, make_trial

from perfguard.load.schedule import build_phases
from perfguard.model.errors import OutOfTimeError, PerfguardError, UsageError
from perfguard.model.progress import Silent
from perfguard.model.result import BisectVerdict, CompareVerdict, Direction
from perfguard.model.revision import HistoryKind, Revision, RevisionChange, RevisionRange
from perfguard.model.trial import Trial, Untestable
from perfguard.revisions.environments import Environment
from perfguard.workflows import bisect as bisect_module
from perfguard.workflows import compare as compare_module
from perfguard.workflows import judge as judge_module
from perfguard.workflows import session as session_module
from perfguard.workflows.bisect import bisect
from perfguard.workflows.compare import compare
from perfguard.workflows.scenarios import load_scenario
from perfguard.workflows.setup import RunRequest
from perfguard.workflows.trial import Bench

MAIN = "<module> (server/main.py:10)"
LOOP = "event_loop (server/scheduler.py:50)"
GROWN = "share_inputs (server/scheduler.py:90)"
WORK = "work (server/scheduler.py:70)"
DECOY = "decoy (server/scheduler.py:110)"


class FakeRepository:
    """A history of `count` revisions, without git."""

    kind = HistoryKind.COMMITS
    origin = "test"

    def __init__(self, count, tree):
        self.revisions = tuple(
            Revision(commit=f"{i:040d}", label=f"r{i}", subject=f"change {i}", author="A", committed_at="2026-01-01")
            for i in range(count)
        )
        self._tree = tree
        self.touched = {}

    def resolve(self, ref):
        return next(r for r in self.revisions if r.label == ref)

    def between(self, good, bad):
        labels = [r.label for r in self.revisions]
        chosen = self.revisions[labels.index(good) : labels.index(bad) + 1]
        return RevisionRange(kind=self.kind, origin=self.origin, revisions=chosen)

    def worktree(self, _revision):
        return self._tree

    def hunks(self, _revision):
        return ()

    def changes(self, revisions):
        """What each revision changed: documents, where the test does not say otherwise."""
        return tuple(
            RevisionChange(paths=frozenset(self.touched.get(int(r.commit), {"docs/a.md"})), hunks=()) for r in revisions
        )


class World:
    """A simulated server: throughput falls by `effect`, and a frame appears, from `culprit` on."""

    def __init__(self, culprit, effect=0.2, noise=0.03, seed=0, untestable=(), frame_from=None):
        self.culprit, self.effect, self.noise = culprit, effect, noise
        self.frame_from = culprit if frame_from is None else frame_from
        self.rng = np.random.default_rng(seed)
        self.untestable = untestable
        self.ran = []
        self.started = []
        self.loads = {}
        self.die_after = None
        self.decoy_from = None

    def loading(self, index, samples):
        """Add the files that the server of revision `index` loads."""
        files = self.loads.get(index, self.loads.get("all", ()))
        return dataclasses.replace(samples, server=dataclasses.replace(samples.server, loaded_files=tuple(files)))

    def servers(self, bench):
        """Stand in for `Servers`: starts cost nothing."""
        return FakeServers(self, bench)

    def run(self, bench, revision, start, *, number, block, strategy, profile):
        index = int(revision.commit)
        if self.die_after is not None and len(self.ran) >= self.die_after:
            raise KeyboardInterrupt
        self.ran.append((number, index))
        if index in self.untestable:
            outcome = Untestable(reason="ImportError: broken", log="Traceback")
            trial = Trial(
                number=number,
                block=block,
                start=start,
                revision=revision.commit,
                strategy=strategy.value,
                started_at="",
                wall_s=1.0,
                outcome=outcome,
            )
        else:
            # Seeded by trial, so that a resumed run would measure what the first one would have.
            rng = np.random.default_rng((7, number))
            luck = 0.01 * np.random.default_rng((8, start)).standard_normal()
            slow = index >= self.culprit
            throughput = 140.0 * math.exp(-self.effect * slow + luck + self.noise * rng.standard_normal())
            grown = 150 + int(rng.integers(-8, 8)) if index >= self.frame_from else 0
            work = 400 + int(rng.integers(-15, 15))
            text = f"{MAIN};{LOOP};{WORK} {work}\n" + (f"{MAIN};{LOOP};{GROWN} {grown}\n" if grown else "")
            decoy = 250 if self.decoy_from is not None and index >= self.decoy_from else 0
            text += f"{MAIN};{LOOP};{DECOY} {decoy}\n" if decoy else ""
            key = bench.store.put_artifact(text.encode())
            cpu = 5.0 * (work + grown + decoy) / 400
            trial = make_trial(
                number,
                block,
                revision.commit,
                self.loading(index, make_samples(throughput, (("rank-0", key),) if profile else (), cpu_s=cpu)),
                start=start,
            )
        bench.store.add_trial(trial)
        return trial


class FakeServers:
    """Servers of a world: they keep count of their starts, and fail where a revision is untestable."""

    def __init__(self, world, bench):
        self._world, self._bench, self._starts = world, bench, {}

    def start_of(self, revision):
        return self._starts[revision.commit]

    def restart(self, revisions, *, first_start, strategy):
        self._strategy = strategy
        self._starts = {revision.commit: first_start + i for i, revision in enumerate(revisions)}
        self._world.started.append([int(revision.commit) for revision in revisions])

    def run(self, revision, **arguments):
        start = self._starts[revision.commit]
        return self._world.run(self._bench, revision, start, strategy=self._strategy, **arguments)

    def close(self):
        self._starts = {}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Return a function that runs a workflow over a world; the folder is the same at every call."""
    tree = tmp_path / "tree"
    (tree / "sglang").mkdir(parents=True)
    (tree / "sglang" / "__init__.py").write_text("")
    packages = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    environment = Environment(
        key="k",
        name="test",
        path=tmp_path / "env",
        python=tmp_path / "env" / "bin" / "python",
        size_bytes=0,
        created_at="",
        packages=(),
    )
    scenario = load_scenario("mm-small-images")
    schedules = build_phases(scenario.load)
    monkeypatch.setattr(judge_module, "site_packages", lambda _environment: packages)

    def run(
        workflow,
        world,
        *arguments,
        count=12,
        resume=False,
        folder="run",
        seed=0,
        touched=None,
        until=None,
        progress=None,
    ):
        repository = FakeRepository(count, tree)
        repository.touched = touched or {}

        def bench(request, _repository, store, progress):
            return Bench(
                scenario=request.scenario,
                schedules=schedules,
                repository=repository,
                environment=environment,
                model_path=None,
                store=store,
                progress=progress,
                port=None,
                replay=request.replay,
                until=request.until,
            )

        monkeypatch.setattr(bisect_module, "open_range", lambda *_: repository)
        monkeypatch.setattr(compare_module, "open_named", lambda *_: repository)
        for module in (bisect_module, compare_module):
            monkeypatch.setattr(module, "open_bench", bench)
        monkeypatch.setattr(session_module, "Servers", world.servers)
        request = RunRequest(
            command="perfguard test",
            repo=None,
            package="sglang",
            scenario=scenario,
            run_dir=tmp_path / folder,
            resume=resume,
            seed=seed,
            port=None,
            installer="pip",
            until=until,
        )
        return workflow(request, *arguments, progress or Silent())

    return run


@pytest.mark.parametrize("culprit", [1, 4, 11])
def test_bisect_names_the_culprit_with_few_trials(lab, culprit):
    world = World(culprit)
    result = lab(bisect, world, "r0", "r11", Direction.REGRESSION)
    assert result.verdict is BisectVerdict.CULPRIT
    assert result.culprit.revision.label == f"r{culprit}"
    assert result.culprit.posterior > 0.9
    assert result.credible_set == (result.culprit.revision,)
    assert result.effects[0].high < 1.0
    assert result.effects[0].low < np.exp(-0.2) < result.effects[0].high
    assert len(world.ran) <= 30
    assert any("share_inputs" in frame.frame for frame in result.grown_frames if frame.significant)


def test_bisect_finds_an_improvement(lab):
    result = lab(bisect, World(5, effect=-0.2, frame_from=99), "r0", "r11", Direction.IMPROVEMENT)
    assert (result.verdict, result.culprit.revision.label) == (BisectVerdict.CULPRIT, "r5")
    assert result.effects[0].low > 1.0


def test_no_change_is_said(lab):
    result = lab(bisect, World(99, effect=0.0), "r0", "r11", Direction.REGRESSION)
    assert result.verdict is BisectVerdict.NO_CHANGE
    assert result.culprit is None
    assert result.credible_set == ()


def test_stacks_that_move_elsewhere_are_refuted_and_the_metric_finds_the_culprit(lab):
    world = World(8, frame_from=3)
    result = lab(bisect, world, "r0", "r11", Direction.REGRESSION)
    assert result.verdict is BisectVerdict.CULPRIT
    assert result.culprit.revision.label == "r8"
    # What the stacks said was looked at with users' eyes first.
    assert [2, 3] in map(sorted, world.started)


def test_of_two_frames_that_moved_the_one_that_users_feel_names_the_culprit(lab):
    world = World(8)
    world.decoy_from = 3
    result = lab(bisect, world, "r0", "r11", Direction.REGRESSION)
    assert result.culprit.revision.label == "r8"
    assert [2, 3] in map(sorted, world.started)
    # The second lever needs no search on the user metric, which costs many trials.
    assert len(world.ran) <= 60


def test_an_untestable_end_is_unknown_with_its_reason(lab):
    result = lab(bisect, World(4, untestable=(11,)), "r0", "r11", Direction.REGRESSION)
    assert result.verdict is BisectVerdict.UNKNOWN
    assert "cannot be tested" in result.sentence
    (summary,) = [s for s in result.revisions if s.untestable]
    assert summary.untestable_reason == "ImportError: broken"


def test_an_untestable_culprit_is_a_credible_set(lab):
    result = lab(bisect, World(5, untestable=(5,)), "r0", "r11", Direction.REGRESSION)
    assert result.verdict is BisectVerdict.UNKNOWN
    assert [r.label for r in result.credible_set] == ["r5", "r6"]


@pytest.mark.parametrize("die_after", [0, 1, 6, 9, 12])
def test_a_resumed_bisect_runs_no_trial_twice_and_ends_the_same(lab, die_after):
    straight = lab(bisect, World(4), "r0", "r11", Direction.REGRESSION, folder="straight")
    world = World(4)
    world.die_after = die_after
    with pytest.raises(KeyboardInterrupt):
        lab(bisect, world, "r0", "r11", Direction.REGRESSION)
    world.die_after = None
    result = lab(bisect, world, "r0", "r11", Direction.REGRESSION, resume=True)
    numbers = [number for number, _ in world.ran]
    assert numbers == list(range(1, len(numbers) + 1))
    assert result.trials[:die_after] == straight.trials[:die_after]
    assert result.culprit.revision == straight.culprit.revision
    # The servers of before are gone: what follows ran on new starts, which are not taken for the old ones.
    before = {t.start for t in result.trials[:die_after]}
    assert not before & {t.start for t in result.trials[die_after:]}


def test_when_the_time_is_over_no_trial_begins_and_the_run_goes_on_later(lab, monkeypatch):
    world = World(4)
    # A clock that a trial moves by one second.
    monkeypatch.setattr(session_module, "time", SimpleNamespace(monotonic=lambda: float(len(world.ran))))
    with pytest.raises(OutOfTimeError, match="over after 6 trials"):
        lab(bisect, world, "r0", "r11", Direction.REGRESSION, until=6.0)
    assert len(world.ran) == 6
    result = lab(bisect, world, "r0", "r11", Direction.REGRESSION, resume=True)
    assert [number for number, _ in world.ran] == list(range(1, len(world.ran) + 1))
    assert result.culprit.revision.label == "r4"


def test_a_run_of_before_scenarios_had_mixes_and_stages_goes_on(lab, tmp_path):
    world = World(4)
    first = lab(bisect, world, "r0", "r11", Direction.REGRESSION)
    (path,) = tmp_path.rglob("run.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        ((text,),) = connection.execute("SELECT value FROM meta WHERE key = 'settings'")
        settings = json.loads(text)
        for field in ("media", "stages"):
            assert settings["scenario"]["load"].pop(field) == []
        connection.execute("UPDATE meta SET value = ? WHERE key = 'settings'", (json.dumps(settings),))
    ran = len(world.ran)
    assert lab(bisect, world, "r0", "r11", Direction.REGRESSION, resume=True).culprit == first.culprit
    assert len(world.ran) == ran


def test_resuming_something_else_is_refused(lab):
    world = World(4)
    lab(bisect, world, "r0", "r11", Direction.REGRESSION)
    with pytest.raises(UsageError, match="another verb"):
        lab(compare, world, "r0", "r11", resume=True)
    with pytest.raises(UsageError, match="another seed"):
        lab(bisect, world, "r0", "r11", Direction.REGRESSION, resume=True, seed=5)
    with pytest.raises(UsageError, match="another revisions"):
        lab(bisect, world, "r0", "r10", Direction.REGRESSION, resume=True)
    with pytest.raises(UsageError, match="already holds a run"):
        lab(bisect, world, "r0", "r11", Direction.REGRESSION)


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [(0.2, CompareVerdict.SLOWER), (-0.2, CompareVerdict.FASTER), (0.0, CompareVerdict.NO_CHANGE)],
)
def test_compare_says_what_is(lab, effect, verdict):
    result = lab(compare, World(1, effect=effect), "r0", "r1", count=2)
    assert result.verdict is verdict
    assert result.effects[0].pairs >= 3


def test_compare_with_a_broken_candidate_is_unknown(lab):
    result = lab(compare, World(9, untestable=(1,)), "r0", "r1", count=2)
    assert result.verdict is CompareVerdict.UNKNOWN
    assert "ImportError: broken" in result.sentence
    assert len(result.trials) <= 4


def test_trials_run_in_blocks_of_random_order(lab):
    world = World(4)
    result = lab(bisect, world, "r0", "r11", Direction.REGRESSION)
    gate = [t for t in result.trials if t.block <= 3]
    assert all(len(list(group)) == 2 for _, group in itertools.groupby(gate, key=lambda t: t.block))
    orders = {tuple(int(t.revision) for t in result.trials if t.block == b) for b in range(1, 5)}
    assert len(orders) > 1


def test_comparing_a_revision_with_itself_is_refused(lab):
    with pytest.raises(PerfguardError, match="same revision"):
        lab(compare, World(1), "r0", "r0", count=2)


def test_revisions_that_touch_nothing_that_is_loaded_are_not_measured(lab):
    world = World(5)
    world.loads = {"all": ["server/scheduler.py"]}
    touched = {3: {"server/scheduler.py"}, 5: {"server/scheduler.py", "docs/a.md"}, 9: {"server/scheduler.py"}}
    result = lab(bisect, world, "r0", "r11", Direction.REGRESSION, touched=touched)
    assert result.culprit.revision.label == "r5"
    # Folded ones are measured only as the culprit's parent.
    assert {index for _, index in world.ran} <= {0, 3, 4, 5, 9, 11}


def test_a_culprit_in_a_file_that_only_revisions_in_between_load_is_found(lab):
    world = World(6)
    lazily = ["server/scheduler.py", "server/lazy.py"]
    world.loads = {"all": ["server/scheduler.py"], **dict.fromkeys(range(6, 11), lazily)}
    touched = {3: {"server/scheduler.py"}, 6: {"server/lazy.py"}, 7: {"server/scheduler.py"}}
    result = lab(bisect, world, "r0", "r11", Direction.REGRESSION, touched=touched)
    assert result.culprit.revision.label == "r6"


def test_where_nothing_seems_to_matter_all_revisions_are_searched(lab):
    world = World(4)
    world.loads = {"all": ["server/scheduler.py"]}
    result = lab(bisect, world, "r0", "r11", Direction.REGRESSION)
    assert result.culprit.revision.label == "r4"


class Heard(Silent):
    """A progress that keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def test_a_bisect_says_what_it_expects_before_it_starts_and_after_each_stage(lab):
    heard = Heard()
    lab(bisect, World(7), "r0", "r11", Direction.REGRESSION, progress=heard)
    plans = [index for index, line in enumerate(heard.lines) if line.startswith("expects ")]
    first_trial = next(index for index, line in enumerate(heard.lines) if line.startswith("trial 1"))
    assert plans[0] < first_trial
    assert "if starting both servers takes" in heard.lines[plans[0]]
    assert len(plans) == 3
    assert all("if starting" not in heard.lines[index] for index in plans[1:])
    searching = next(index for index, line in enumerate(heard.lines) if line.startswith("searching on"))
    confirming = next(index for index, line in enumerate(heard.lines) if line.startswith("confirming"))
    assert searching < plans[1] < confirming < plans[2]


def test_a_comparison_keeps_its_plan_current(lab):
    heard = Heard()
    lab(compare, World(1, effect=0.2), "r0", "r1", progress=heard)
    plans = [line for line in heard.lines if line.startswith("expects ")]
    # Before it starts, and before the second pair of starts.
    assert len(plans) >= 2
