"""The area-based approach beside a learned model: same plots, same folds, the store's own points."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fusion3d.errors import ConfigError, InputError, StoreError
from fusion3d.io.las_writer import write_points as write_laz
from fusion3d.mapping.metrics_map import metrics_map
from fusion3d.mapping.predict import predict
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, RasterInput, Scene
from fusion3d.tasks.area_based import METHODS
from fusion3d.tasks.fit import fit
from fusion3d.tasks.scorecard import Scorecard
from tests.tasks.places import LAMBERT, X0, Y0, write_map, write_points

SIDE = 400


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns evenly spread from the ground to a smooth canopy of 2 m to 30 m; biomass is 0.3 of its height squared.

    The map holds noise alone: what is learned from it must not help the area-based approach.
    """
    folder = tmp_path_factory.mktemp("aba")
    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 25, mode="wrap")
    canopy = 2 + 28 * (field - field.min()) / np.ptp(field)
    x, y = rng.uniform(0, SIDE, (2, 2 * SIDE**2))
    top = canopy[y.astype(int), x.astype(int)]
    attributes = {name: np.ones(len(x), np.uint8) for name in ("return_number", "number_of_returns", "classification")}
    attributes["intensity"] = rng.integers(1, 200, len(x)).astype(np.uint16)
    height = top * rng.uniform(size=len(x))
    laz = write_laz(folder / "points.laz", X0 + x, Y0 - y, height, attributes, crs=LAMBERT)
    store = folder / "scene.zarr"
    prepare(Scene(AlsSource((str(laz),), normalized=True)), store, quiet=True)
    east, south = rng.uniform(15, SIDE - 15, (2, 70))
    height = canopy[south.astype(int), east.astype(int)]
    labels = write_points(folder / "plots.gpkg", X0 + east, Y0 - south, agb=0.3 * height**2)
    return write_map(folder / "emb.tif", rng.normal(size=(4, 40, 40))), labels, store


def test_metrics_explain_what_noise_does_not(place, tmp_path):
    embedding, labels, store = place
    found = fit(embedding, labels, "agb", tmp_path / "out", unit="Mg/ha", radius=9, store=store)
    card = found.scorecard
    assert card.model.r2.value < 0.2
    assert set(card.area_based) == set(METHODS)
    # 250 m2 of canopy that changes over 25 m: the plot's centre is not its mean
    assert card.area_based["area-based, random forest"].r2.value > 0.75
    assert card.area_based["area-based, power law"].r2.value > 0.85
    assert all(name in str(found) for name in METHODS)
    assert {scores.n for scores in card.area_based.values()} == {70}
    again = Scorecard.read(tmp_path / "out")
    assert again.area_based == card.area_based
    assert again.store == str(store)


def test_it_is_scored_where_there_are_returns_and_says_so(place, tmp_path):
    """A map that reaches 400 m further than the points, and ten plots there."""
    _, labels, store = place
    rng = np.random.default_rng(1)
    plots = geopandas.read_file(labels)
    x = np.r_[plots.geometry.x, X0 + SIDE + rng.uniform(50, 350, 10)]
    y = np.r_[plots.geometry.y, Y0 - rng.uniform(50, 350, 10)]
    wider = write_points(tmp_path / "wider.gpkg", x, y, agb=np.r_[plots.agb, rng.uniform(0, 100, 10)])
    embedding = write_map(tmp_path / "wide.tif", rng.normal(size=(4, 40, 80)))
    found = fit(embedding, wider, "agb", tmp_path / "out", unit="Mg/ha", radius=9, store=store)
    assert found.scorecard.model.n == 80
    assert {scores.n for scores in found.scorecard.area_based.values()} == {70}
    assert "10 plots have too few returns for metrics" in str(found)


def test_store_without_points_or_of_another_place_is_refused(place, tmp_path):
    embedding, labels, store = place
    raster = write_map(tmp_path / "r.tif", np.ones((1, 40, 40)))
    bare = tmp_path / "bare.zarr"
    prepare(Scene(rasters={"canopy": RasterInput((str(raster),), "continuous")}), bare, quiet=True)
    with pytest.raises(StoreError, match="no aerial LiDAR"):
        fit(embedding, labels, "agb", tmp_path / "a", radius=9, store=bare)
    elsewhere = write_points(tmp_path / "e.gpkg", X0 + 1000 + np.arange(40) * 10.0, np.full(40, Y0 - 200), agb=np.arange(40.0))
    far = write_map(tmp_path / "far.tif", np.random.default_rng(2).normal(size=(4, 40, 160)))
    with pytest.raises(InputError, match="0 of 40 plots"):
        fit(far, elsewhere, "agb", tmp_path / "b", radius=4, store=store)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_the_approach_is_a_model_of_its_own_that_maps_metrics(place, tmp_path):
    embedding, labels, store = place
    metrics_map(store, tmp_path / "metrics.tif", resolution=20)
    found = fit(tmp_path / "metrics.tif", labels, "agb", tmp_path / "aba", unit="Mg/ha", radius=9, store=store, model="aba")
    card = found.scorecard
    assert (card.kind, card.dimensions) == ("aba", 84)
    assert card.method.startswith("the area-based approach")
    # it is the baseline of other fits: the same returns, folds and forest
    assert card.model == card.area_based["area-based, random forest"]
    mapped = predict(tmp_path / "aba", tmp_path / "metrics.tif", tmp_path / "agb.tif")
    assert mapped.mapped == 400
    assert abs(mapped.mean - found.held_out.measured.mean()) < 15
    with pytest.raises(ConfigError, match="--store STORE"):
        fit(tmp_path / "metrics.tif", labels, "agb", tmp_path / "no", radius=9, model="aba")
    with pytest.raises(InputError, match=r"emb\.tif: is no map of plot metrics .*fusion3d metrics"):
        fit(embedding, labels, "agb", tmp_path / "no", radius=9, model="aba", store=store)
    assert not (tmp_path / "no").exists()
