"""How much of a loss is taken back: the estimate, its coverage, and when nothing can be said."""

import numpy as np
import pytest

from perfguard.stats.recovery import recovery


def simulated(rng, *, lost, frac, rounds, noise):
    """Give good, bad and arm: logs where larger is worse, with what each block shares."""
    block = 0.1 * rng.standard_normal(rounds)
    return [block + at + noise * rng.standard_normal(rounds) for at in (0.0, lost, lost * (1.0 - frac))]


def test_without_noise_it_is_exact():
    found = recovery([0.0, 1.0], [0.2, 1.2], [0.05, 1.05], confidence=0.95)
    assert (found.frac, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75))


@pytest.mark.parametrize("rounds", [2, 3])
@pytest.mark.parametrize("frac", [0.0, 0.5, 1.0])
def test_the_interval_covers_as_often_as_it_says(rounds, frac):
    rng = np.random.default_rng(17)
    runs = 2000
    held = bounded = 0
    for _ in range(runs):
        found = recovery(*simulated(rng, lost=0.2, frac=frac, rounds=rounds, noise=0.02), confidence=0.9)
        if found.low is None:
            held += 1  # an unbounded set: it leaves nothing out that matters
            continue
        bounded += 1
        held += found.low <= frac <= found.high
    # Fieller's set is exact: 0.90 within five standard errors of 2,000 runs.
    assert 0.866 < held / runs < 0.934
    assert bounded > 0.5 * runs


def test_where_good_and_bad_are_alike_nothing_is_bounded():
    found = recovery([0.0, 0.02, -0.01], [0.02, 0.0, 0.01], [0.0, 0.01, 0.02], confidence=0.95)
    assert (found.low, found.high) == (None, None)
    assert recovery([0.1], [0.1], [0.0], confidence=0.95) is None
    assert recovery([], [], [], confidence=0.95) is None


def test_where_bad_measured_better_than_good_nothing_is_bounded():
    found = recovery([0.2, 0.21], [0.0, 0.0], [0.1, 0.1], confidence=0.95)
    assert (found.low, found.high) == (None, None)


def test_one_block_gives_no_interval():
    found = recovery([0.0], [0.2], [0.1], confidence=0.95)
    assert found.frac == pytest.approx(0.5)
    assert (found.low, found.high) == (None, None)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        recovery([0.0], [float("nan")], [0.1], confidence=0.95)
