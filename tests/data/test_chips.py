from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fusion3d.data.chips import _steps, collate, read_chips
from fusion3d.data.observation import FOOTPRINT_ATTRIBUTES, POINT_ATTRIBUTES
from fusion3d.data.pairs import draw_pairs, stream
from fusion3d.errors import ConfigError
from fusion3d.store import Store
from tests.data.scene import CLOUDED, COLS, ROWS, canopy, open_scene


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return open_scene(tmp_path_factory.mktemp("chips") / "scene.zarr", sensors=("als", "gedi", "ortho", "s2", "coarse"))


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return first.shape == second.shape and torch.equal(first.nan_to_num(-9e9), second.nan_to_num(-9e9))
    if hasattr(first, "__dataclass_fields__"):
        return all(same(getattr(first, name), getattr(second, name)) for name in first.__dataclass_fields__)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(one, other) for one, other in zip(first, second, strict=True))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return first == second


def test_noise_withheld_and_points_of_unknown_height_are_dropped(store):
    batch = read_chips(store, [(8, 8)], 8, ["als"])
    raw = store.points(store.grid.window.__class__(8, 8, 8, 8))
    kind, withheld = raw.attributes["classification"], raw.attributes["withheld"]
    good = [i for i in range(len(raw)) if kind[i] not in (7, 18) and not withheld[i] and not np.isnan(raw.height[i])]
    assert 0 < len(good) < len(raw)
    assert batch.als.height.tolist() == raw.height[good].tolist()
    assert batch.als.row_splits[-1] == len(good)


def test_point_attributes_follow_their_definitions(store):
    batch = read_chips(store, [(8, 8)], 1, ["als"])
    intensity, fraction, returns, angle = batch.als.attributes[0].tolist()
    assert POINT_ATTRIBUTES == ("intensity", "return_fraction", "returns", "scan_angle")
    assert intensity == pytest.approx(int(200 + 40 * canopy()[8, 8]) / 1000)
    assert (fraction, returns, angle) == pytest.approx((0.5, 0.4, 0.5))


def test_raster_is_standardised_and_clouds_are_zero_and_not_valid(store):
    batch = read_chips(store, [(16, 16)], 16, ["s2"])
    s2 = batch.rasters["s2"]
    raw = store.raster("s2", store.grid.window.__class__(16, 16, 16, 16))
    rows = slice(CLOUDED[0].start - 16, CLOUDED[0].stop - 16)
    assert not s2.valid[0, 0, :, rows, rows].any()
    assert s2.valid[0, 1].all()
    assert (s2.values[0, 0, :, rows, rows] == 0).all()
    assert torch.allclose(s2.values[0, 1], torch.from_numpy((raw.values[1] - 15) / 10), atol=1e-5)


def test_days_count_from_1970_and_are_nan_without_a_date(store):
    days = read_chips(store, [(0, 0)], 8, ["s2"]).rasters["s2"].days[0]
    assert days[:2].tolist() == [18_642.0, 18_732.0]
    assert days[4].isnan()


def test_footprint_lies_where_its_column_is(store):
    batch = read_chips(store, [(3, 8)], 8, ["gedi"])
    assert batch.gedi.position.tolist() == [[25.0, 15.0], [25.0, 45.0], [25.0, 75.0]]
    assert batch.gedi.row_splits.tolist() == [0, 20, 40, 60]
    assert FOOTPRINT_ATTRIBUTES == ("power_beam", "sensitivity", "solar_elevation")
    assert batch.gedi.attributes[0].tolist() == pytest.approx([1.0, 0.97, 0.5])
    assert batch.gedi.day[0] == 18_800.25


def test_degraded_footprint_is_left_out(store):
    assert read_chips(store, [(0, 8)], 4, ["gedi"]).gedi is None


def test_chip_outside_of_the_grid_holds_nothing(store):
    batch = read_chips(store, [(-30, -30)], 8)
    assert batch.sensors == ()
    assert batch.columns == 64


def test_halo_chip_equals_the_inner_chip_in_its_own_columns(store):
    inner, outer = read_chips(store, [(0, 0)], 8), read_chips(store, [(-2, -2)], 12)
    splits = outer.als.row_splits
    assert not outer.als.present.reshape(12, 12)[:2].any()
    heights = [
        outer.als.height[splits[row * 12 + col] : splits[row * 12 + col + 1]] for row in range(2, 10) for col in range(2, 10)
    ]
    assert torch.equal(torch.cat(heights), inner.als.height)
    assert torch.equal(outer.rasters["s2"].values[..., 2:10, 2:10], inner.rasters["s2"].values)
    assert torch.equal(outer.rasters["ortho"].values[..., 8:40, 8:40], inner.rasters["ortho"].values)


def test_coarse_pixels_keep_their_origin_when_chips_join(store):
    batch = read_chips(store, [(0, 0), (1, 2)], 8, ["coarse"])
    coarse = batch.rasters["coarse"]
    assert coarse.pixel_origin.tolist() == [[1, 1], [0, 1]]
    # Pixels count 10 a row and 1 a column from the store's corner; chip 1 begins in pixel (1, 1).
    assert coarse.values[1, 0, 0, 0, 0] * 10 + 15 == pytest.approx(11.0)
    assert not coarse.valid[1, 0, 0, 4].any()
    assert coarse.valid[0, 0, 0].all()


