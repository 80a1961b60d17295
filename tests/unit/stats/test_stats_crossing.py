"""Where two cost curves cross: known crossings are found, and the interval holds them."""

import math

import numpy as np
import pytest

from perfguard.stats.crossing import crossing, estimate_crossing

SIZES = np.log(np.array([1e4, 1e5, 1e6, 1e7]))


def test_a_crossing_lies_where_the_line_between_two_sizes_is_zero():
    assert crossing(SIZES, np.array([0.4, 0.2, -0.2, -0.4])) == pytest.approx(math.log(10**5.5))
    assert crossing(SIZES, np.array([0.4, 0.1, -0.3, -0.4])) == pytest.approx(math.log(10**5.25))


def test_a_candidate_that_always_wins_or_never_wins_has_no_size():
    assert crossing(SIZES, np.array([-0.1, -0.1, -0.1, -0.1])) == -math.inf
    assert crossing(SIZES, np.array([0.1, 0.1, 0.1, 0.1])) == math.inf
    assert crossing(SIZES, np.zeros(4)) == math.inf, "what gains nothing is not taken"


def test_one_size_out_of_line_does_not_move_the_cut_when_the_rest_outweighs_it():
    # Slower again at one size in the middle: taking it from the second size on still costs least in all.
    assert SIZES[0] < crossing(SIZES, np.array([0.3, -0.5, 0.1, -0.5])) < SIZES[1]


def test_the_interval_holds_the_crossing_of_the_world():
    draw = np.random.default_rng(7)
    truth = math.log(10**5.5)
    slope = -0.3 / math.log(10)
    held = 0
    for seed in range(60):
        noisy = slope * (SIZES - truth) + draw.normal(0.0, 0.05, size=(8, 4))
        found = estimate_crossing(SIZES, noisy, confidence=0.95, seed=seed, resamples=400)
        held += found.low <= truth <= found.high
    # At 95% of them, under 47 of 60 has odds below one in a million.
    assert held >= 47


def test_a_single_block_tells_no_interval():
    found = estimate_crossing(SIZES, np.array([[0.4, 0.2, -0.2, -0.4]]), confidence=0.95)
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.log_size == pytest.approx(math.log(10**5.5))


def test_a_size_that_a_block_lacks_is_taken_from_the_others():
    table = np.array([[0.4, 0.2, -0.2, np.nan], [0.4, 0.2, -0.2, -0.4]])
    found = estimate_crossing(SIZES, table, confidence=0.95)
    assert found.log_size == pytest.approx(math.log(10**5.5))
    assert (found.nowhere_frac, found.everywhere_frac) == (0.0, 0.0)


def test_sizes_without_a_ratio_are_refused():
    with pytest.raises(ValueError, match="every size needs a ratio"):
        estimate_crossing(SIZES, np.full((2, 4), np.nan), confidence=0.95)
