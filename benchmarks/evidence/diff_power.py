"""How often the diff of two profiles cries wolf, and what it finds: on real trials and on simulated ones like them.

`trials.json.gz` holds the profiled trials of one comparison on two cores: sglang 0.5.4.post1 (`good`, 12 trials) and
0.5.5.post2 (`bad`, 13), 112x112 images, TP=2, py-spy at 100 Hz for some seconds a trial.

- A/A, real: the good trials are split at random into two halves, over and over. Nothing changed between the halves.
- A/A, simulated: every trial draws Poisson counts from the good trials' mean costs. All costs of a trial go up and down
  together (by `--trial-noise`, as those of the real trials do), and each function's own beside them (by
  `--function-noise`).
- Planted: on one side a function of one role costs 3% of the role's CPU more; it is new there, or had the given share
  of the role's CPU before. Found means: it is marked as significantly grown. It is looked for once among all functions,
  and once knowing that its source changed, as that of nine others did, drawn at random.
- Real change: random trials of `good` against random trials of `bad`.
- Rates: the same, of whose samples only a share is kept, as a lower sampling rate would.

    python benchmarks/evidence/diff_power.py
    python benchmarks/evidence/diff_power.py --repeats 20    # a quick look
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from perfguard.evidence.cost import StackCosts
from perfguard.evidence.diff import compare_profiles, top_grown
from perfguard.evidence.stacks import function_key
from perfguard.model.profile import Frame

TRIALS = Path(__file__).with_name("trials.json.gz")
ROLE = "rank-0"
PLANTED = Frame(function="planted", file="planted.py", line=1)
GROWTH = 0.03
RATE_HZ = 100
CULPRIT = "Scheduler._process_and_broadcast_mm_inputs"

Trial = dict[str, StackCosts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What simulated trials vary by: standard deviations of logarithms, and the samples that a trial has."""

    trial: float
    function: float
    samples: int | None


def main() -> None:
    """Print one table after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trial-noise", type=float, default=0.06)
    parser.add_argument("--function-noise", type=float, default=0.05)
    parser.add_argument(
        "--samples", type=int, help=f"samples a simulated trial of {ROLE} has; by default the real ones'"
    )
    parser.add_argument("--only", choices=("aa-real", "aa-simulated", "planted", "real", "rates"))
    parser.add_argument("--side", type=int, nargs="*", help="trials a side; by default several")
    options = parser.parse_args()
    good, bad = read_trials()
    rng = np.random.default_rng(options.seed)
    noise = Noise(trial=options.trial_noise, function=options.function_noise, samples=options.samples)
    parts = {
        "aa-real": lambda: aa_real(good, options.repeats, rng, options.side or (2, 3, 4, 6)),
        "aa-simulated": lambda: aa_simulated(good, options.repeats, noise, rng, options.side or (2, 4, 8)),
        "planted": lambda: planted(good, options.repeats, noise, rng, options.side or (3, 5, 8)),
        "real": lambda: real_change(good, bad, options.repeats, rng, options.side or (2, 3, 5, 8)),
        "rates": lambda: lower_rates(good, bad, options.repeats, rng, options.side or (2, 3, 5)),
    }
    for name, part in parts.items():
        if options.only in {None, name}:
            start = time.perf_counter()
            part()
            print(f"({time.perf_counter() - start:.0f} s)\n", flush=True)


def aa_real(good: Sequence[Trial], repeats: int, rng: np.random.Generator, sides: Sequence[int]) -> None:
    """Split the real trials of one revision at random."""
    print("| A/A, real trials, a side | diffs with a frame marked | frames marked | diffs |\n|---|---|---|---|")
    for side in sides:
        marked: tuple[list[int], list[int]] = [], []
        for _ in range(repeats):
            order = rng.permutation(len(good))
            before, after = [good[n] for n in order[:side]], [good[n] for n in order[side : 2 * side]]
            marked[0].append(marks(before, after))
            marked[1].append(marks(before, after, some_functions(before, rng, 10)))
        show(str(side), marked[0])
        show(f"{side}, ten functions' sources changed", marked[1])


def aa_simulated(
    good: Sequence[Trial], repeats: int, noise: Noise, rng: np.random.Generator, sides: Sequence[int]
) -> None:
    """Draw both sides from the same costs."""
    print("| A/A, simulated trials, a side | diffs with a frame marked | frames marked | diffs |\n|---|---|---|---|")
    simulator = Simulator(good, noise, rng)
    for side in sides:
        marked = [
            marks([simulator.trial() for _ in range(side)], [simulator.trial() for _ in range(side)])
            for _ in range(repeats)
        ]
        show(str(side), marked)


def planted(good: Sequence[Trial], repeats: int, noise: Noise, rng: np.random.Generator, sides: Sequence[int]) -> None:
    """Plant 3% of a role's CPU under one function."""
    simulator = Simulator(good, noise, rng)
    print(f"Planted: +{GROWTH:.0%} of {ROLE}'s CPU.\n")
    print(
        "| trials a side | share of the role before | found | named as what grew | wrong frames marked a diff |", end=""
    )
    print(" found, sources known | wrong frames marked a diff |")
    print("|---|---|---|---|---|---|---|")
    for side in sides:
        for share in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
            found, named, wrong = [0, 0], [0, 0], [0, 0]
            for _ in range(repeats):
                before = [simulator.trial(planted=share) for _ in range(side)]
                after = [simulator.trial(planted=share + GROWTH) for _ in range(side)]
                for known, changed in enumerate(((), {function_key(PLANTED), *some_functions(before, rng, 9)})):
                    changes = compare_profiles(before, after, confidence=0.95, changed=changed)
                    grown = [each.frame for each in changes if each.frame.significant]
                    found[known] += any(each.frame == function_key(PLANTED) for each in grown)
                    top = top_grown([each.frame for each in changes])
                    named[known] += top is not None and top.frame == function_key(PLANTED)
                    wrong[known] += sum(not simulator.is_caller(each.frame, each.role) for each in grown)
            print(
                f"| {side} | {share:.0%} | {found[0] / repeats:.1%} | {named[0] / repeats:.1%} "
                f"| {wrong[0] / repeats:.2f} | {found[1] / repeats:.1%} | {wrong[1] / repeats:.2f} |",
                flush=True,
            )


