from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import DrawnPair, stream
from fusion3d.encoders.output import ColumnEmbedding
from fusion3d.errors import ConfigError
from fusion3d.pretraining.date_positives import contrast_of_dates, date_halves
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import LocationContrast
from fusion3d.pretraining.views import Views
from tests.data.scene import open_scene
from tests.pretraining.gradients import assert_same_gradients, gradients

SENSORS = ["als", "gedi", "ortho", "s2"]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    store = open_scene(tmp_path_factory.mktemp("dates") / "scene.zarr")
    return read_chips(store, [(6, 8), (8, 26), (16, 4)], 8)


def generators(count: int) -> list[torch.Generator]:
    return [stream(5, chip) for chip in range(count)]


def only_dates(batch, *keep: bool):
    raster = batch.rasters["s2"]
    return replace(batch, rasters={**batch.rasters, "s2": replace(raster, date_present=raster.date_present & torch.tensor(keep))})


def test_halves_share_out_the_dates_of_each_chip(batch):
    some, others = date_halves(batch.rasters["s2"], generators(3))
    assert not (some.date_present & others.date_present).any()
    assert torch.equal(some.date_present | others.date_present, batch.rasters["s2"].date_present)
    assert some.date_present.sum(dim=1).tolist() == [2, 2, 2]
    assert others.date_present.sum(dim=1).tolist() == [3, 3, 3]
    assert len({tuple(row) for row in some.date_present.tolist()}) > 1


def test_halves_of_a_chip_do_not_depend_on_padding_or_other_chips(batch):
    raster = batch.rasters["s2"]
    pad = torch.nn.functional.pad
    padded = replace(
        raster,
        values=pad(raster.values, (0, 0, 0, 0, 0, 0, 0, 2)),
        valid=pad(raster.valid, (0, 0, 0, 0, 0, 0, 0, 2)),
        days=pad(raster.days, (0, 2)),
        date_present=pad(raster.date_present, (0, 2)),
    )
    expected = date_halves(raster, generators(3))[0].date_present
    assert torch.equal(date_halves(padded, generators(3))[0].date_present[:, :5], expected)
    assert torch.equal(date_halves(raster.part(1, 2), generators(3)[1:2])[0].date_present, expected[1:2])


def test_chip_of_one_date_has_no_halves(batch):
    raster = only_dates(batch, True, False, False, False, False).rasters["s2"]
    assert date_halves(raster, generators(3)) == (None, None)


def test_loss_is_the_contrast_of_what_an_encoder_says_of_the_halves(batch):
    # An encoder that says the number of the column on every date: positives are certain, others at right angles.
    def encode(seen, sensor):
        there = seen.rasters[sensor].date_present.any(dim=1).repeat_interleave(64)
        return ColumnEmbedding(torch.eye(192), torch.eye(192), there, 10.0, 8, 8)

    value = contrast_of_dates(LocationContrast(temperature=0.5), Views(batch, encode), "s2", (0,))
    near = (torch.cdist(centres(batch), centres(batch)) < 5).sum(dim=1) - 1
    others = 191 - near
    assert value.item() == pytest.approx((torch.log(math.exp(2) + others) - 2).mean().item(), rel=1e-5)


def centres(batch):
    rows, cols = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    at = torch.stack([rows.flatten(), cols.flatten()], dim=1)
    return ((batch.origin[:, None] + at) * 10.0).reshape(-1, 2)


def test_a_term_of_each_series_that_ran_with_its_weight(batch):
    drawn = [DrawnPair(("als", "s2"), 6.0, (2.0, 2.0))]
    plain, _, _ = gradients(batch, drawn)
    loss, parts, _ = gradients(batch, drawn, date_positives=0.25)
    assert [name for name in parts if name.startswith("dates")] == ["dates_s2"]
    assert loss == pytest.approx(plain + 0.25 * 2.0 * parts["dates_s2"], rel=1e-6)


@pytest.mark.parametrize("keep", [(True, False, False, False, False), (True, True, False, False, False)])
def test_sensor_of_one_date_adds_nothing(batch, keep):
    drawn = [DrawnPair(("als", "s2"), 6.0, (2.0, 2.0))]
    parts = gradients(only_dates(batch, *keep), drawn, date_positives=1.0)[1]
    assert ("dates_s2" in parts) == (sum(keep) > 1)


def test_gradients_in_pieces_are_those_of_the_whole_batch(batch):
    some = only_dates(batch, True, True, True, True, True)
    # The second chip keeps one date: its piece shows nothing.
    some.rasters["s2"].date_present[1, 1:] = False
    assert_same_gradients(gradients(some, date_positives=1.0, chips_at_once=1), gradients(some, date_positives=1.0))


def test_dates_are_shared_out_by_the_key_alone(batch):
    module = CrossModalPretraining(scene={"sensors": SENSORS}, date_positives=1.0)
    module.configure_model()
    drawn = [DrawnPair(("ortho", "s2"), 1.0, (1.0, 1.0))]
    found = [float(module.loss(batch, drawn, key)[1]["dates_s2"]) for key in ((0, 1), (0, 1), (0, 2))]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_impossible_weight_is_refused(value):
    with pytest.raises(ConfigError, match=r"--model\.date_positives"):
        CrossModalPretraining(date_positives=value)
