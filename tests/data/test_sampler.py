from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations, islice

import numpy as np
import pytest

from fusion3d.data.candidates import Candidates, find_candidates
from fusion3d.data.sampler import MOST_OFTEN, BalancedDraw, ChipSampler
from fusion3d.errors import ConfigError
from tests.data.test_candidates import SIZE, candidates

PAIRS = [("als", "gedi"), ("als", "ortho"), ("als", "s2"), ("ortho", "s2")]


def everywhere(rows: int = 32, sensors: int = 4) -> list[Candidates]:
    """Chips of a scene in which all sensors see everything."""
    names = ("als", "ortho", "s1", "s2", "thermal")[:sensors]
    seen = [{name: np.ones((rows, rows), bool) for name in names}]
    return find_candidates(seen, [np.ones((rows, rows), bool)], SIZE)


def value(pair: tuple[str, str], row: int, col: int) -> float:
    """Any function of a pair and a chip stands for the loss."""
    return 1 + PAIRS.index(pair) + 0.02 * (row - col) * len(pair[0]) if pair in PAIRS else len(pair[1]) + 0.05 * row + 0.1 * col


def mean_over_chips(item: Candidates) -> float:
    """Expected value of a chip of a pair: places are alike, and so are the chips of a place."""
    values = np.array([value(item.pair, row, col) for row, col in item.origin])
    return float(np.mean([values[item.place == place].mean() for place in np.unique(item.place)]))


def estimates(sampler: ChipSampler, count: int) -> np.ndarray:
    found = []
    for number in range(count):
        batch = sampler.batch(number)
        found.append(sum(d.weight * np.mean([value(d.pair, c.row, c.col) for c in batch]) for d in batch[0].drawn))
    return np.array(found)


def within_error(values: np.ndarray, expected: float) -> bool:
    return abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))


@pytest.mark.parametrize("weights", [None, {"gedi-als": 3.0, "als-s2": 0.5}])
def test_one_pair_a_batch_expects_the_sum_over_all_pairs_each_on_the_chips_where_it_meets(weights):
    values = estimates(ChipSampler(candidates(), 2, pairs=1, pair_weights=weights), 1200)
    expected = sum(mean_over_chips(item) for item in candidates())
    assert within_error(values, expected)
    assert values.std() / np.sqrt(len(values)) < 0.04 * expected  # or the test could not fail


@pytest.mark.parametrize("pairs", [1, 2, 5, 6, 9])
def test_expected_sum_is_the_same_for_any_number_of_pairs_where_all_meet_everywhere(pairs):
    values = estimates(ChipSampler(everywhere(), 2, pairs=pairs), 600)
    expected = sum(mean_over_chips(item) for item in everywhere())
    assert within_error(values, expected)
    assert values.std() / np.sqrt(len(values)) < 0.03 * expected


def test_as_many_pairs_as_there_are_makes_every_batch_the_exact_sum():
    sampler = ChipSampler(candidates(), 4, pairs=4)
    for number in range(5):
        drawn = sampler.batch(number)[0].drawn
        assert {item.pair: item.weight for item in drawn} == dict.fromkeys(PAIRS, 1.0)


def test_chips_lie_where_the_drawn_pairs_meet_and_only_their_sensors_are_read():
    where = {item.pair: {tuple(origin) for origin in item.origin.tolist()} for item in candidates()}
    sampler = ChipSampler(candidates(), 3, pairs=1)
    drawn_pairs = set()
    for number in range(40):
        batch = sampler.batch(number)
        (drawn,) = batch[0].drawn
        assert all(chip.drawn == (drawn,) and chip.sensors == drawn.pair for chip in batch)
        assert all((chip.row, chip.col) in where[drawn.pair] for chip in batch)
        drawn_pairs.add(drawn.pair)
    assert drawn_pairs == set(PAIRS)


def test_drawn_pairs_take_turns_in_the_chips_of_a_batch():
    """gedi and s2 lie in opposite corners: with both drawn, half of the chips are from each."""
    apart = [item for item in candidates() if item.pair in (("als", "gedi"), ("ortho", "s2"))]
    sampler = ChipSampler(apart, 4, pairs=2)
    firsts = Counter()
    for number in range(60):
        south_east = [chip.row >= 30 for chip in sampler.batch(number)]
        assert sum(south_east) == 2
        firsts[south_east[0]] += 1
    assert 15 < firsts[True] < 45


def test_all_sensors_are_read_when_pairs_are_left_to_the_model():
    batch = ChipSampler(candidates(), 4).batch(0)
    assert [(chip.drawn, chip.sensors) for chip in batch] == [(None, None)] * 4
    # Each of the four pairs has its turn; only (als, gedi) lies in the south-east.
    assert sum(min(chip.row, chip.col) >= 30 for chip in batch) == 1


def test_a_single_sensor_needs_no_pairs():
    alone = find_candidates([{"als": np.ones((8, 8), bool)}], [np.ones((8, 8), bool)], SIZE)
    assert ChipSampler(alone, 2, pairs=1).batch(0)[0].drawn is None


