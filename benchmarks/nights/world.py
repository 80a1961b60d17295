"""A simulated machine for the nightly guard: its servers' speed is what a file of the commit says, with noise.

Everything but the servers is the real code: git, the store, the duels, the search, the nights.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from made_trials import make_samples, make_trial
from small_server import Repository, program

from perfguard.model.errors import PerfguardError
from perfguard.model.night import MachineFingerprint, NightRecord
from perfguard.model.progress import Silent
from perfguard.model.revision import Revision
from perfguard.model.scenario import Strategy
from perfguard.model.trial import Trial
from perfguard.workflows import night_runs, nightly, session
from perfguard.workflows.night_runs import NightlyRequest
from perfguard.workflows.scenarios import load_scenario
from perfguard.workflows.setup import RunRequest
from perfguard.workflows.trial import Bench

SCENARIO = """
name = "simulated"
description = "a server whose speed is a number in its commit"
metric = "throughput_rps"

[target]
kind = "command"
start_timeout_s = 30.0
drain_timeout_s = 10.0

[target.command]
line = ["{{python}}", "server.py", "{{port}}"]

[load]
concurrency = 1
warmup_requests = 2
settling_requests = 1
requests = 20
profiled_requests = 0
request_timeout_s = 20.0
seed = 1

[load.request]
path = "/"

[profiling]
enabled = false
trials_per_revision = 1
rate_hz = 100
nonblocking = true

[limits]
min_effect_frac = {min_effect}
confidence = 0.95
max_trials = 120
"""

SERVER = program(
    'await wait(head) or b"up"',
    prelude="""
import math, pathlib, random

start_sd, factor, is_broken = map(float, pathlib.Path("MACHINE").read_text().split())
if is_broken:
    sys.exit("broken")
speed = float(pathlib.Path("speed").read_text()) * factor * math.exp(random.gauss(0.0, start_sd))


async def wait(head):
    if head.startswith(b"POST"):
        await asyncio.sleep(1.0 / speed)
""",
)


@dataclass(kw_only=True)
class Machine:
    """What measures: spreads of the log speed between starts and of one trial, and how fast it is in all."""

    rng: random.Random
    start_sd: float = 0.02
    trial_sd: float = 0.01
    factor: float = 1.0
    name: str = "first"
    is_broken: bool = False
    trials: int = 0


class World:
    """A repository, a state folder and a machine; `night` runs the guard once. Use one at a time."""

    def __init__(self, root: Path, seed: int, *, min_effect: float = 0.03) -> None:
        """Make an empty repository below `root`, or go on with the one that is there."""
        self.root = root
        self.repository = Repository(root / "clone")
        self.machine = Machine(rng=random.Random(seed))
        (root / "simulated.toml").write_text(SCENARIO.format(min_effect=min_effect))
        self._scenario = load_scenario(str(root / "simulated.toml"))
        self._speeds: dict[str, float] = {}
        self._number = 0

    def commit(self, speed: float) -> str:
        """Commit a revision that answers at `speed` requests a second; gives its hash."""
        self._number += 1
        files = {"speed": f"{speed!r}\n", "number": f"{self._number}\n"}
        commit = self.repository.commit(f"Change {self._number}", files)
        self._speeds[commit] = speed
        return commit

    def night(self) -> NightRecord:
        """Run the guard; gives what it kept."""
        run = RunRequest(
            command="perfguard nightly",
            repo=str(self.repository.path),
            package="sglang",
            scenario=self._scenario,
            run_dir=self.root / "state",
            resume=False,
            seed=self.machine.rng.randrange(10**6),
            port=None,
            installer="pip",
        )
        return nightly.nightly(
            NightlyRequest(run=run, repo=run.repo or "", branch="main", state=self.root / "state", options=()),
            Silent(),
        )

    def patch(self) -> None:
        """Put this world's servers and machine where the guard looks for them, and leave out the HTML pages."""
        session.Servers = lambda bench: _Servers(self, bench)
        nightly.fingerprint = lambda: MachineFingerprint(key=self.machine.name, described=self.machine.name)
        night_runs.write_report = lambda _result, path: path.write_text("")
        night_runs.write_entry = lambda _result, _path: None

    def speed(self, commit: str) -> float:
        """Return the speed that a commit has without noise."""
        return self._speeds[commit]


class RealWorld(World):
    """A world of real processes: servers that wait as long as their commit says, started and loaded by the real code.

    Each start draws its own luck; within a start the noise is what the machine that runs this really has.
    """

    def commit(self, speed: float) -> str:
        """Commit a server that answers at about `speed` requests a second; gives the commit's hash."""
        (self.repository.path / "server.py").write_text(SERVER.replace("MACHINE", str(self.root / "machine")))
        return super().commit(speed)

    def night(self) -> NightRecord:
        """Run the guard; gives what it kept."""
        machine = self.machine
        (self.root / "machine").write_text(f"{machine.start_sd} {machine.factor} {int(machine.is_broken)}")
        night = super().night()
        machine.trials += night.trials
        return night

    def patch(self) -> None:
        """Only the machine's name is made up."""
        nightly.fingerprint = lambda: MachineFingerprint(key=self.machine.name, described=self.machine.name)


class _Servers:
    """Stands in for `perfguard.workflows.servers.Servers`: the same methods, and no process."""

    def __init__(self, world: World, bench: Bench) -> None:
        self._world, self._bench = world, bench
        self._starts: dict[str, tuple[int, float]] = {}

    def start_of(self, revision: Revision) -> int:
        return self._starts[revision.commit][0]

    def restart(self, revisions: Sequence[Revision], *, first_start: int, strategy: Strategy) -> None:  # noqa: ARG002
        machine = self._world.machine
        if machine.is_broken:
            raise PerfguardError("the environment cannot be made")
        self._starts = {
            revision.commit: (first_start + place, machine.rng.gauss(0.0, machine.start_sd))
            for place, revision in enumerate(revisions)
        }

    def run(self, revision: Revision, *, number: int, block: int, profile: bool) -> Trial:  # noqa: ARG002
        machine = self._world.machine
        machine.trials += 1
        start, luck = self._starts[revision.commit]
        log = luck + machine.rng.gauss(0.0, machine.trial_sd)
        speed = self._world.speed(revision.commit) * machine.factor * math.exp(log)
        trial = make_trial(number, block, revision.commit, make_samples(speed), start=start)
        self._bench.store.add_trial(trial)
        return trial

    def close(self) -> None:
        self._starts = {}
