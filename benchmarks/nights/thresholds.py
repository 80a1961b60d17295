"""How sure a night must be: duels of a simulated machine, alone and with a second one that confirms.

    python benchmarks/nights/thresholds.py 0.03    # the smallest effect; 150 duels of each true effect

A duel that does not end in "no change" is fought again on fresh starts, and the rounds of both are judged together at
several confidences. The noise is 2% between starts and 1% within.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
from collections import Counter
from dataclasses import replace

from perfguard.search import Duel, DuelConfig, DuelVerdict, Question, Side, answer
from perfguard.stats.starts import effect_posterior

START_SD, TRIAL_SD = 0.02, 0.01
DUELS = 150
CONFIDENCES = (0.95, 0.99, 0.999)
# Log slowdowns: none, a night of creep, and 5%.
EFFECTS = (0.0, 0.003, 0.0513)


def fight(effect: float, rng: random.Random, config: DuelConfig, seed: int) -> tuple[Duel, list[list[float]]]:
    """Fight a duel; gives it and its differences by pair of starts."""
    duel, start, luck = Duel(config, seed=seed), 0, dict.fromkeys(Side, 0.0)
    groups: list[list[float]] = []
    while (round_ := duel.next_round()) is not None:
        if round_.fresh:
            start += 1
            luck = {side: rng.gauss(0.0, START_SD) for side in Side}
            groups.append([])
        values = {}
        for side in round_.order:
            values[side] = luck[side] + rng.gauss(0.0, TRIAL_SD) + (effect if side is Side.CANDIDATE else 0.0)
            duel.record(side, start * 2 + (side is Side.CANDIDATE), values[side])
        groups[-1].append(values[Side.CANDIDATE] - values[Side.BASELINE])
    return duel, groups


def main() -> None:
    """Print what the duels say."""
    min_effect = math.log1p(float(sys.argv[1]))
    config = DuelConfig(question=Question.DIFFERENT, confidence=CONFIDENCES[0], min_effect=min_effect)
    for effect in EFFECTS:
        alone: Counter[str] = Counter()
        together = {confidence: Counter[str]() for confidence in CONFIDENCES}
        rounds, errors, stated = [], [], []
        for number in range(DUELS):
            rng = random.Random(100_000 + number)
            duel, groups = fight(effect, rng, config, number)
            result = duel.result()
            alone[result.verdict.value] += 1
            rounds.append(result.rounds)
            if result.posterior is not None:
                low, high = result.posterior.interval(0.95)
                errors.append(result.posterior.quantile(0.5))
                stated.append((high - low) / 3.92)
            if result.verdict is DuelVerdict.NO_CHANGE:
                continue
            both = effect_posterior([*groups, *fight(effect, rng, config, number + 7777)[1]])
            for confidence in CONFIDENCES:
                verdict, _ = answer(both, replace(config, confidence=confidence))
                together[confidence][verdict.value] += 1
        print(
            f"slowdown {math.expm1(effect):.2%}: alone {dict(alone)}, {statistics.fmean(rounds):.1f} rounds;", end=" "
        )
        print(f"stated sd {statistics.fmean(stated):.2%}, real {statistics.pstdev(errors):.2%}")
        for confidence, told in together.items():
            print(f"  those that were not clean, with a second duel, at {confidence}: {dict(told)}")


if __name__ == "__main__":
    main()
