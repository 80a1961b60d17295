"""How often the rules fire on few trials: where the revisions differ, and where they are equal.

It judges trials that earlier runs left in their stores, each with its profiles, beside the sources that they ran. Of
each pair of groups it draws some trials a side at random, over and over, and counts which rules fired; of each group
alone it draws two halves (A/A), and counts the diffs with any finding or any function marked.

    python benchmarks/evidence/rule_rates.py --python ENVIRONMENT/bin/python --trees WORKTREES \
        --group good=RUN_DIR:5eda81ebc --group bad=RUN_DIR:1cb7508fa --pair good:bad

A group is `NAME=RUN_DIR:COMMIT[,COMMIT...]`, commits by any prefix; a worktree is `WORKTREES/COMMIT`, and several
folders of worktrees may be given.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from perfguard.evidence.diff import diff_profiles
from perfguard.evidence.rules import RuleConfig, judge
from perfguard.evidence.stacks import merge, parse_folded
from perfguard.evidence.trial import TrialEvidence, trial_evidence
from perfguard.model.trial import Completed
from perfguard.store import RunStore
from perfguard.targets.sglang_launch import find_source_root
from perfguard.workflows.call_rules import packaged_call_rules
from perfguard.workflows.sources import TreeSources


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--trees", type=Path, action="append", required=True)
    parser.add_argument("--group", action="append", required=True)
    parser.add_argument("--pair", action="append", default=[])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--confidence", type=float, default=RuleConfig().confidence)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    config = RuleConfig(confidence=options.confidence)
    rng = np.random.default_rng(options.seed)
    groups = dict(read_group(text, options.python, options.trees) for text in options.group)
    print("| revisions | trials a side | draws | fired |\n|---|---|---|---|")
    for pair in options.pair:
        good, bad = (groups[name] for name in pair.split(":"))
        for side in range(2, min(5, len(good), len(bad)) + 1):
            fired: Counter[str] = Counter()
            for _ in range(options.repeats):
                before, after = draw(rng, good, side), draw(rng, bad, side)
                fired.update(f"{each.rule} ({each.role})" for each in judge(before, after, config) if each.fired)
            said = ", ".join(f"{rule} {count / options.repeats:.0%}" for rule, count in sorted(fired.items()))
            print(f"| {pair} | {side} | {options.repeats} | {said or 'none'} |", flush=True)
    print(
        "\n| A/A of | trials a side | distinct draws | any finding | any function | either |\n|---|---|---|---|---|---|"
    )
    for name, trials in groups.items():
        for side in range(2, min(5, len(trials) // 2) + 1):
            marked = list(equal_halves(rng, trials, side, options.repeats, config))
            shares = " | ".join(f"{np.mean([row[n] for row in marked]):.1%}" for n in range(3))
            print(f"| {name} | {side} | {len(marked)} | {shares} |", flush=True)


def equal_halves(
    rng: np.random.Generator, trials: Sequence[TrialEvidence], side: int, repeats: int, config: RuleConfig
) -> list[tuple[bool, bool, bool]]:
    """Draw distinct halves and tell of each: whether a rule fired, whether a function was marked, and either."""
    seen: dict[tuple[frozenset[int], frozenset[int]], tuple[bool, bool, bool]] = {}
    for _ in range(repeats):
        order = [int(n) for n in rng.permutation(len(trials))[: 2 * side]]
        key = (frozenset(order[:side]), frozenset(order[side:]))
        if key not in seen:
            before, after = ([trials[n] for n in half] for half in (order[:side], order[side:]))
            fired = any(each.fired for each in judge(before, after, config))
            frames = diff_profiles([t.costs for t in before], [t.costs for t in after], confidence=0.95)
            marked = any(frame.significant for frame in frames)
            seen[key] = (fired, marked, fired or marked)
    return list(seen.values())


def draw(rng: np.random.Generator, trials: Sequence[TrialEvidence], side: int) -> list[TrialEvidence]:
    """Draw some trials without putting any back."""
    return [trials[int(n)] for n in rng.permutation(len(trials))[:side]]


def read_group(text: str, python: Path, trees: Sequence[Path]) -> tuple[str, list[TrialEvidence]]:
    """Read the profiled trials of `NAME=RUN_DIR:COMMIT,...`."""
    name, _, rest = text.partition("=")
    run_dir, _, commits = rest.rpartition(":")
    packages = next((python.parent.parent / "lib").glob("python3*/site-packages"))
    library = python.resolve().parent.parent / "lib" / packages.parent.name
    found = []
    with RunStore.open(Path(run_dir)) as store:
        for trial in store.trials():
            wanted = trial.revision.startswith(tuple(commits.split(",")))
            if not wanted or not isinstance(trial.outcome, Completed) or not trial.outcome.samples.profiles:
                continue
            tree = next(folder / trial.revision for folder in trees if (folder / trial.revision).is_dir())
            tree = tree / "tree" if (tree / "tree").is_dir() else tree
            roots = [find_source_root(tree), packages, packages.parent, library]
            stacks: dict[str, tuple] = {}
            for profile in trial.outcome.samples.profiles:
                text = store.get_artifact(profile.artifact).decode("utf-8", errors="replace")
                parsed = parse_folded(text, strip_prefixes=tuple(f"{root}/" for root in roots))
                stacks[profile.role] = merge(stacks.get(profile.role, ()), parsed)
            found.append(trial_evidence(trial.outcome.samples, stacks, TreeSources(roots), packaged_call_rules()))
    return name, found


if __name__ == "__main__":
    main()
