"""Maps of a fitted model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio
from pyproj import CRS

from fusion3d.errors import ConfigError, CRSError, InputError
from fusion3d.evaluation.ridge import Ridge
from fusion3d.io.geotiff import CogWriter
from fusion3d.mapping.predict import predict
from fusion3d.tasks.fit import fit
from fusion3d.tasks.model import TargetModel
from fusion3d.tasks.regressors import Fitted
from tests.mapping.cog_layout import cog_directories
from tests.mapping.linear_models import model, with_intervals
from tests.tasks.places import X0, Y0, planted, write_map

ROWS, COLS = 70, 90


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """a counts rows from the north, b columns from the west; a hole, and one in one band alone."""
    row, col = np.mgrid[:ROWS, :COLS].astype(np.float32)
    bands = np.stack([row, col])
    bands[:, 10:20, 30:50] = np.nan
    bands[1, 5, 5] = np.nan
    return bands


@pytest.fixture(scope="module")
def embedding(tmp_path_factory, values):
    return write_map(tmp_path_factory.mktemp("map") / "emb.tif", values, checkpoint="run")


def read(path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def test_map_is_the_formula_at_every_cell_north_up(embedding, values, tmp_path):
    predict(model(nonnegative=False), embedding, tmp_path / "agb.tif")
    np.testing.assert_allclose(read(tmp_path / "agb.tif"), 2 * values[0] - values[1] + 1, atol=1e-4)


def test_negative_values_become_zero_and_are_counted(embedding, values, tmp_path):
    summary = predict(model(), embedding, tmp_path / "agb.tif")
    expected = 2 * values[0] - values[1] + 1
    np.testing.assert_allclose(read(tmp_path / "agb.tif"), np.where(expected < 0, 0, expected), atol=1e-4)
    assert summary.clipped == int((expected <= 0).sum())
    assert (summary.low, summary.mapped) == (0.0, ROWS * COLS - 201)
    assert summary.high == pytest.approx(2 * (ROWS - 1) + 1)
    assert "agb on 6099 of 6300 cells of 10 m" in str(summary)


def test_root_is_mapped_with_its_correction(embedding, values, tmp_path):
    predict(model("sqrt"), embedding, tmp_path / "agb.tif")
    linear = 2 * values[0] - values[1] + 1
    expected = (np.maximum(linear + 1, 0) ** 2 + np.maximum(linear - 1, 0) ** 2) / 2
    np.testing.assert_allclose(read(tmp_path / "agb.tif"), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("transform", ["none", "sqrt", "log1p"])
def test_values_do_not_depend_on_the_blocks(tmp_path, transform):
    rng = np.random.default_rng(0)
    bands = rng.normal(size=(24, ROWS, COLS))
    bands[:, rng.random((ROWS, COLS)) < 0.2] = np.nan
    source = write_map(tmp_path / "emb.tif", bands)
    ridge = Ridge(rng.normal(size=24), rng.uniform(0.5, 2, 24), rng.normal(size=24) * 0.2, 3.0, 1.0)
    names = tuple(f"emb_{number:03d}" for number in range(24))
    fitted = TargetModel.of(
        Fitted(ridge, rng.normal(size=30)), target="agb", unit="", features=names, transform=transform, nonnegative=True
    )
    maps = []
    for block in (256, 64, 27):
        predict(fitted, source, tmp_path / f"{block}.tif", block=block)
        maps.append(read(tmp_path / f"{block}.tif"))
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])
    np.testing.assert_array_equal(np.isnan(maps[0]), np.isnan(bands[0]))


def test_file_has_place_name_unit_nodata_and_origin(embedding, tmp_path):
    predict(model(), embedding, tmp_path / "agb.tif")
    with rasterio.open(tmp_path / "agb.tif") as dataset:
        assert dataset.crs == CRS("EPSG:2154")
        assert (dataset.transform.c, dataset.transform.f, dataset.res) == (X0, Y0, (10.0, 10.0))
        assert dataset.descriptions == ("agb_Mg_ha",)
        assert dataset.units == ("Mg/ha",)
        assert math.isnan(dataset.nodata)
        assert dataset.dtypes == ("float32",)
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert {"target": "agb", "unit": "Mg/ha", "fitted_on_checkpoint": "run"}.items() <= dataset.tags().items()


def test_plot_on_its_cell_is_predicted_as_the_map_says(tmp_path):
    """The way from a plot's features and the way from a map's cells meet."""
    place = planted(tmp_path, plots=60)
    fitted = fit(place.embedding, place.labels, "agb", tmp_path / "out", unit="Mg/ha", transform="sqrt")
    predict(tmp_path / "out", place.embedding, tmp_path / "agb.tif")
    with rasterio.open(place.embedding) as dataset:
        features = dataset.read()[:, place.row, place.col].T.astype(float)
    np.testing.assert_allclose(read(tmp_path / "agb.tif")[place.row, place.col], fitted.model.predict(features), rtol=1e-5)


def test_bands_are_estimate_error_interval_and_extrapolation(embedding, values, tmp_path):
    """Half of the errors are at most one standard error, but for the plots about the step."""
    summary = predict(with_intervals(), embedding, tmp_path / "agb.tif", level=0.5)
    with rasterio.open(tmp_path / "agb.tif") as dataset:
        estimate, error, lower, upper, outside = dataset.read()
        names = ("agb_Mg_ha", "agb_se_Mg_ha", "agb_lower50_Mg_ha", "agb_upper50_Mg_ha", "extrapolation")
        assert dataset.descriptions == summary.bands == names
        assert dataset.units == ("Mg/ha", "Mg/ha", "Mg/ha", "Mg/ha", "1")
        assert dataset.tags()["level"] == "0.5"
    seen = np.isfinite(values).all(axis=0)
    for band in (estimate, error, lower, upper, outside):
        np.testing.assert_array_equal(np.isfinite(band), seen)
    np.testing.assert_allclose(estimate, np.maximum(2 * values[0] - values[1] + 1, 0), atol=1e-4)
    # away from the step at 50 all errors in the neighbourhood are alike
    for there, size in ((seen & (estimate < 20), 4.0), (seen & (estimate > 80), 20.0)):
        np.testing.assert_allclose(error[there], size, rtol=1e-5)
        np.testing.assert_allclose((upper - estimate)[there], size, rtol=1e-4)
        np.testing.assert_allclose(lower[there], np.maximum(estimate - size, 0)[there], atol=1e-3)
    # the threshold of 0.15 is 1.5 rows beyond the plots
    np.testing.assert_array_equal(outside[seen], ((values[0] < 18.5) | (values[0] > 51.5))[seen])
    assert summary.extrapolated == int(np.nansum(outside))
    assert f"{summary.extrapolated} extrapolated" in str(summary)


def test_all_bands_are_the_same_whatever_the_block(embedding, tmp_path):
    maps = []
    for block in (256, 31):
        predict(with_intervals(), embedding, tmp_path / "agb.tif", block=block)
        with rasterio.open(tmp_path / "agb.tif") as dataset:
            maps.append(dataset.read())
    np.testing.assert_array_equal(maps[0], maps[1])


def test_level_of_the_map_and_estimate_alone(embedding, tmp_path):
    for level, name in ((0.5, "agb_lower50_Mg_ha"), (0.975, "agb_lower97_5_Mg_ha")):
        assert name in predict(with_intervals(), embedding, tmp_path / "agb.tif", level=level).bands
    summary = predict(with_intervals(), embedding, tmp_path / "one.tif", estimate_only=True)
    assert (summary.bands, summary.notes, summary.extrapolated) == (("agb_Mg_ha",), (), None)
    with pytest.raises(ConfigError, match="--level 90 must lie between 0 and 1"):
        predict(with_intervals(), embedding, tmp_path / "agb.tif", level=90)


def test_level_that_the_plots_cannot_carry_leaves_empty_bounds_and_says_so(embedding, tmp_path):
    summary = predict(with_intervals(), embedding, tmp_path / "agb.tif", level=0.999)
    assert "120 plots are too few for 99.9 % intervals, whose bands are empty: 999 are needed" in summary.notes
    with rasterio.open(tmp_path / "agb.tif") as dataset:
        estimate, error, lower, upper, outside = dataset.read()
    assert np.isnan([lower, upper]).all()
    np.testing.assert_array_equal(np.isfinite(estimate), np.isfinite(error) & np.isfinite(outside))


def test_model_of_an_older_version_maps_its_estimate_and_says_why(embedding, tmp_path):
    summary = predict(model(), embedding, tmp_path / "agb.tif")
    assert summary.notes == ("the model holds neither intervals nor a domain: fit it again to map them",)


def test_map_of_another_checkpoint_is_made_with_a_note(values, tmp_path):
    source = write_map(tmp_path / "emb.tif", values, checkpoint="other")
    assert "checkpoint other instead of run" in str(predict(model(), source, tmp_path / "agb.tif"))


def test_refusals_leave_nothing(embedding, values, tmp_path):
    out = tmp_path / "agb.tif"
    three = write_map(tmp_path / "three.tif", np.concatenate([values, values[:1]]))
    hollow = write_map(tmp_path / "hollow.tif", np.full((2, 5, 5), np.nan))
    for source, error, text in (
        (three, InputError, "has 3 bands, the model was fitted on 2"),
        (hollow, InputError, "holds no data"),
        (tmp_path / "none.tif", InputError, "does not exist"),
    ):
        with pytest.raises(error, match=text):
            predict(model(), source, out)
    with pytest.raises(ConfigError, match=r"ends in \.tif"):
        predict(model(), embedding, tmp_path / "agb.png")
    with pytest.raises(ConfigError, match="--block 0"):
        predict(model(), embedding, out, block=0)
    with pytest.raises(ConfigError, match="map of embeddings itself"):
        predict(model(), hollow, hollow)
    with pytest.raises(InputError, match="no model there"):
        predict(tmp_path, embedding, out)
    assert {item.name for item in tmp_path.iterdir()} == {"three.tif", "hollow.tif"}


def test_interruption_leaves_what_was_there_and_what_was_computed(embedding, tmp_path, monkeypatch):
    (tmp_path / "agb.tif").write_text("older")

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CogWriter, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            predict(model(), embedding, tmp_path / "agb.tif")
    assert {item.name for item in tmp_path.iterdir()} == {"agb.tif", "agb.tif.partial"}
    assert (tmp_path / "agb.tif").read_text() == "older"
    assert "went on from the 1 of 1 blocks" in str(predict(model(), embedding, tmp_path / "agb.tif"))
    assert [item.name for item in tmp_path.iterdir()] == ["agb.tif"]


def test_uncut_estimate_keeps_values_below_zero_and_nothing_else_changes(embedding, values, tmp_path):
    summary = predict(with_intervals(), embedding, tmp_path / "uncut.tif", uncut=True)
    predict(with_intervals(), embedding, tmp_path / "cut.tif")
    with rasterio.open(tmp_path / "uncut.tif") as uncut, rasterio.open(tmp_path / "cut.tif") as cut:
        np.testing.assert_allclose(uncut.read(1), 2 * values[0] - values[1] + 1, atol=1e-4)
        np.testing.assert_array_equal(uncut.read()[1:], cut.read()[1:])
        assert "below 0" in uncut.tags()["uncut"]
        assert "uncut" not in cut.tags()
    expected = 2 * values[0] - values[1] + 1
    assert summary.mean == pytest.approx(np.nanmean(expected), abs=1e-4)
    assert f"{int((expected <= 0).sum())} at 0 or below" in str(summary)


def test_crs_of_a_raster_without_one_is_asked_for_and_taken(values, tmp_path):
    with rasterio.open(write_map(tmp_path / "emb.tif", values)) as dataset:
        profile = {**dataset.profile, "driver": "GTiff", "crs": None}
        with rasterio.open(tmp_path / "bare.tif", "w", **profile) as bare:
            bare.write(dataset.read())
            bare.descriptions = dataset.descriptions
    with pytest.raises(CRSError, match="has no CRS; pass --crs"):
        predict(model(), tmp_path / "bare.tif", tmp_path / "agb.tif")
    predict(model(), tmp_path / "bare.tif", tmp_path / "agb.tif", crs="EPSG:2154")
    predict(model(), tmp_path / "emb.tif", tmp_path / "known.tif")
    with rasterio.open(tmp_path / "agb.tif") as assumed, rasterio.open(tmp_path / "known.tif") as known:
        assert assumed.crs == known.crs == CRS("EPSG:2154")
        np.testing.assert_array_equal(assumed.read(), known.read())


def test_estimate_of_a_coarser_cell_is_that_of_its_mean_features(tmp_path):
    """Cells of 20 m of cells of 10 m; exp is not linear, so a mean of estimates would be another one."""
    bands = np.zeros((2, 5, 6))
    bands[0] = [[0, 2, 1, 1, 3, 1], [2, 0, 1, 1, 1, 3], [0, 4, 9, 9, 0, 2], [9, 9, 9, 9, 2, 0], [1, 3, 5, 5, 7, 7]]
    bands[0, 2:4, 2:4] = [[np.nan, 6], [np.nan, np.nan]]
    bands[0, 3, 0:2] = np.nan
    source = write_map(tmp_path / "emb.tif", bands)
    ridge = Ridge(np.zeros(2), np.ones(2), np.array([1.0, 0.0]), 0.0, 1.0)
    fitted = TargetModel.of(
        Fitted(ridge, np.zeros(2)), target="agb", unit="Mg/ha", features=("emb_000", "emb_001"), transform="log1p",
        nonnegative=True,
    )  # fmt: skip
    summary = predict(fitted, source, tmp_path / "agb.tif", resolution=20)
    # south of the raster there is no data: the last row has half of its cells
    mean = np.array([[1, 1, 2], [2, np.nan, 1], [2, 5, 7]])
    with rasterio.open(tmp_path / "agb.tif") as dataset:
        np.testing.assert_allclose(dataset.read(1), np.exp(mean) - 1, rtol=1e-6)
        assert (dataset.transform.c, dataset.transform.f, dataset.res) == (X0, Y0, (20.0, 20.0))
        assert dataset.tags()["cells"].startswith("means of 2 x 2 cells")
    assert "8 of 9 cells of 20 m" in str(summary)


@pytest.mark.parametrize("resolution", [25, 5, 0, -10, math.nan, math.inf, 10.01])
def test_resolution_that_is_no_multiple_is_refused_in_one_line(embedding, tmp_path, resolution):
    with pytest.raises(ConfigError, match=r"is not a multiple of the cells of .*, which are of 10 m") as caught:
        predict(model(), embedding, tmp_path / "agb.tif", resolution=resolution)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_file_is_laid_out_as_a_cloud_optimized_geotiff(tmp_path):
    bands = np.random.default_rng(0).normal(size=(2, 1100, 700)).astype(np.float32)
    bands[:, :300] = np.nan
    predict(model(), write_map(tmp_path / "emb.tif", bands), tmp_path / "agb.tif", resolution=10)
    directories = cog_directories(tmp_path / "agb.tif")
    assert [(each.width, each.height) for each in directories] == [(700, 1100), (350, 550), (175, 275)]
