"""How much of a loss is taken back: the estimate, its coverage, and when nothing can be said."""

import numpy as np
import pytest

from perfguard.stats.recovery import recoveries

NAN = float("nan")


def recovery(*arms, confidence=0.95):
    """Judge arms given as columns; the first two are good and bad."""
    found = recoveries(np.array(arms, dtype=float).T, confidence=confidence)
    return found[0] if len(found) == 1 else found


def simulated(rng, *, lost, fracs, rounds, noise):
    """Give good, bad and arms: logs where larger is worse, with what each block shares."""
    block = 0.1 * rng.standard_normal(rounds)
    levels = (0.0, lost, *(lost * (1.0 - frac) for frac in fracs))
    return [block + at + noise * rng.standard_normal(rounds) for at in levels]


def test_without_noise_it_is_exact():
    found = recovery([0.0, 1.0], [0.2, 1.2], [0.05, 1.05])
    assert (found.frac, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75))


@pytest.mark.parametrize(("rounds", "others", "gaps"), [(2, 0, 0), (3, 0, 0), (3, 4, 0), (4, 2, 3)])
@pytest.mark.parametrize("frac", [0.0, 0.5, 1.0])
def test_the_interval_covers_as_often_as_it_says(rounds, others, gaps, frac):
    rng = np.random.default_rng(17)
    runs = 1000
    held = bounded = 0
    for _ in range(runs):
        fracs = [frac] + [0.3] * others
        table = np.array(simulated(rng, lost=0.2, fracs=fracs, rounds=rounds, noise=0.02)).T
        table.reshape(-1)[rng.choice(table.size, gaps, replace=False)] = NAN
        found = recoveries(table, confidence=0.9)[0]
        if found is None or found.low is None:
            held += 1  # an unbounded set: it leaves nothing out that matters
            continue
        bounded += 1
        held += found.low <= frac <= found.high
    # Fieller's set is exact: 0.90 within five standard errors of 1,000 runs.
    assert 0.852 < held / runs < 0.948
    assert bounded > 0.5 * runs


def test_other_arms_narrow_the_interval_since_they_tell_of_the_noise():
    rng = np.random.default_rng(3)
    alone, beside = [], []
    for _ in range(100):
        table = np.array(simulated(rng, lost=0.2, fracs=[1.0, 0.5, 0.2, 0.0, 0.8], rounds=3, noise=0.03)).T
        for widths, arms in ((alone, 3), (beside, 7)):
            found = recoveries(table[:, :arms], confidence=0.95)[0]
            widths.append(np.inf if found.low is None else found.high - found.low)
    # What differs most is how often too few values happen to lie far apart, or close together.
    assert np.quantile(beside, 0.9) < 0.75 * np.quantile(alone, 0.9)


def test_a_block_without_one_arm_still_tells_of_the_others():
    whole = recovery([0.0, 1.0, 2.0], [0.2, 1.21, 2.19], [0.1, 1.11, NAN], [0.0, 1.02, 2.0])
    assert whole[0].frac == pytest.approx(0.5, abs=0.05)
    assert whole[1].frac == pytest.approx(1.0, abs=0.1)
    assert None not in (whole[0].low, whole[1].low)
    # Good and bad never ran together, but both ran beside the arm.
    assert recovery([0.0, NAN], [NAN, 1.2], [0.1, 1.1]).frac == pytest.approx(0.5)


def test_what_nothing_connects_is_not_told():
    assert recovery([0.0, NAN], [0.2, NAN], [NAN, 1.0]) is None
    assert recovery([0.0, 0.0], [0.2, 0.2], [NAN, NAN]) is None
    assert recovery([], [], []) is None


def test_where_good_and_bad_are_alike_nothing_is_bounded():
    found = recovery([0.0, 0.02, -0.01], [0.02, 0.0, 0.01], [0.0, 0.01, 0.02])
    assert (found.low, found.high) == (None, None)
    assert recovery([0.0], [0.0], [-0.1]) is None


def test_where_bad_measured_better_than_good_nothing_is_bounded():
    found = recovery([0.2, 0.21], [0.0, 0.0], [0.1, 0.1])
    assert (found.low, found.high) == (None, None)


def test_one_block_gives_no_interval():
    found = recovery([0.0], [0.2], [0.1])
    assert found.frac == pytest.approx(0.5)
    assert (found.low, found.high) == (None, None)


def test_values_that_are_infinite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        recovery([0.0], [float("inf")], [0.1])
