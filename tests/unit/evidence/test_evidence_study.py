"""What a study's trials say, of worlds whose costs are known."""

import dataclasses

import pytest
from made_studies import crossing_cost, make_spec, make_trials

from perfguard.evidence.claims import judge_claims
from perfguard.evidence.study import break_even, judge_cells, paired_effect, recommend_threshold
from perfguard.model.claim import Claim, ClaimDirection, ClaimMetric, ClaimVerdict
from perfguard.model.result import Effect
from perfguard.model.scenario import Strategy
from perfguard.model.study import Crossing, StudyTarget
from perfguard.workflows.study_plan import plan_study

LOCAL, BROADCAST, SHARED = Strategy.LOCAL, Strategy.BROADCAST, Strategy.SHARED_MEMORY


def judged(trials):
    return judge_cells(trials, baseline=LOCAL, confidence=0.95, min_effect_frac=0.05)


@pytest.fixture(scope="module")
def spec():
    return make_spec()


@pytest.fixture(scope="module")
def trials(spec):
    return make_trials(spec, crossing_cost(1e6))


@pytest.fixture(scope="module")
def cells(trials):
    return judged(trials)


def test_the_cheapest_strategy_wins_every_cell_and_its_margin_holds_the_truth(cells, spec):
    assert len(cells) == len(spec.cells(2)) + len(spec.cells(4))
    for cell in cells:
        assert cell.leaders == (SHARED,)
        to_best = {arm.strategy: arm.to_best for arm in cell.arms}
        assert to_best[SHARED] is None
        assert to_best[LOCAL].low <= 1 / 0.4 <= to_best[LOCAL].high
        assert (to_best[LOCAL].pairs, to_best[LOCAL].starts) == (4, 2)
    assert [cell.cell.ranks for cell in cells] == sorted(cell.cell.ranks for cell in cells)


def test_what_is_delivered_is_set_against_one_copy_and_one_hash_of_the_same_trials():
    spec = make_spec(ranks=(2,), concurrency=(1, 8))
    for cell in judged(make_trials(spec, crossing_cost(1e6), noise=1e-4)):
        limit = cell.payload_bytes / 1e7 + cell.payload_bytes / 5e6
        assert cell.memcpy_ms + cell.sha256_ms == pytest.approx(limit)
        for arm in cell.arms:
            if cell.cell.concurrency == 8:
                assert arm.to_limit is None
            else:
                # The world drifts by 30%, which the limits do not: the ratio is of each trial's own values.
                assert arm.to_limit.ratio == pytest.approx(0.9 * arm.mean_ms / limit, rel=0.05)
                assert arm.to_limit.low <= arm.to_limit.ratio <= arm.to_limit.high


def test_equal_strategies_tie():
    spec = make_spec(ranks=(2,), concurrency=(1,))
    cells = judged(make_trials(spec, lambda strategy, _: 3.0 if strategy is BROADCAST else 1.0))
    for cell in cells:
        assert set(cell.leaders) == {LOCAL, SHARED}


def test_a_clear_difference_under_the_smallest_worth_naming_is_a_tie():
    spec = make_spec(ranks=(2,), concurrency=(1,), strategies=(LOCAL, SHARED))
    cells = judged(make_trials(spec, lambda strategy, _: 1.02 if strategy is LOCAL else 1.0, noise=1e-4))
    assert {len(cell.leaders) for cell in cells} == {2}


def test_an_untestable_strategy_does_not_win_and_says_why():
    spec = make_spec(ranks=(2,), concurrency=(1,))
    for cell in judged(make_trials(spec, crossing_cost(1e6), untestable=(SHARED,))):
        last = cell.arms[-1]
        assert SHARED not in cell.leaders
        assert (last.strategy, last.mean_ms, last.trials) == (SHARED, None, 0)
        assert last.untestable_reason == "ImportError: broken"


def test_nothing_measured_has_no_leader():
    spec = make_spec(ranks=(2,), concurrency=(1,))
    cells = judged(make_trials(spec, crossing_cost(1e6), untestable=tuple(spec.strategies)))
    assert {cell.leaders for cell in cells} == {()}
    assert recommend_threshold((), cells, confidence=0.95).is_told is False


@pytest.mark.parametrize("ranks", [2, 4, None])
def test_the_break_even_size_is_found_per_rank_count(trials, ranks):
    found = break_even(trials, baseline=LOCAL, candidate=BROADCAST, confidence=0.95, ranks=ranks)
    assert found.crossing is Crossing.FROM_SIZE
    assert found.size_bytes == pytest.approx(1e6, rel=0.15)
    assert found.low_bytes <= found.size_bytes <= found.high_bytes
    assert found.blocks == (8 if ranks is None else 4)


def test_a_threshold_is_recommended_with_its_interval(trials, cells):
    threshold = recommend_threshold(trials, cells, confidence=0.95)
    assert threshold.is_told
    assert threshold.sentence.startswith("shared-memory is fastest")
    assert "Between local and broadcast alone: set SGLANG_MM_BROADCAST_THRESHOLD=" in threshold.sentence
    assert [each.ranks for each in threshold.by_ranks] == [2, 4]


@pytest.mark.parametrize(("crossing_bytes", "faster"), [(1e12, "local"), (1.0, "broadcast")])
def test_no_threshold_helps_where_one_way_wins_everywhere(spec, crossing_bytes, faster):
    made = make_trials(spec, crossing_cost(crossing_bytes))
    threshold = recommend_threshold(made, (), confidence=0.95)
    assert threshold.sentence.startswith(f"No threshold helps: {faster} is faster")
    assert threshold.is_told