def test_thinned_column_holds_at_most_the_cap_and_evenly_without_a_generator(store):
    full, thin = read_chips(store, [(8, 8)], 4, ["als"]), read_chips(store, [(8, 8)], 4, ["als"], max_points_per_column=3)
    assert thin.als.row_splits.diff().tolist() == full.als.row_splits.diff().clamp(max=3).tolist()
    assert set(thin.als.height.tolist()) <= set(full.als.height.tolist())
    drawn = [
        read_chips(store, [(8, 8)], 4, ["als"], max_points_per_column=3, generator=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    assert same(drawn[0], drawn[1])
    assert not same(drawn[0], drawn[2])
    assert int(drawn[0].als.row_splits.diff().max()) == 3


def test_sampled_dates_are_at_most_the_cap_and_in_order(store):
    s2 = read_chips(store, [(0, 0)], 8, ["s2"], max_dates=3, generator=np.random.default_rng(0)).rasters["s2"]
    assert s2.values.shape[1] == 3
    known = s2.days[0][s2.days[0].isfinite()]
    assert (known.diff() > 0).all()


def test_drawn_dates_of_a_sensor_do_not_depend_on_what_else_is_read(store):
    alone, beside = (
        read_chips(store, [(0, 0)], 8, sensors, max_dates=2, max_points_per_column=3, generator=np.random.default_rng(3))
        for sensors in (["s2"], None)
    )
    assert same(alone.rasters["s2"], beside.rasters["s2"])


def drawn_dates(dates, most, draws=4000):
    generator = np.random.default_rng(0)
    return [tuple(_steps(dates, most, generator)) for _ in range(draws)]


def test_seasons_are_drawn_alike_and_dates_alike_within_a_season():
    # Seven dates in summer, two in winter (one in December), one in spring.
    dates = [f"2021-0{month}-{day:02d}" for month, day in ((6, 1), (6, 9), (6, 20), (7, 1), (7, 15), (8, 1), (8, 30))]
    dates += ["2021-01-10", "2021-12-10", "2022-04-01"]
    draws = drawn_dates(dates, 2)
    assert {len(set(draw)) for draw in draws} == {2}
    rate = np.bincount(np.concatenate(draws), minlength=10) / len(draws)
    assert rate == pytest.approx([2 / 21] * 7 + [1 / 3] * 2 + [2 / 3], abs=0.03)
    assert len(set(draws)) > 15


def test_dates_of_all_seasons_come_together():
    dates = ["2021-01-01", "2021-02-01", "2021-04-01", "2021-05-01", "2021-07-01", "2021-08-01", "2021-10-01", "2021-11-01"]
    draws = drawn_dates(dates, 4, 400)
    assert all([step // 2 for step in draw] == [0, 1, 2, 3] for draw in draws)
    assert len(set(draws)) == 16


def test_dates_that_are_not_known_are_drawn_too():
    rate = np.bincount(np.concatenate(drawn_dates([None, None, "2021-01-01"], 1)), minlength=3) / 4000
    assert rate == pytest.approx([0.25, 0.25, 0.5], abs=0.03)


def test_dates_without_a_generator_are_the_same_and_spread():
    assert _steps(["2021-01-01"] * 9, 3, None) == [0, 4, 8]
    assert _steps(["2021-01-01"] * 3, 3, np.random.default_rng(0)) is None


def test_chips_keep_their_store_and_drawn_pairs_when_they_join(store):
    drawn = tuple(draw_pairs([("als", "s2"), ("als", "ortho")], 1, stream(0)))
    first, second = (
        replace(read_chips(store, [(0, 0)], 8, ["als"]), store=torch.tensor([number]), drawn=drawn) for number in (4, 2)
    )
    batch = collate([first, second])
    assert batch.scene.tolist() == [4, 2]
    assert batch.drawn == drawn
    assert batch.part(1, 2).scene.tolist() == [2]
    assert read_chips(store, [(0, 0), (1, 1)], 8, ["als"]).scene.tolist() == [0, 0]
    with pytest.raises(ConfigError, match="different pairs"):
        collate([first, replace(second, drawn=None)])


def test_collate_pads_dates_and_marks_them_absent(store):
    short = read_chips(store, [(0, 0)], 8, ["s2"], max_dates=2)
    full = read_chips(store, [(8, 8)], 8, ["s2", "als", "gedi"])
    batch = collate([short, full])
    s2 = batch.rasters["s2"]
    assert s2.date_present.tolist() == [[True, True, False, False, False], [True] * 5]
    assert s2.days[0, 2:].isnan().all()
    assert not s2.valid[0, 2:].any()
    assert not batch.als.present[:64].any()
    assert torch.equal(batch.als.present[64:], full.als.present)
    assert (batch.gedi.chip == 1).all()


def test_collate_equals_reading_together(store):
    origins = [(0, 0), (5, 9), (30, 30)]
    assert same(collate([read_chips(store, [origin], 8) for origin in origins]), read_chips(store, origins, 8))


def test_collate_refuses_chips_of_different_size(store):
    with pytest.raises(ConfigError, match="different size"):
        collate([read_chips(store, [(0, 0)], 4), read_chips(store, [(0, 0)], 8)])
    with pytest.raises(ConfigError, match="at least one"):
        collate([])


def test_whole_grid_can_be_one_chip(store):
    batch = read_chips(store, [(0, 0)], max(ROWS, COLS), ["als"])
    assert batch.als.present.sum() == ROWS * COLS - 16
