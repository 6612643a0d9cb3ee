"""LAZ in, LAZ out with predicted classes: seamless, whole, and nothing else changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import laspy
import numpy as np
import pytest
from typer.testing import CliRunner

from fusion3d.cli import app
from fusion3d.errors import ConfigError, Fusion3DError, InputError
from fusion3d.mapping.segment import segment
from fusion3d.tasks.segmentation.pieces import Squares
from tests.tasks.segmentation.fitted import Fitted, fit_town
from tests.tasks.segmentation.towns import HOUSE, SIDE, X0, cut, slope, town, write


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Fitted:
    return fit_town(tmp_path_factory)


def run(fitted: Fitted, files, folder: Path, **options):
    return segment(fitted.fit.out, files, folder, progress=False, **options)


def answers(folder: Path, *names: str) -> tuple[np.ndarray, np.ndarray]:
    """Classes and confidence of files, joined and sorted by time, which numbers the points of the town."""
    read = [laspy.read(folder / f"{name}.laz") for name in names]
    time, code, confidence = (
        np.concatenate([np.asarray(las[dimension]) for las in read]) for dimension in ("gps_time", "classification", "confidence")
    )
    order = np.argsort(time)
    return code[order], confidence[order]


@pytest.fixture(scope="module")
def done(fitted, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    summary = run(fitted, fitted.tiles, folder, keep_original=True)
    assert [path.name for path in summary.outputs] == ["east.laz", "west.laz"]
    return folder


def test_houses_trees_and_ground_get_their_classes_and_points_stay_as_they_were(fitted, done):
    for tile in fitted.tiles:
        before, after = laspy.read(tile), laspy.read(done / tile.name)
        assert len(before) == len(after)
        for name in before.point_format.dimension_names:
            if name != "classification":
                np.testing.assert_array_equal(np.asarray(before[name]), np.asarray(after[name]))
        known = np.asarray(before.classification) != 1
        assert (np.asarray(before.classification) == np.asarray(after.classification))[known].mean() > 0.95
        np.testing.assert_array_equal(np.asarray(after.original_class), np.asarray(before.classification))
        assert 0.5 < np.asarray(after.confidence).mean() <= 1
        assert after.header.parse_crs() == before.header.parse_crs()


def same(one, other) -> None:
    """The same answers, but for rounding: the last bit of a sum can tip a class of even odds, or a per cent."""
    np.testing.assert_allclose(one[1], other[1], atol=0.0101)
    assert ((one[0] != other[0]) & (one[1] > 0.52)).sum() == 0


def test_answers_do_not_depend_on_the_squares(fitted, done, tmp_path):
    run(fitted, fitted.tiles, tmp_path, square=12)
    same(answers(tmp_path, "east", "west"), answers(done, "east", "west"))


def test_a_halo_is_needed_for_that(fitted, done, tmp_path, monkeypatch):
    """The town can tell: without a halo, squares differ."""
    monkeypatch.setattr(Squares, "of", classmethod(lambda cls, encoder, voxel, side: cls(voxel, 12, 2)))
    run(fitted, fitted.tiles, tmp_path)
    assert np.abs(answers(tmp_path, "east", "west")[1] - answers(done, "east", "west")[1]).max() > 0.05


def test_neighbouring_tiles_are_classified_as_one(fitted, done, tmp_path):
    points = town(2 * SIDE, SIDE)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "whole.laz", points)
    run(fitted, [tmp_path / "in" / "whole.laz"], tmp_path / "out")
    same(answers(tmp_path / "out", "whole"), answers(done, "east", "west"))


def test_answers_do_not_depend_on_the_classes_in_the_files(fitted, done, tmp_path):
    (tmp_path / "in").mkdir()
    for tile in fitted.tiles:
        las = laspy.read(tile)
        las.classification = np.zeros(len(las), np.uint8)
        las.write(tmp_path / "in" / tile.name)
    run(fitted, [tmp_path / "in"], tmp_path / "out")
    np.testing.assert_array_equal(answers(tmp_path / "out", "east", "west"), answers(done, "east", "west"))


def test_points_that_cannot_be_classified_are_unclassified_without_confidence(fitted, tmp_path):
    points = cut(town(30, 30), np.arange(1500))
    points["z"][:3] = slope(points["x"][:3], points["y"][:3]) + np.array([400.0, -60.0, 150.0])
    points["withheld"] = (np.arange(1500) == 10).astype(np.uint8)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.laz", points)
    summary = run(fitted, [tmp_path / "in" / "a.laz"], tmp_path / "out")
    las = laspy.read(tmp_path / "out" / "a.laz")
    none = np.asarray(las.confidence) == 0
    assert np.flatnonzero(none).tolist() == [0, 1, 2, 10]
    assert (np.asarray(las.classification)[none] == 1).all()
    assert (np.asarray(las.classification)[~none] != 1).all()
    assert summary.counts[1] == 4


def test_a_bad_file_is_set_aside_and_the_others_go_on(fitted, tmp_path):
    (tmp_path / "in").mkdir()
    tiles = [Path(shutil.copy(tile, tmp_path / "in")) for tile in fitted.tiles]
    raw = tiles[0].read_bytes()
    (tmp_path / "in" / "short.laz").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "in" / "text.laz").write_text("no points here")
    write(tmp_path / "in" / "elsewhere.laz", cut(town(20, 20), np.arange(50)), crs="EPSG:32631")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "west.laz").write_bytes(b"mine")
    words = ["segment", fitted.fit.out, tmp_path / "in", "--out-dir", tmp_path / "out", "--quiet"]
    finished = CliRunner().invoke(app, [str(word) for word in words])
    assert finished.exit_code == 1, finished.output
    lines = finished.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines[:-1]] == ["set aside"] * 4
    reasons = {"short": "truncated", "text": "not a LAS", "elsewhere": "give the files of each CRS apart", "west": "already"}
    for name, said in reasons.items():
        assert any(name in line and said in line for line in lines[:-1]), name
    assert lines[-1].startswith("1 file in")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["east.laz", "west.laz"]
    assert (tmp_path / "out" / "west.laz").read_bytes() == b"mine"


def test_inputs_are_not_written_over(fitted, tmp_path):
    tile = Path(shutil.copy(fitted.tiles[0], tmp_path))
    before = tile.read_bytes()
    with pytest.raises(ConfigError, match="which is an input"):
        run(fitted, [tile], tmp_path)
    assert tile.read_bytes() == before
    (tmp_path / "other").mkdir()
    shutil.copy(tile, tmp_path / "other")
    with pytest.raises(ConfigError, match="would both be written"):
        run(fitted, [tile, tmp_path / "other"], tmp_path / "out")


def test_nothing_usable_is_one_error_and_leaves_nothing(fitted, tmp_path):
    (tmp_path / "bad.laz").write_text("no points here")
    with pytest.raises(Fusion3DError, match="not a LAS or LAZ file"):
        run(fitted, [tmp_path / "bad.laz"], tmp_path / "out")
    with pytest.raises(InputError, match="no model there"):
        segment(tmp_path, fitted.tiles, tmp_path / "out", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.laz"]


def test_houses_in_feet_are_houses_too(fitted, tmp_path):
    """California zone 3, feet: voxels, heights and neighbourhoods are in metres whatever the unit of the files."""
    foot, points = 1200 / 3937, town(40, 32)
    points["x"], points["y"] = 6_000_000 + (points["x"] - X0) / foot, 2_000_000 + (points["y"] - points["y"].min()) / foot
    points["z"] = points["z"] / foot
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "feet.laz", points, crs="EPSG:2227")
    run(fitted, [tmp_path / "in" / "feet.laz"], tmp_path / "out")
    las = laspy.read(tmp_path / "out" / "feet.laz")
    house = points["classification"] == HOUSE
    assert (np.asarray(las.classification)[house] == HOUSE).mean() > 0.9