def some_functions(trials: Sequence[Trial], rng: np.random.Generator, count: int) -> list[str]:
    """Draw functions of all roles that cost something worth asking about."""
    names = sorted(
        {
            name
            for trial in trials
            for costs in trial.values()
            for name, cost_ms in costs.frame_totals().items()
            if cost_ms >= 0.01 * costs.working_ms
        }
    )
    return [names[n] for n in rng.choice(len(names), size=count, replace=False)]


def real_change(
    good: Sequence[Trial], bad: Sequence[Trial], repeats: int, rng: np.random.Generator, sides: Sequence[int]
) -> None:
    """Compare random trials of the two real revisions."""
    print(f"| good against bad, trials a side | {CULPRIT} marked | named as what grew in rank-0 |\n|---|---|---|")
    for side in sides:
        print(f"| {side} | {finds_culprit(good, bad, repeats, rng, side=side)} |", flush=True)


def lower_rates(
    good: Sequence[Trial], bad: Sequence[Trial], repeats: int, rng: np.random.Generator, sides: Sequence[int]
) -> None:
    """Compare random trials of the two real revisions, sampled less often than they were."""
    print(f"| sampling rate | good against bad, trials a side | {CULPRIT} marked | named as what grew in rank-0 |")
    print("|---|---|---|---|")
    for kept in (1.0, 0.5, 0.25, 0.1):
        for side in sides:
            cells = finds_culprit(good, bad, repeats, rng, side=side, kept=kept)
            print(f"| {RATE_HZ * kept:.0f} Hz | {side} | {cells} |", flush=True)


def finds_culprit(
    good: Sequence[Trial], bad: Sequence[Trial], repeats: int, rng: np.random.Generator, *, side: int, kept: float = 1.0
) -> str:
    """Tell in how many diffs of random real trials the culprit is marked, and named as what grew."""
    found = named = 0
    for _ in range(repeats):
        before = [thinned(good[n], kept, rng) for n in rng.permutation(len(good))[:side]]
        after = [thinned(bad[n], kept, rng) for n in rng.permutation(len(bad))[:side]]
        frames = [each.frame for each in compare_profiles(before, after, confidence=0.95)]
        found += any(each.significant and each.frame.startswith(CULPRIT) and each.role == ROLE for each in frames)
        top = top_grown(frames, role=ROLE)
        named += top is not None and top.frame.startswith(CULPRIT)
    return f"{found / repeats:.1%} | {named / repeats:.1%}"


def thinned(trial: Trial, kept: float, rng: np.random.Generator) -> Trial:
    """Keep a share of a trial's samples; its CPU, which the kernel counts, stays."""
    if kept == 1.0:
        return trial
    roles = {}
    for role, costs in trial.items():
        counts = {
            frames: int(rng.binomial(round(cost_ms / costs.sample_ms), kept))
            for frames, cost_ms in costs.working.items()
        }
        grain = costs.working_ms / max(1, sum(counts.values()))
        roles[role] = replace(
            costs,
            samples=max(1, round(costs.samples * kept)),
            working={frames: count * grain for frames, count in counts.items() if count},
        )
    return roles


