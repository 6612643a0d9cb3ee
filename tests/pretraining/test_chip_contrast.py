from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.observation import ChipBatch
from fusion3d.data.pairs import DrawnPair, stream
from fusion3d.errors import ConfigError
from fusion3d.pretraining.chip_contrast import contrast_of_chips, mean_of_chips
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import Embedded, LocationContrast
from tests.data.scene import open_scene
from tests.pretraining.gradients import assert_same_gradients, gradients

PAIR = ("ortho", "s2")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    store = open_scene(tmp_path_factory.mktemp("chips") / "scene.zarr")
    return read_chips(store, [(6, 8), (8, 26), (24, 4)], 8)


def three_chips(columns: tuple[int, int, int] = (0, 2, 4)) -> ChipBatch:
    """Chips of 2 x 2 columns, one beside the other."""
    return ChipBatch(torch.tensor([[0, col] for col in columns]), 2, 10.0, 1.0)


def axes(*number_of_chip: int) -> Embedded:
    """Every column of a chip has the axis of that number as its vector."""
    return Embedded(torch.eye(4)[torch.tensor(number_of_chip)].repeat_interleave(4, dim=0), torch.ones(12, dtype=torch.bool))


def loss(batch, first, second, **options):
    return contrast_of_chips(LocationContrast(0.5, **options), batch, PAIR, dict(zip(PAIR, (first, second))), stream(0))


def test_chips_that_agree_are_told_from_the_other_two():
    # exp(1 / 0.5) against two others at right angles
    value = loss(three_chips(), axes(0, 1, 2), axes(0, 1, 2))
    assert value.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)), rel=1e-5)


def test_overlapping_chips_are_no_negatives():
    # The third chip covers half of the second; the first touches the second.
    value = loss(three_chips((0, 2, 3)), axes(0, 1, 2), axes(0, 1, 2))
    first, others = (-math.log(math.exp(2) / (math.exp(2) + count)) for count in (2, 1))
    assert value.item() == pytest.approx((first + 2 * others) / 3, rel=1e-5)


def test_exclusion_radius_reaches_beyond_a_chip():
    value = loss(three_chips(), axes(0, 1, 2), axes(0, 1, 2), exclusion=30.0)
    outer, middle = (-math.log(math.exp(2) / (math.exp(2) + count)) for count in (1, 0))
    assert value.item() == pytest.approx((2 * outer + middle) / 3, rel=1e-5)


def test_chips_of_different_stores_are_negatives_wherever_they_are():
    one_place = replace(three_chips((0, 0, 0)), store=torch.tensor([0, 1, 2]))
    value = loss(one_place, axes(0, 1, 2), axes(0, 1, 2))
    assert value.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)), rel=1e-5)


def test_a_chip_that_one_did_not_see_does_not_count():
    first = axes(0, 1, 2)
    first.present[8:] = False
    value = loss(three_chips(), first, axes(0, 1, 2))
    assert value.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 1)), rel=1e-5)
    first.present[4:] = False
    assert loss(three_chips(), first, axes(0, 1, 2)) is None


def test_mean_is_over_what_was_seen():
    vectors = torch.eye(4).repeat(3, 1)
    present = torch.tensor([True, True, False, False] * 2 + [False] * 4)
    mean, seen = mean_of_chips(three_chips(), "s2", Embedded(vectors, present))
    half = math.sqrt(0.5)
    torch.testing.assert_close(mean[:2], torch.tensor([[half, half, 0.0, 0.0]] * 2))
    assert seen.tolist() == [True, True, False]


def test_mean_of_footprints_is_by_chip(batch):
    footprints = batch.gedi.count
    vectors = torch.nn.functional.normalize(torch.randn(footprints, 5, generator=stream(1)), dim=1)
    mean, seen = mean_of_chips(batch, "gedi", Embedded(vectors, torch.ones(footprints, dtype=torch.bool)))
    for chip in range(batch.chips):
        own = vectors[batch.gedi.chip == chip]
        assert bool(seen[chip]) == bool(len(own))
        if len(own):
            torch.testing.assert_close(mean[chip], own.mean(dim=0) / own.mean(dim=0).norm())


def test_a_term_of_each_drawn_pair_with_its_weight(batch):
    drawn = [DrawnPair(("als", "s2"), 6.0, (2.0, 2.0)), DrawnPair(("gedi", "s2"), 3.0, (1.0, 1.0))]
    plain, _, _ = gradients(batch, drawn)
    total, parts, _ = gradients(batch, drawn, chip_contrast=0.5)
    assert {name for name in parts if name.startswith("chips")} == {"chips_als-s2", "chips_gedi-s2"}
    assert total == pytest.approx(plain + 0.5 * (6.0 * parts["chips_als-s2"] + 3.0 * parts["chips_gedi-s2"]), rel=1e-6)


def test_gradients_in_pieces_are_those_of_the_whole_batch(batch):
    assert_same_gradients(gradients(batch, chip_contrast=1.0, chips_at_once=1), gradients(batch, chip_contrast=1.0))


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_impossible_weight_is_refused(value):
    with pytest.raises(ConfigError, match=r"--model\.chip_contrast"):
        CrossModalPretraining(chip_contrast=value)