@pytest.mark.parametrize("seed", range(8))
def test_blocks_that_disagree_leave_the_threshold_untold(seed):
    spec = make_spec(ranks=(2,), concurrency=(1,), strategies=(LOCAL, BROADCAST), starts=1, blocks_per_start=3)
    # Broadcast is slower by less than blocks differ: some of them say otherwise.
    made = make_trials(spec, lambda strategy, _: 1.1 if strategy is BROADCAST else 1.0, noise=0.3, seed=seed)
    threshold = recommend_threshold(made, (), confidence=0.95)
    assert threshold.is_told is False
    assert threshold.sentence.startswith("No threshold can be told: ")


def test_an_effect_is_taken_inside_blocks_and_counts_starts(trials):
    effect = paired_effect(trials, SHARED, LOCAL, confidence=0.95)
    assert effect.low <= 0.4 <= effect.high
    assert effect.starts == 4


def claim(**fields):
    return Claim(**{"text": "t", "source": "s", "claimed": "c", "strategy": BROADCAST, "baseline": LOCAL, **fields})


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"media": "56x56", "direction": ClaimDirection.MORE}, ClaimVerdict.AS_CLAIMED),
        ({"media": "56x56", "direction": ClaimDirection.LESS}, ClaimVerdict.CONTRADICTED),
        ({"media": "56x56", "ratio": 40.0}, ClaimVerdict.SAME_DIRECTION),
        ({"media": "56x56", "ratio": (75264 / 1e6) ** -0.3}, ClaimVerdict.AS_CLAIMED),
        ({"media": "56x56", "ratio": 0.2}, ClaimVerdict.CONTRADICTED),
        ({"payload_bytes": 1e7, "direction": ClaimDirection.LESS}, ClaimVerdict.AS_CLAIMED),
        ({"payload_bytes": 1e3, "direction": ClaimDirection.LESS}, ClaimVerdict.NOT_MEASURED),
        ({"media": "nothing", "direction": ClaimDirection.LESS}, ClaimVerdict.NOT_MEASURED),
        ({"target": "sglang-server", "direction": ClaimDirection.LESS}, ClaimVerdict.NOT_MEASURED),
        ({"metric": ClaimMetric.BUSY, "ratio": 2.0}, ClaimVerdict.NOT_MEASURED),
        ({"media": "56x56", "baseline": BROADCAST, "ratio": 3.0}, ClaimVerdict.CANNOT_TELL),
        ({"strategy": None}, ClaimVerdict.NOT_MEASURED),
        ({"baseline": None, "media": "56x56"}, ClaimVerdict.BESIDE),
    ],
)
def test_every_claim_is_computed_from_the_trials(trials, fields, verdict):
    (row,) = judge_claims((claim(**fields),), trials, target=StudyTarget.TRANSPORT, confidence=0.95)
    assert row.verdict is verdict
    assert bool(row.measured) == (verdict is not ClaimVerdict.NOT_MEASURED)


def test_the_measured_side_of_a_claim_follows_the_data(trials, spec):
    video = claim(media="video 8f 448x252", concurrency=8, ranks=4, direction=ClaimDirection.LESS)
    (row,) = judge_claims((video,), trials, target=StudyTarget.TRANSPORT, confidence=0.95)
    expected = (spec.medium("video 8f 448x252").payload_bytes / 1e6) ** -0.3
    assert float(row.measured.split("x")[0]) == pytest.approx(expected, rel=0.05)
    assert "video 8f 448x252 at concurrency 8 on 4 ranks, 4 pairs" in row.how
    slower = [
        dataclasses.replace(each, measured=dataclasses.replace(each.measured, ms_per_request=1e3))
        if each.strategy is BROADCAST
        else each
        for each in trials
    ]
    (row,) = judge_claims((video,), slower, target=StudyTarget.TRANSPORT, confidence=0.95)
    assert row.verdict is ClaimVerdict.CONTRADICTED


@pytest.mark.parametrize(
    ("metric", "fields", "verdict"),
    [
        ("throughput_rps", {"direction": ClaimDirection.LESS}, ClaimVerdict.AS_CLAIMED),
        ("throughput_rps", {"ratio": 0.25}, ClaimVerdict.SAME_DIRECTION),
        ("throughput_rps", {"direction": ClaimDirection.MORE}, ClaimVerdict.CONTRADICTED),
        ("e2e_p99_ms", {"ratio": 10.0}, ClaimVerdict.NOT_MEASURED),
    ],
)
def test_a_claim_about_the_whole_server_takes_the_effect_that_is_put_beside(metric, fields, verdict):
    effect = Effect(metric="throughput_rps", ratio=0.86, low=0.79, high=0.93, confidence=0.95, pairs=14, starts=3)
    about = claim(strategy=None, baseline=None, user_metric=metric, **fields)
    (row,) = judge_claims((about,), (), target=StudyTarget.TRANSPORT, confidence=0.95, beside=(effect,))
    assert row.verdict is verdict
    assert row.measured == ("" if verdict is ClaimVerdict.NOT_MEASURED else "0.86x (0.79 to 0.93)")


def test_a_plan_holds_every_cell_and_strategy_once_a_block_in_an_order_of_its_seed(spec):
    planned = plan_study(spec, seed=3)
    assert planned == plan_study(spec, seed=3)
    assert planned != plan_study(spec, seed=4)
    assert [each.number for each in planned] == list(range(1, len(planned) + 1))
    for block in range(1, 9):
        own = [each for each in planned if each.block == block]
        (ranks,) = {each.cell.ranks for each in own}
        assert len(own) == len({(each.cell, each.strategy) for each in own}) == 3 * len(spec.cells(ranks))
        # The strategies of a cell follow each other.
        assert all(len({each.cell for each in own[first : first + 3]}) == 1 for first in range(0, len(own), 3))