def marks(before: Sequence[Trial], after: Sequence[Trial], changed: Collection[str] = ()) -> int:
    """Return how many functions a diff marks."""
    changes = compare_profiles(before, after, confidence=0.95, changed=changed)
    return sum(each.frame.significant for each in changes)


def show(label: str, marked: Sequence[int]) -> None:
    """Print one row about diffs that should mark nothing."""
    print(f"| {label} | {sum(m > 0 for m in marked) / len(marked):.1%} | {sum(marked)} | {len(marked)} |", flush=True)


class Simulator:
    """Draws trials like the real ones: their mean costs, their samples, and noise on top."""

    def __init__(self, trials: Sequence[Trial], noise: Noise, rng: np.random.Generator) -> None:
        self._rng = rng
        self._trial_noise, self._function_noise = noise.trial, noise.function
        real = [trial[ROLE] for trial in trials]
        real_samples = sum(costs.working_ms / costs.sample_ms for costs in real) / len(real)
        finer = noise.samples / real_samples if noise.samples else 1.0
        self._roles: dict[str, tuple[list[tuple[Frame, ...]], np.ndarray, float]] = {}
        self._groups: dict[str, np.ndarray] = {}
        for role in trials[0]:
            means: dict[tuple[Frame, ...], float] = {}
            having = [trial[role] for trial in trials if role in trial]
            for costs in having:
                for frames, cost_ms in costs.working.items():
                    means[frames] = means.get(frames, 0.0) + cost_ms / len(having)
            sample_ms = sum(costs.sample_ms for costs in having) / len(having) / finer
            self._roles[role] = (list(means), np.array(list(means.values())), sample_ms)
            # A function's noise moves all stacks that end in it together.
            names: dict[str, int] = {}
            self._groups[role] = np.array([names.setdefault(function_key(frames[-1]), len(names)) for frames in means])
        stacks, costs_ms, _ = self._roles[ROLE]
        self._under = stacks[int(np.argmax(costs_ms))]

    def is_caller(self, frame: str, role: str) -> bool:
        """Tell whether a function is the planted one, or above it."""
        return role == ROLE and frame in {function_key(each) for each in (*self._under, PLANTED)}

    def trial(self, *, planted: float = 0.0) -> Trial:
        """Draw one trial; `planted` is what the planted function costs, as a share of the role's CPU without it."""
        factor = self._rng.lognormal(0.0, self._trial_noise)
        return {role: self._draw(role, factor, planted if role == ROLE else 0.0) for role in self._roles}

    def _draw(self, role: str, factor: float, planted: float) -> StackCosts:
        stacks, means, sample_ms = self._roles[role]
        groups = self._groups[role]
        own = self._rng.lognormal(0.0, self._function_noise, size=int(groups.max()) + 1)[groups]
        true_ms = means * own * factor
        if planted:
            added = planted * means.sum() * factor * self._rng.lognormal(0.0, self._function_noise)
            stacks, true_ms = [*stacks, (*self._under, PLANTED)], np.append(true_ms, added)
        counts = self._rng.poisson(true_ms / sample_ms)
        total = max(1, int(counts.sum()))
        # The kernel counts a thread's CPU exactly; samples only split it.
        grain = float(true_ms.sum()) / total
        working = {stacks[n]: float(counts[n]) * grain for n in np.flatnonzero(counts)}
        return StackCosts(role=role, requests=1, samples=total, working=working, polling={}, unsampled_ms=0.0)


def read_trials() -> tuple[list[Trial], list[Trial]]:
    """Return the real trials of both revisions."""
    document = json.loads(gzip.decompress(TRIALS.read_bytes()))
    frames = [Frame(function=function, file=file, line=line) for function, file, line in document["frames"]]

    def trial(roles: Mapping[str, dict]) -> Trial:
        return {
            role: StackCosts(
                role=role,
                requests=1,
                samples=costs["samples"],
                working={tuple(frames[n] for n in stack): cost_ms for stack, cost_ms in costs["working"]},
                polling={(Frame(function="poll", file="", line=0),): costs["polling_ms"]},
                unsampled_ms=0.0,
            )
            for role, costs in roles.items()
        }

    return [trial(each) for each in document["good"]], [trial(each) for each in document["bad"]]


if __name__ == "__main__":
    main()