def test_batch_depends_on_seed_and_number_alone():
    first, again, other = (ChipSampler(candidates(), 3, seed=seed, pairs=1) for seed in (5, 5, 6))
    assert [first.batch(i) for i in (7, 0, 3)] == [again.batch(i) for i in (7, 0, 3)]
    assert [first.batch(i) for i in range(20)] != [other.batch(i) for i in range(20)]
    assert len({chip.seed for i in range(50) for chip in first.batch(i)}) == 150


def test_iteration_goes_on_where_it_is_told_to_start():
    whole = list(islice(ChipSampler(candidates(), 3, seed=5, pairs=2), 10))
    resumed = list(islice(ChipSampler(candidates(), 3, seed=5, pairs=2, start=lambda: 6), 4))
    assert resumed == whole[6:]


def test_processes_of_one_run_share_pairs_and_no_column():
    for number in range(10):
        whole = ChipSampler(everywhere(), 4, pairs=1, size=SIZE).batch(number)
        parts = [ChipSampler(everywhere(), 2, pairs=1, size=SIZE, rank=rank, ranks=2).batch(number) for rank in (0, 1)]
        assert parts[0] + parts[1] == whole
        for first, second in combinations(whole, 2):
            assert max(abs(first.row - second.row), abs(first.col - second.col)) >= SIZE


def test_chips_of_different_stores_do_not_keep_apart():
    seen = [{name: np.ones((SIZE, SIZE), bool) for name in ("als", "s2")}] * 3
    found = find_candidates(seen, [np.ones((SIZE, SIZE), bool)] * 3, SIZE)
    batches = [ChipSampler(found, 3, pairs=1, size=SIZE).batch(number) for number in range(20)]
    assert sum(sorted(chip.store for chip in batch) == [0, 1, 2] for batch in batches) >= 18


def test_batch_larger_than_the_scene_is_filled_with_chips_that_overlap():
    assert len(ChipSampler(everywhere(rows=SIZE), 5, size=SIZE).batch(0)) == 5


def test_pairs_are_drawn_alike_however_rare():
    sampler = ChipSampler(candidates(), 1, pairs=1)
    # Only chips of the pair (als, gedi) lie in the south-east.
    drawn = Counter(min(chip.row, chip.col) >= 30 for number in range(800) for chip in sampler.batch(number))
    assert drawn[True] / 800 == pytest.approx(0.25, abs=0.06)


def rates(item: Candidates, draws: int = 6000) -> np.ndarray:
    balance, generator = BalancedDraw(item), np.random.default_rng(0)
    return np.bincount([balance.draw(generator) for _ in range(draws)], minlength=len(item)) / draws


def classed(sizes: list[int], places: int = 4) -> Candidates:
    """Chips of classes 0, 1, ... with so many chips each, in turn from different places."""
    count = sum(sizes)
    classes = np.repeat(np.arange(len(sizes)), sizes)
    return Candidates(
        ("als", "s2"), np.zeros(count, np.int64), np.zeros((count, 2), np.int64), np.arange(count) % places, classes[:, None]
    )


def test_strata_are_drawn_alike():
    item = classed([200, 60, 40])
    by_class = np.bincount(item.strata[:, 0], rates(item))
    assert by_class == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_stratum_of_few_chips_is_not_drawn_more_than_so_often():
    item = classed([297, 3])
    by_class = np.bincount(item.strata[:, 0], rates(item))
    assert by_class[1] == pytest.approx(MOST_OFTEN * 0.01, abs=0.015)


def test_places_of_a_stratum_are_drawn_alike():
    item = replace(classed([200, 200]), place=np.repeat([0, 1, 1, 2], [100, 100, 190, 10]))
    by_place = np.bincount(item.place, rates(item))
    # Class 0 has places 0 and 1, class 1 has places 1 and 2.
    assert by_place == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_every_stratification_has_its_share():
    """One kind sets 60 of 300 chips apart, the other 60 others: each kind gives its smaller class half of its half."""
    kinds = np.zeros((300, 3), np.int64)
    kinds[:60, 0], kinds[-60:, 1] = 1, -1
    item = replace(classed([300]), strata=kinds)  # a third kind knows no difference and takes no share
    found = rates(item)
    first, last, rest = found[:60].sum(), found[-60:].sum(), found[60:-60].sum()
    # 0.5 x 0.5 + 0.5 x (0.5 x 60 / 240) each.
    assert (first, last, rest) == pytest.approx((0.3125, 0.3125, 0.375), abs=0.03)


def test_without_strata_all_chips_of_a_place_are_drawn_alike():
    item = replace(classed([300]), strata=np.zeros((0, 0), np.int64))
    assert rates(item).max() < 5 / 300


def test_sampler_without_candidates_is_refused():
    with pytest.raises(ConfigError, match="no two sensors"):
        ChipSampler([], 4)
