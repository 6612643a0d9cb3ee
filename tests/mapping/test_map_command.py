"""`fusion3d map` as it is typed: areas beside the map, and options that do not go together."""

from __future__ import annotations

import csv
from pathlib import Path

import fsspec
import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from typer.testing import CliRunner

from fusion3d.cli import app
from fusion3d.errors import ConfigError, CRSError, InputError
from fusion3d.tasks.classes.class_model import ClassModel
from fusion3d.tasks.classes.class_model_file import write_class_model
from fusion3d.tasks.classes.legend import Legend
from fusion3d.tasks.classes.logistic import Logistic
from fusion3d.tasks.fit import fit
from tests.tasks.places import X0, Y0, planted, write_map


def run(*words: object):
    return CliRunner().invoke(app, ["map", *map(str, words)])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Plots and a model of them; two areas on the map and one beside it."""
    folder = tmp_path_factory.mktemp("place")
    found = planted(folder, plots=80, bands=3)
    fit(found.embedding, found.labels, "agb", folder / "fit", unit="Mg/ha", block=200)
    boxes = [(0, 0, 400, 300), (615, 405, 200, 200), (9000, 0, 100, 100)]
    shapes = [shapely.box(X0 + left, Y0 - top - high, X0 + left + wide, Y0 - top) for left, top, wide, high in boxes]
    frame = geopandas.GeoDataFrame({"stand": ["oak", "fir", "far"]}, geometry=shapes, crs=2154)
    frame.to_file(folder / "all.gpkg")
    frame.head(2).to_file(folder / "stands.gpkg")
    return folder


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["area"]: row for row in csv.DictReader(file)}


def test_areas_are_summarised_as_total_does_with_the_share_that_is_extrapolated(place, tmp_path):
    words = ("--areas", place / "stands.gpkg", "--name", "stand", "--summary", tmp_path / "s.csv", "--quiet")
    done = run(place / "fit", place / "emb.tif", "--out", tmp_path / "agb.tif", *words)
    assert done.exit_code == 0, done.output
    with rasterio.open(tmp_path / "agb.tif") as dataset:
        estimate, outside = dataset.read(1).astype(float), dataset.read(5)
    rows = table(tmp_path / "s.csv")
    assert rows.keys() == {"oak", "fir"}
    assert float(rows["oak"]["map_mean"]) == pytest.approx(estimate[:30, :40].mean())
    assert float(rows["oak"]["extrapolated_share"]) == pytest.approx(outside[:30, :40].mean())
    # the square of 20 x 20 cells begins in the middle of a cell
    weights = np.ones((21, 21))
    weights[[0, -1]] /= 2
    weights[:, [0, -1]] /= 2
    inside = slice(40, 61), slice(61, 82)
    assert float(rows["fir"]["map_mean"]) == pytest.approx(np.average(estimate[inside], weights=weights))
    assert float(rows["fir"]["extrapolated_share"]) == pytest.approx(np.average(outside[inside], weights=weights))
    assert float(rows["fir"]["total"]) == pytest.approx(4 * float(rows["fir"]["mean"]))
    again = CliRunner().invoke(
        app,
        ["total", str(tmp_path / "agb.tif"), "--model", str(place / "fit"), "--areas", str(place / "stands.gpkg"), "--name",
         "stand", "--out", str(tmp_path / "t.csv")],
    )  # fmt: skip
    assert again.exit_code == 0
    assert (tmp_path / "t.csv").read_text() == (tmp_path / "s.csv").read_text()


def test_bucket_holds_the_same_map_table_and_areas_as_a_folder(place, s3, tmp_path):
    system, files = fsspec.filesystem("s3"), ("carte 1.tif", "carte 1.parquet", "été.csv")
    system.put_file(str(place / "emb.tif"), f"{s3}/emb.tif")

    def make(source: object, folder: object) -> None:
        tif, parquet, csv_file = (f"{folder}/{name}" for name in files)
        done = run(
            place / "fit", source, "--out", tif, "--columns", parquet, "--areas", place / "stands.gpkg", "--name", "stand",
            "--summary", csv_file, "--quiet",
        )  # fmt: skip
        assert done.exit_code == 0, done.exception
        assert tif in done.output

    here = tmp_path / "forêt d'été"
    here.mkdir()
    make(place / "emb.tif", here)
    make(f"{s3}/emb.tif", f"{s3}/forêt d'été")
    held = {path.rpartition("/")[2]: system.cat_file(path) for path in system.find(f"{s3}/forêt d'été")}
    assert held.keys() == set(files) == {path.name for path in here.iterdir()}
    assert held["été.csv"] == (here / "été.csv").read_bytes()
    with rasterio.open(here / "carte 1.tif") as local, rasterio.open(f"{s3}/forêt d'été/carte 1.tif") as remote:
        np.testing.assert_array_equal(local.read(), remote.read())
    failed = run(place / "fit", f"{s3}/emb.tif", "--out", f"{s3}/emb.tif").exception
    assert isinstance(failed, ConfigError)
    assert "is the map of embeddings itself" in str(failed)


def test_classes_in_a_bucket_come_with_their_confidence_and_names(classes, s3):
    done = run(classes, classes / "emb.tif", "--out", f"{s3}/c.tif", "--quiet")
    assert done.exit_code == 0, done.exception
    assert f"{s3}/c_confidence.tif" in done.output
    held = {path.rpartition("/")[2] for path in fsspec.filesystem("s3").find(s3)}
    assert held == {"c.tif", "c_confidence.tif", "c.tif.aux.xml"}


def test_area_beside_the_map_is_set_aside_and_the_rest_is_written(place, tmp_path):
    words = ("--areas", place / "all.gpkg", "--name", "stand", "--summary", tmp_path / "s.gpkg", "--quiet", "--estimate-only")
    done = run(place / "fit", place / "emb.tif", "--out", tmp_path / "agb.tif", *words)
    assert done.exit_code == 1
    assert "set aside: far: outside the map" in done.output
    frame = geopandas.read_file(tmp_path / "s.gpkg")
    assert list(frame["area"]) == ["oak", "fir"]
    # a map of the estimate alone does not say where its model extrapolates
    assert frame["extrapolated_share"].isna().all()


def test_summary_that_cannot_be_made_is_refused_before_the_map_is(place, tmp_path):
    base = (place / "fit", place / "emb.tif", "--out", tmp_path / "agb.tif")
    stands = ("--areas", place / "stands.gpkg")
    for words, kind, text in (
        (stands, ConfigError, "--areas needs --summary"),
        (("--summary", tmp_path / "s.csv"), ConfigError, "--summary needs --areas"),
        (("--name", "stand"), ConfigError, "--name and --layer are of --areas"),
        ((*stands, "--summary", tmp_path / "s.txt"), ConfigError, f"--summary {tmp_path / 's.txt'}: give a name that ends in"),
        ((*stands, "--summary", tmp_path / "s.csv", "--name", "no"), InputError, "has no column 'no'"),
        (("--areas", tmp_path / "none.gpkg", "--summary", tmp_path / "s.csv"), InputError, "does not exist"),
    ):
        failed = run(*base, *words).exception
        assert isinstance(failed, kind), (words, failed)
        assert text in str(failed)
        assert "\n" not in str(failed)
    assert not list(tmp_path.iterdir())


def test_a_crs_that_is_none_is_refused_though_the_raster_states_its_own(place, tmp_path):
    failed = run(place / "fit", place / "emb.tif", "--out", tmp_path / "agb.tif", "--crs", "nonsense").exception
    assert isinstance(failed, CRSError)
    assert "'nonsense' is not a CRS" in str(failed)
    assert not list(tmp_path.iterdir())


def test_a_fit_of_points_is_sent_to_segment(tmp_path):
    (tmp_path / "scores.json").write_text('{"format": "fusion3d point class scores"}')
    failed = run(tmp_path, tmp_path / "emb.tif", "--out", tmp_path / "agb.tif").exception
    assert isinstance(failed, ConfigError)
    assert "`fusion3d segment` applies it" in str(failed)


def test_cells_too_wide_for_the_raster_are_blamed_on_the_resolution(place, tmp_path):
    failed = run(place / "fit", place / "emb.tif", "--out", tmp_path / "agb.tif", "--resolution", 100_000).exception
    assert isinstance(failed, InputError)
    assert "data cover half of none of its cells of 100000 m" in str(failed)
    assert "finer --resolution" in str(failed)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """Class 3 where the band is above 0, else 1."""
    folder = tmp_path_factory.mktemp("classes")
    rule = Logistic(np.zeros(1), np.ones(1), np.array([[-1.0], [1.0]]), np.zeros(2), np.arange(2), 2)
    legend = Legend((1, 3), ("grass", "wood"), ("#a9d66f", "#2f7d3a"))
    write_class_model(ClassModel("landcover", "cover", legend, ("emb_000",), rule, "linear", 1.0), folder / "model.json")
    bands = np.random.default_rng(0).normal(size=(1, 90, 70))
    bands[:, 20:40, :50] = np.nan
    write_map(folder / "emb.tif", bands)
    return folder


def test_classes_are_the_same_bytes_whatever_blocks_and_workers(classes, tmp_path):
    for block, workers in ((256, 1), (13, 3)):
        done = run(
            classes, classes / "emb.tif", "--out", tmp_path / f"{block}.tif", "--block", block, "--workers", workers, "--quiet"
        )
        assert done.exit_code == 0, done.exception
    for end in (".tif", "_confidence.tif", ".tif.aux.xml"):
        assert (tmp_path / f"256{end}").read_bytes() == (tmp_path / f"13{end}").read_bytes()
    with rasterio.open(classes / "emb.tif") as source, rasterio.open(tmp_path / "13.tif") as found:
        band = source.read(1)
        np.testing.assert_array_equal(found.read(1), np.where(np.isnan(band), 0, np.where(band > 0, 3, 1)))


@pytest.mark.parametrize("option", ["--resolution 20", "--uncut", "--columns c.parquet", "--estimate-only", "--level 0.5"])
def test_options_of_a_variable_are_refused_for_classes(classes, tmp_path, option):
    failed = run(classes, classes / "emb.tif", "--out", tmp_path / "c.tif", *option.split()).exception
    assert isinstance(failed, ConfigError)
    assert str(failed) == f"{option.split()[0]} is for maps of a continuous variable, not of classes"
    assert not list(tmp_path.iterdir())
