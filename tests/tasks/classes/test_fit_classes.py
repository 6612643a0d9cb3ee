"""From a map and labelled ground to a classifier with honest scores, and its map."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score, jaccard_score, precision_score, recall_score

from fusion3d.errors import ConfigError, InputError
from fusion3d.io.geotiff import write_cog
from fusion3d.io.raster import open_raster
from fusion3d.mapping.class_map import class_map
from fusion3d.report.class_map import class_map_section, is_class_map
from fusion3d.report.class_predictions import class_predictions_section
from fusion3d.tasks.classes.class_card import ClassCard, is_class_fit
from fusion3d.tasks.classes.class_model_file import is_class_model, read_class_model
from fusion3d.tasks.classes.fit_classes import fit_classes
from fusion3d.tasks.classes.labelled_cells import labelled_cells
from fusion3d.tasks.classes.raster_categories import raster_categories
from fusion3d.tasks.classes.scores import class_scores
from tests.tasks.places import LAMBERT, X0, Y0, write_map

SIZE, FIELD = 40, 5
NAMES = np.array(["forest", "maize", "meadow"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """64 fields of 50 m with a class each; two bands tell it but for noise, two say nothing; one corner is not mapped."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    of_field = rng.integers(0, 3, (SIZE // FIELD, SIZE // FIELD))
    of_cell = np.kron(of_field, np.ones((FIELD, FIELD), int))
    centres = np.array([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    bands = np.concatenate([np.moveaxis(centres[of_cell], 2, 0), np.zeros((2, SIZE, SIZE))]) + rng.normal(size=(4, SIZE, SIZE))
    bands[:, :2, :2] = np.nan
    embedding = write_map(folder / "emb.tif", bands, sensors="s2")
    row, col = np.divmod(np.arange(of_field.size), SIZE // FIELD)
    side = FIELD * 10
    shapes = shapely.box(X0 + col * side, Y0 - (row + 1) * side, X0 + (col + 1) * side, Y0 - row * side)
    frame = geopandas.GeoDataFrame({"id": np.arange(64), "use": NAMES[of_field.ravel()]}, geometry=shapes, crs=LAMBERT)
    frame.to_file(folder / "fields.gpkg")
    return folder, embedding, of_cell


@pytest.fixture(scope="module")
def fitted(place, tmp_path_factory):
    folder, embedding, _ = place
    return fit_classes(embedding, folder / "fields.gpkg", "use", tmp_path_factory.mktemp("fit"), task="crops", block=100)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_scikit_learn_on_the_table(fitted):
    rows, card = rows_of(fitted.out), fitted.card
    true, said = [row["measured"] for row in rows], [row["predicted"] for row in rows]
    names = list(card.classes)
    assert [list(row) for row in card.model.confusion] == confusion_matrix(true, said, labels=names).tolist()
    assert card.model.macro_f1.value == pytest.approx(f1_score(true, said, average="macro"))
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score), ("iou", jaccard_score)):
        found = [getattr(each, name).value for each in card.model.classes]
        np.testing.assert_allclose(found, score(true, said, labels=names, average=None))
    assert cohen_kappa_score(true, said) > 0.7
    assert card.commonest.accuracy.value < 0.5 < card.model.accuracy.low < card.model.accuracy.value < card.model.accuracy.high


def test_bayes_rate_is_reached_and_probabilities_are_calibrated(fitted, place):
    """Gaussian classes of unit variance: the best rule is the nearest centre, weighted by how common a class is."""
    _, embedding, of_cell = place
    with rasterio.open(embedding) as dataset:
        bands = dataset.read([1, 2])
    centres = np.array([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    distance = ((bands[None] - centres[:, :, None, None]) ** 2).sum(axis=1)
    seen = np.isfinite(bands[0])
    best = (np.where(seen, distance, 0).argmin(axis=0) == of_cell)[seen].mean()
    assert fitted.card.model.accuracy.value == pytest.approx(best, abs=0.015)
    assert fitted.card.calibration_error < 0.04


def test_fields_are_whole_in_a_fold_and_vote(fitted):
    rows, card = rows_of(fitted.out), fitted.card
    folds: dict[str, set[str]] = {}
    votes: dict[str, list[str]] = {}
    for row in rows:
        folds.setdefault(row["unit"], set()).add(row["fold"])
        votes.setdefault(row["unit"], []).append(row["predicted"])
    assert len(folds) == card.fields.n == 64
    assert all(len(each) == 1 for each in folds.values())
    truth = {row["unit"]: row["measured"] for row in rows}
    right = [max(set(said), key=said.count) == truth[unit] for unit, said in votes.items()]
    assert card.fields.accuracy.value == pytest.approx(np.mean(right), abs=1 / 64)
    assert card.fields.accuracy.value > card.model.accuracy.value


def test_files_come_back_and_damaged_ones_are_one_line(fitted, tmp_path):
    assert ClassCard.read(fitted.out).to_json() == fitted.card.to_json()
    assert is_class_fit(fitted.out)
    assert is_class_model(fitted.out)
    model = read_class_model(fitted.out)
    assert model.legend == fitted.model.legend
    (tmp_path / "model.safetensors").write_bytes((fitted.out / "model.safetensors").read_bytes())
    plain = json.loads((fitted.out / "model.json").read_text())
    for wrong in (
        plain | {"classes": plain["classes"][:1]},
        plain | {"temperature": 0},
        plain | {"kind": "ridge"},
        plain | {"features": []},
        plain | {"sha256": "0"},
        {key: value for key, value in plain.items() if key != "classes"},
        [],
    ):
        (tmp_path / "model.json").write_text(json.dumps(wrong))
        with pytest.raises(InputError) as caught:
            read_class_model(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["linear", "forest"])
def test_map_is_the_same_whatever_the_block(kind, place, tmp_path):
    folder, embedding, _ = place
    found = fit_classes(embedding, folder / "fields.gpkg", "use", tmp_path / "fit", model=kind, folds=2)
    maps = []
    for block in (7, 256):
        summary = class_map(found.out, embedding, tmp_path / f"{block}.tif", block=block)
        with rasterio.open(summary.output) as classes, rasterio.open(summary.confidence) as sure:
            maps.append((classes.read(1), sure.read(1)))
            assert classes.colormap(1)[1][:3] == (0x2F, 0x7D, 0x3A)
            assert classes.tags()["class_2"] == "maize"
            assert (classes.nodata, classes.count) == (0, 1)
            assert np.isnan(sure.nodata)
    for one, other in zip(*maps, strict=True):
        np.testing.assert_array_equal(one, other)
    codes, sure = maps[0]
    assert (codes[:2, :2] == 0).all()
    assert np.isnan(sure[:2, :2]).all()
    assert (codes == 0).sum() == np.isnan(sure).sum() == 4
    assert np.nanmin(sure) > 1 / 3 - 1e-6


def test_names_of_a_map_are_read_back_from_its_side_file_alone(fitted, place, tmp_path):
    """As GDAL's categories, which is what QGIS shows in its legend."""
    class_map(fitted.out, place[1], tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as dataset:
        write_cog(tmp_path / "bare.tif", dataset.read(), x0=X0, y0=Y0, pixel=10.0, crs=LAMBERT, nodata=0)
    assert not raster_categories(tmp_path / "bare.tif").names
    (tmp_path / "map.tif.aux.xml").rename(tmp_path / "bare.tif.aux.xml")
    assert raster_categories(tmp_path / "bare.tif").names == {"1": "forest", "2": "maize", "3": "meadow"}


def test_report_shows_matrix_and_map(fitted, place, tmp_path):
    body = class_predictions_section(fitted.out)
    assert body.count("data:image/png") == 1
    assert all(name in body for name in NAMES)
    class_map(fitted.out, place[1], tmp_path / "crops.tif")
    assert is_class_map(tmp_path / "crops.tif")
    assert not is_class_map(place[1])
    assert class_map_section(tmp_path / "crops.tif", None, "use").count("data:image/png") == 1


def boxes(path: Path, *rows: tuple[str, float, float, float, float]) -> Path:
    """Boxes west, south, east, north in metres from the map's north-west corner, with a class each."""
    shapes = [shapely.box(X0 + west, Y0 + south, X0 + east, Y0 + north) for _, west, south, east, north in rows]
    geopandas.GeoDataFrame({"c": [row[0] for row in rows]}, geometry=shapes, crs=LAMBERT).to_file(path)
    return path


def test_mixed_and_disputed_cells_are_left_out_and_said(tmp_path):
    embedding = open_raster(write_map(tmp_path / "e.tif", np.ones((1, 4, 4))))
    labels = boxes(tmp_path / "b.gpkg", ("a", 0, -10, 14, 0), ("b", 14, -10, 40, 0), ("a", 20, -10, 30, 0))
    found = labelled_cells(embedding, labels, "c")
    # cell 1 is 0.4 a and 0.6 b; cell 2 is both; cells 0 and 3 are plain
    assert found.col.tolist() == [0, 1, 3]
    assert [found.legend.names[at] for at in found.place] == ["a", "b", "b"]
    np.testing.assert_allclose(found.share, [1.0, 0.6, 1.0])
    text = "; ".join(found.notes)
    assert "1 pairs of polygons of different classes overlap, by 100 m2" in text
    assert "1 cells left out: polygons of different classes" in text
    labels = boxes(tmp_path / "m.gpkg", ("a", 0, -10, 4, 0), ("b", 4, -10, 8, 0), ("a", 10, -10, 20, 0))
    found = labelled_cells(embedding, labels, "c")
    assert found.col.tolist() == [1]
    assert found.notes == ("1 cells left out: no class has half of them",)


def test_raster_majorities_names_and_merged_classes(tmp_path):
    """Four pixels a cell: two codes of one name make a majority together; what the table does not name is no class."""
    embedding = open_raster(write_map(tmp_path / "e.tif", np.ones((1, 1, 4))))
    fine = np.array([[5, 6, 1, 1, 0, 0, 9, 9], [1, 7, 1, 5, 0, 1, 9, 9]], np.uint8)
    write_cog(tmp_path / "c.tif", fine[None], x0=X0, y0=Y0, pixel=5.0, crs=LAMBERT, nodata=0, tags={"class_5": "wheat"})
    plain = labelled_cells(embedding, tmp_path / "c.tif", None)
    assert (plain.col.tolist(), plain.legend.names) == ([1, 3], ("1", "9"))
    (tmp_path / "n.yaml").write_text("5: crop\n6: crop\n1: {name: water, colour: '#0000FF'}\n7: crop\n")
    from fusion3d.tasks.classes.legend import read_class_names

    found = labelled_cells(embedding, tmp_path / "c.tif", None, names=read_class_names(tmp_path / "n.yaml"))
    assert (found.col.tolist(), found.legend.names, found.legend.codes) == ([0, 1], ("water", "crop"), (1, 5))
    assert found.share.tolist() == [0.75, 0.75]
    assert found.legend.colours[0] == "#0000ff"
    assert "1 cells left out: --classes does not name 9" in found.notes


def test_columns_of_an_open_map_make_one_set_of_classes(tmp_path):
    embedding = open_raster(write_map(tmp_path / "e.tif", np.ones((1, 4, 4))))
    shapes = [shapely.box(X0 + west, Y0 - 10, X0 + west + 10, Y0) for west in (0, 10, 20)]
    frame = geopandas.GeoDataFrame(
        {"natural": ["water", None, None], "landuse": [None, "forest", None]}, geometry=shapes, crs=LAMBERT
    )
    frame.to_crs(4326).to_file(tmp_path / "osm.geojson")
    found = labelled_cells(embedding, tmp_path / "osm.geojson", "natural,landuse")
    assert found.legend.names == ("landuse=forest", "natural=water")
    assert found.col.tolist() == [0, 1]


def test_labels_without_confidence_do_not_train(place, tmp_path):
    folder, embedding, _ = place
    (tmp_path / "w.yaml").write_text("maize: 0\n")
    found = fit_classes(embedding, folder / "fields.gpkg", "use", tmp_path / "out", confidence=tmp_path / "w.yaml")
    assert found.card.model.classes[1].predicted == 0
    assert found.card.model.classes[1].measured > 0
    (tmp_path / "w.yaml").write_text("mais: 0.5\n")
    with pytest.raises(InputError, match="names 'mais'; the classes are forest, maize, meadow"):
        fit_classes(embedding, folder / "fields.gpkg", "use", tmp_path / "out", confidence=tmp_path / "w.yaml")


def test_class_of_one_field_is_said_to_be_in_one_fold(place, tmp_path):
    folder, embedding, _ = place
    frame = geopandas.read_file(folder / "fields.gpkg")
    frame.loc[20, "use"] = "vine"
    frame.to_file(tmp_path / "f.gpkg")
    found = fit_classes(embedding, tmp_path / "f.gpkg", "use", tmp_path / "out")
    assert "class vine is in one fold only (25 cells): held out, it can never be predicted" in found.card.notes


def test_noise_is_not_told_apart(place, tmp_path):
    """Classes without relation to the map: blocks give no better than the commonest class."""
    folder, _, _ = place
    noise = write_map(tmp_path / "noise.tif", np.random.default_rng(1).normal(size=(6, SIZE, SIZE)))
    card = fit_classes(noise, folder / "fields.gpkg", "use", tmp_path / "out").card
    assert card.model.accuracy.value < card.commonest.accuracy.value + 0.05
    assert card.model.accuracy.value < 0.45


def test_wrong_options_are_one_line(place, tmp_path):
    folder, embedding, _ = place
    labels = folder / "fields.gpkg"
    with pytest.raises(ConfigError, match="linear or forest"):
        fit_classes(embedding, labels, "use", tmp_path, model="ridge")
    with pytest.raises(ConfigError, match="--target NAME"):
        fit_classes(embedding, labels, None, tmp_path)
    with pytest.raises(InputError, match="has one class there"):
        fit_classes(embedding, boxes(tmp_path / "one.gpkg", ("a", 0, -100, 100, 0)), "c", tmp_path)
    with pytest.raises(InputError, match="no whole numbers"):
        fit_classes(embedding, write_map(tmp_path / "v.tif", np.full((1, SIZE, SIZE), 0.5)), None, tmp_path)


def test_undefined_scores_are_not_numbers():
    found = class_scores(np.array([0, 0, 1]), np.array([0, 0, 0]), 3, np.array([0, 1, 2]))
    assert found.confusion == ((2, 0, 0), (1, 0, 0), (0, 0, 0))
    assert found.classes[1].recall.value == 0.0
    assert np.isnan(found.classes[1].precision.value)
    assert np.isnan(found.classes[2].recall.value)
    assert found.macro_f1.value == pytest.approx((0.8 + 0.0) / 2)
