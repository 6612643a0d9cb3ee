from __future__ import annotations

import re

import numpy as np
import pytest

from fusion3d.report.biomass_map import agreement, map_error, map_section
from tests.data.scene import scene_grid
from tests.report.runs import truth_of, write_map


def test_agreement_by_hand():
    found = agreement(np.array([1.0, 3.0, 5.0, np.nan, 9.0]), np.array([2.0, 2.0, 5.0, 7.0, np.nan]))
    # errors -1, 1, 0; the truth 2, 2, 5 about its mean 3: 1 + 1 + 4
    assert (found.n, found.bias) == (3, 0)
    assert found.rmse == pytest.approx(np.sqrt(2 / 3))
    assert found.r2 == pytest.approx(1 - 2 / 6)


def test_agreement_of_nothing_and_of_a_flat_truth():
    assert agreement(np.array([np.nan]), np.array([1.0])).n == 0
    flat = agreement(np.array([1.0, 2.0]), np.array([1.0, 1.0]))
    assert np.isnan(flat.r2)
    assert flat.bias == 0.5


def test_map_is_compared_in_place_with_a_finer_truth(tmp_path):
    coarse, truth = scene_grid(20, 24), truth_of(scene_grid(40, 48))
    coarse = type(coarse)(coarse.crs, coarse.x0, coarse.y0, 20.0, 0.5, 16, 20, 24)
    mean = truth.reshape(20, 2, 24, 2).mean(axis=(1, 3))
    mapped = write_map(tmp_path / "agb.tif", coarse, mean[None] - 7, ["agb"], "Mg/ha")
    real = write_map(tmp_path / "truth.tif", scene_grid(40, 48), truth[None], ["agb"], "Mg/ha")
    body = re.sub("<[^>]+>", " ", map_section(mapped, real, "agb", ""))
    assert re.search(r"480\s+0\.\d+\s+7\s+-7\b", body)


def test_second_band_is_shown_by_its_name_and_unit_is_never_made_up(tmp_path):
    grid = scene_grid(20, 24)
    values = np.stack([truth_of(grid), truth_of(grid) / 10])
    body = map_section(write_map(tmp_path / "two.tif", grid, values, ["agb", "standard error"], ""), None, "agb", "")
    assert "Last: standard error" in body
    assert "unit not stated" in body
    assert "--truth agb=FILE.tif" in body


def test_width_of_the_interval_and_share_of_extrapolation_are_shown(tmp_path):
    grid = scene_grid(20, 24)
    truth = truth_of(grid)
    outside = np.zeros_like(truth)
    outside[:5] = 1
    bands = np.stack([truth, truth / 10, truth - 7, truth + 9, outside])
    names = ["agb_Mg_ha", "agb_se_Mg_ha", "agb_lower80_Mg_ha", "agb_upper80_Mg_ha", "extrapolation"]
    body = map_section(write_map(tmp_path / "agb.tif", grid, bands, names, "Mg/ha", level="0.8"), None, "agb", "")
    assert "Last: width of the 80 % interval" in body
    assert "25.0 % of the mapped cells" in body
    found = map_error(tmp_path / "agb.tif")
    np.testing.assert_allclose(found.values, 16, atol=1e-4)
    np.testing.assert_array_equal(found.outside, outside > 0)
    # too few plots for the level: no ends, so the standard error is shown
    bands[2:4] = np.nan
    body = map_section(write_map(tmp_path / "agb.tif", grid, bands, names, "Mg/ha", level="0.99"), None, "agb", "")
    assert "Last: agb_se_Mg_ha" in body


def test_map_of_one_value_or_of_none_is_drawn(tmp_path):
    grid = scene_grid(3, 2)
    for value in (5.0, 0.0, np.nan):
        values = np.full((1, 3, 2), value)
        if np.isnan(value):
            values[0, 0, 0] = 1
        path = write_map(tmp_path / "flat.tif", grid, values, ["agb"], "Mg/ha")
        assert "data:image/png" in map_section(path, path, "agb", "")
