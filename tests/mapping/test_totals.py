"""Means and totals of areas from files to files."""

from __future__ import annotations

import csv
import json
import shutil

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from scipy.ndimage import gaussian_filter
from scipy.stats import t as student
from typer.testing import CliRunner

from fusion3d.cli import app
from fusion3d.errors import ConfigError, InputError
from fusion3d.mapping.area_cells import MapCells
from fusion3d.mapping.predict import predict
from fusion3d.mapping.totals import totals
from fusion3d.tasks.fit import fit
from tests.tasks.places import X0, Y0, planted, write_map, write_points

WIDE, HIGH = 1200.0, 1000.0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Plots are cells drawn by lot, of an area of 120 ha; map of a model that is fitted on them."""
    folder = tmp_path_factory.mktemp("totals")
    found = planted(folder, plots=120, noise=40.0, slope=20.0, bands=4)
    fit(found.embedding, found.labels, "agb", folder / "fit", unit="Mg/ha", stratum="half", block=200)
    predict(folder / "fit", found.embedding, folder / "agb.tif")
    return folder


def read(path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1).astype(float)


def predictions(place) -> dict[str, np.ndarray]:
    with (place / "fit" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in ("x", "y", "measured", "predicted", "fitted", "area")}


def box(left: float, top: float, width: float, height: float) -> shapely.Polygon:
    return shapely.box(X0 + left, Y0 - top - height, X0 + left + width, Y0 - top)


def areas(path, shapes, names, column="name"):
    geopandas.GeoDataFrame({column: names}, geometry=shapes, crs=2154).to_file(path)
    return path


def test_greg_of_the_whole_map_is_its_mean_and_what_plots_say_it_lacks(place, tmp_path):
    """Each plot lies in one cell, so the map under it is that cell; predictions are positive, so nothing is cut off at 0."""
    found = totals(place / "agb.tif", place / "fit", tmp_path / "t.json", design="random").rows[0]
    surface, plots = read(place / "agb.tif"), predictions(place)
    cell = surface[((Y0 - plots["y"]) // 10).astype(int), ((plots["x"] - X0) // 10).astype(int)]
    np.testing.assert_allclose(plots["area"], np.pi * 16, rtol=1e-6)
    np.testing.assert_allclose(plots["fitted"], cell, rtol=1e-5)
    lacking, residual = plots["measured"] - cell, plots["measured"] - plots["predicted"]
    assert found.estimator == "GREG"
    assert found.plots == 120
    assert found.mean == pytest.approx(surface.mean() + lacking.mean(), rel=1e-6)
    assert found.mean_se == pytest.approx(residual.std(ddof=1) / np.sqrt(120), rel=1e-5)
    reach = student.ppf(0.95, 119) * found.mean_se
    assert (found.mean_low, found.mean_high) == pytest.approx((found.mean - reach, found.mean + reach))
    assert (found.area_ha, found.data_share) == pytest.approx((120, 1))
    assert (found.total, found.total_se, found.total_unit) == (
        pytest.approx(120 * found.mean),
        pytest.approx(120 * found.mean_se),
        "Mg",
    )
    # noise of 40 Mg/ha is all that is left: planted, see `planted`
    assert found.mean_se == pytest.approx(40 / np.sqrt(120), rel=0.2)


def test_model_dependent_error_is_of_model_and_residuals_and_larger_than_the_naive_one(place, tmp_path):
    found = totals(place / "agb.tif", place / "fit", tmp_path / "t.csv").rows[0]
    assert found.estimator == "model-dependent"
    assert "--design none" in found.reason
    assert found.mean_se**2 == pytest.approx(found.parameter_se**2 + found.residual_se**2)
    # residuals are white noise of one value a cell: 3.65 for the mean of 120 of them
    assert 2.5 < found.parameter_se < 5.5
    assert found.independent_cells < 12_000
    assert found.mean == pytest.approx(found.map_mean + found.correction)
    assert abs(found.correction) < 3 * found.parameter_se


def test_areas_with_few_plots_fall_back_and_say_so(place, tmp_path):
    shapes = [box(0, 0, 700, 1000), box(900, 800, 150, 150), box(5000, 0, 100, 100), box(1100, 900, 200, 200)]
    path = areas(tmp_path / "a.gpkg", shapes, ["large", "small", "far", "edge"])
    found = totals(place / "agb.tif", place / "fit", tmp_path / "t.csv", areas=path, design="random")
    rows = {row.area: row for row in found.rows}
    assert rows["large"].estimator == "GREG"
    assert rows["small"].estimator == "model-dependent"
    plots = predictions(place)
    inside = (plots["x"] > X0 + 900) & (plots["x"] < X0 + 1050) & (plots["y"] < Y0 - 800) & (plots["y"] > Y0 - 950)
    assert rows["small"].plots == inside.sum() < 10
    assert "inside, GREG needs 10" in rows["small"].reason
    assert rows["small"].map_mean == pytest.approx(read(place / "agb.tif")[80:95, 90:105].mean(), rel=1e-5)
    assert (rows["edge"].area_ha, rows["edge"].data_ha, rows["edge"].data_share) == pytest.approx((4, 1, 0.25))
    assert "25 % of the area that has data" in rows["edge"].note
    assert rows["edge"].total == pytest.approx(rows["edge"].mean)
    assert found.set_aside == (("far", "outside the map"),)
    # a mean of less ground is less certain
    assert rows["small"].mean_se > 1.5 * rows["large"].mean_se


def test_strata_are_weighted_by_area_and_each_needs_two_plots(place, tmp_path):
    strata = areas(
        tmp_path / "s.gpkg", [box(0, 0, 600, 1000), box(600, 0, 300, 1000), box(900, 0, 300, 1000)], ["west", "east", "east"]
    )
    two = areas(
        tmp_path / "a.gpkg", [box(300, 0, 700, 1000), box(0, 0, 580, 1000), box(0, 0, 605, 1000)], ["both", "west only", "sliver"]
    )
    found = totals(
        place / "agb.tif", place / "fit", tmp_path / "t.csv", areas=two, design="stratified", strata=strata, stratum="name"
    )
    rows = {row.area: row for row in found.rows}
    surface, plots = read(place / "agb.tif"), predictions(place)
    x, lacking = plots["x"] - X0, plots["measured"] - plots["fitted"]
    west, east = lacking[(x > 300) & (x < 600)].mean(), lacking[(x > 600) & (x < 1000)].mean()
    assert rows["both"].estimator == "stratified GREG"
    assert rows["both"].mean == pytest.approx(surface[:, 30:100].mean() + (3 * west + 4 * east) / 7, rel=1e-5)
    assert rows["west only"].estimator == "stratified GREG"
    assert rows["sliver"].estimator == "model-dependent"
    assert "2 plots in every stratum inside, east has 0" in rows["sliver"].reason


def test_strata_that_leave_ground_out_do_not_estimate_it(place, tmp_path):
    strata = areas(tmp_path / "s.gpkg", [box(0, 0, 600, 1000), box(600, 0, 300, 1000)], ["west", "east"])
    found = totals(place / "agb.tif", place / "fit", tmp_path / "t.csv", design="stratified", strata=strata).rows[0]
    assert found.estimator == "model-dependent"
    assert found.reason.startswith("25 % of the area lies in no stratum")
    other = areas(tmp_path / "o.gpkg", [box(0, 0, 600, 1000)], ["north"])
    with pytest.raises(InputError, match="no stratum 'east' of the plots; it has north"):
        totals(place / "agb.tif", place / "fit", tmp_path / "t.csv", design="stratified", strata=other)


def test_strata_that_cannot_be_those_of_the_sample_are_refused_or_doubted(place, tmp_path):
    options = {"design": "stratified", "out": tmp_path / "t.csv"}
    twice = areas(tmp_path / "t.gpkg", [box(0, 0, 1200, 1000), box(600, 0, 600, 1000)], ["west", "east"])
    with pytest.raises(InputError, match="strata overlap: 50 % of their ground"):
        totals(place / "agb.tif", place / "fit", strata=twice, **options)
    swapped = areas(tmp_path / "w.gpkg", [box(0, 0, 600, 1000), box(600, 0, 600, 1000)], ["east", "west"])
    with pytest.raises(InputError, match="120 of 120 plots do not lie in the stratum"):
        totals(place / "agb.tif", place / "fit", strata=swapped, **options)
    moved = areas(tmp_path / "m.gpkg", [box(0, 0, 500, 1000), box(500, 0, 700, 1000)], ["west", "east"])
    found = totals(place / "agb.tif", place / "fit", strata=moved, **options)
    x = predictions(place)["x"] - X0
    astray = int(((x > 500) & (x < 600)).sum())
    assert any(note.startswith(f"warning: {astray} plots do not lie") for note in found.notes)


def test_what_is_no_map_or_no_whole_table_is_refused(place, tmp_path):
    with pytest.raises(InputError, match="does not say what it is a map of"):
        totals(place / "emb.tif", place / "fit", tmp_path / "t.csv")
    shutil.copytree(place / "fit", tmp_path / "fit")
    table = tmp_path / "fit" / "predictions.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:61]))
    with pytest.raises(InputError, match=r"predictions\.csv: holds 60 plots, scores\.json beside it says 120"):
        totals(place / "agb.tif", tmp_path / "fit", tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def test_formats_hold_the_same_figures(place, tmp_path):
    path = areas(tmp_path / "a.gpkg", [box(0, 0, 600, 600), box(1100, 0, 200, 50)], ["one", "two"], "stand")
    options = {"areas": path, "name": "stand", "level": 0.8}
    row = totals(place / "agb.tif", place / "fit", tmp_path / "t.csv", **options).rows[1]
    totals(place / "agb.tif", place / "fit", tmp_path / "t.json", **options)
    totals(place / "agb.tif", place / "fit", tmp_path / "t.gpkg", **options)
    with (tmp_path / "t.csv").open() as file:
        text = list(csv.DictReader(file))
    plain = json.loads((tmp_path / "t.json").read_text())
    frame = geopandas.read_file(tmp_path / "t.gpkg")
    assert (
        [line["area"] for line in text]
        == [line["area"] for line in plain["areas"]]
        == list(frame.area_ha.index.map(frame["area"]))
    )
    for name in ("mean", "mean_se", "total_low", "data_share", "parameter_se"):
        expected = getattr(row, name)
        assert float(text[1][name]) == plain["areas"][1][name] == frame[name][1] == expected
    assert (text[0]["level"], plain["level"], frame["level"][0]) == ("0.8", 0.8, 0.8)
    assert plain["correlation"]["kind"] in ("exponential", "spherical")
    assert frame.crs.to_epsg() == 2154
    assert shapely.area(frame.geometry[1]) == pytest.approx(10_000)
    assert {item.name for item in tmp_path.iterdir()} == {"a.gpkg", "t.csv", "t.json", "t.gpkg"}


@pytest.mark.parametrize(
    ("unit", "total_unit"),
    [("Mg/ha", "Mg"), ("m3 ha-1", "m3"), ("t / ha", "t"), ("Mg ha^-1", "Mg"), ("m", ""), ("m2/m2", ""), ("", "")],
)
def test_totals_are_of_units_per_hectare_alone(place, tmp_path, unit, total_unit):
    folder = tmp_path / "fit"
    shutil.copytree(place / "fit", folder)
    card = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps({**card, "unit": unit}))
    shutil.copy(place / "agb.tif", tmp_path / "agb.tif")
    with rasterio.open(tmp_path / "agb.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.units = (unit, *dataset.units[1:])
        dataset.update_tags(unit=unit)
    found = totals(tmp_path / "agb.tif", folder, tmp_path / "t.csv")
    assert found.rows[0].total_unit == total_unit
    assert np.isfinite(found.rows[0].total) == bool(total_unit)
    assert found.rows[0].mean > 100
    assert any("means are given, totals are not" in note for note in found.notes) == (not total_unit)
    with (tmp_path / "t.csv").open() as file:
        assert (next(csv.DictReader(file))["total"] == "") == (not total_unit)


def test_map_and_model_of_different_things_are_refused(place, tmp_path):
    folder = tmp_path / "fit"
    shutil.copytree(place / "fit", folder)
    card = json.loads((folder / "scores.json").read_text())
    for change, said in (({"unit": "kg/m2"}, "is in Mg/ha, the plots in .* are in kg/m2"), ({"target": "volume"}, "map of agb")):
        (folder / "scores.json").write_text(json.dumps({**card, **change}))
        with pytest.raises(InputError, match=said):
            totals(place / "agb.tif", folder, tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"design": "grid"}, "--design 'grid'"),
        ({"level": 90.0}, "--level 90.0"),
        ({"design": "stratified"}, "needs --strata"),
        ({"name": "stand"}, "--name"),
        ({"out": "t.xlsx"}, r"\.csv, \.gpkg or \.json"),
        ({"out": "none/t.csv"}, "folder does not exist"),
        ({"model": "nothing"}, "no scores there"),
    ],
)
def test_options_that_cannot_be_leave_nothing_behind(place, tmp_path, options, said):
    target, model = tmp_path / options.pop("out", "t.csv"), options.pop("model", None)
    with pytest.raises((ConfigError, InputError), match=said) as caught:
        totals(place / "agb.tif", place / "fit" if model is None else tmp_path / model, target, **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_command_prints_the_table_and_ends_with_one_when_an_area_is_set_aside(place, tmp_path):
    good = areas(tmp_path / "good.gpkg", [box(0, 0, 600, 600)], ["a"])
    mixed = areas(tmp_path / "mixed.gpkg", [box(0, 0, 600, 600), box(9000, 0, 50, 50)], ["a", "b"])
    none = areas(tmp_path / "none.gpkg", [box(9000, 0, 50, 50)], ["b"])
    words = ["total", str(place / "agb.tif"), "--model", str(place / "fit"), "--design", "random"]
    fine = CliRunner().invoke(app, [*words, "--areas", str(good), "--out", str(tmp_path / "good.csv")])
    assert fine.exit_code == 0
    lines = fine.output.splitlines()
    assert lines[0] == "agb (Mg/ha), 120 held-out plots, design random"
    assert lines[-1] == f"totals: {tmp_path / 'good.csv'}"
    assert any(line.startswith("GREG:") for line in lines)
    partly = CliRunner().invoke(app, [*words, "--areas", str(mixed), "--out", str(tmp_path / "mixed.csv")])
    assert partly.exit_code == 1
    assert "set aside: b: outside the map" in partly.output
    assert len((tmp_path / "mixed.csv").read_text().splitlines()) == 2
    failed = CliRunner().invoke(app, [*words, "--areas", str(none), "--out", str(tmp_path / "none.csv")])
    assert isinstance(failed.exception, InputError)
    assert not (tmp_path / "none.csv").exists()


def test_map_of_noisy_cells_cut_off_at_zero_is_corrected_by_its_plots(tmp_path):
    """Cells of 10 m are noisier than plots of 30 m radius: cut off at 0, they are too high on average, plots are not."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(100, 120)), 5, mode="wrap")
    smooth /= smooth.std()
    truth = np.maximum(0.0, 50 + 40 * smooth)
    embedding = write_map(tmp_path / "emb.tif", (smooth + 2 * rng.normal(size=smooth.shape))[None])
    x, y = X0 + rng.uniform(30, WIDE - 30, 120), Y0 - rng.uniform(30, HIGH - 30, 120)
    surface = MapCells(write_map(tmp_path / "truth.tif", truth[None]))
    measured = surface.means(shapely.buffer(shapely.points(x, y), 30))
    labels = write_points(tmp_path / "p.gpkg", x, y, agb=measured, radius=30.0)
    fit(embedding, labels, "agb", tmp_path / "fit", unit="Mg/ha")
    predict(tmp_path / "fit", embedding, tmp_path / "m.tif")
    for design in ("random", "none"):
        found = totals(tmp_path / "m.tif", tmp_path / "fit", tmp_path / "t.csv", design=design)
        row = found.rows[0]
        assert row.map_mean > truth.mean() + 5
        assert row.correction < -5
        assert abs(row.mean - truth.mean()) < 3 * row.mean_se
        assert any(note.startswith("map and model differ by +") for note in found.notes)


def test_the_table_never_replaces_the_polygons_that_it_is_of(place, tmp_path):
    geopandas.GeoDataFrame({"name": ["a"]}, geometry=[shapely.box(X0, Y0 - 200, X0 + 200, Y0)], crs="EPSG:2154").to_file(
        tmp_path / "stands.gpkg"
    )
    before = (tmp_path / "stands.gpkg").read_bytes()
    with pytest.raises(InputError, match="which the table would replace"):
        totals(place / "agb.tif", place / "fit", tmp_path / "stands.gpkg", areas=tmp_path / "stands.gpkg")
    assert (tmp_path / "stands.gpkg").read_bytes() == before
