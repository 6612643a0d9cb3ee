"""Maps of a small scene by real encoders: values do not depend on tiles, nodata where nothing was seen."""

from __future__ import annotations

import math

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from pyproj import CRS

from fusion3d.data.chips import read_chips
from fusion3d.errors import ConfigError, InputError, StoreError
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.mapping.embed import Mapper, embed, footprints_to_cells
from fusion3d.store import Store
from tests.data.scene import NO_POINTS, X0, Y0, write_scene
from tests.evaluation.checkpoints import write_checkpoint

SENSORS = ["als", "coarse", "gedi", "ortho", "s2"]
ROWS, COLS = 24, 36


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("embed")
    store = write_scene(folder / "scene.zarr", (*SENSORS, "far"), rows=ROWS, cols=COLS)
    return str(write_checkpoint(folder / "random.ckpt", store, SENSORS)), store


def read(path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def mapped(scene, path, **options) -> np.ndarray:
    embed(*scene, path, progress=False, device="cpu", **options)
    return read(path)


# -- values


@pytest.mark.parametrize("sensors", [["als"], ["ortho"], ["s2"], ["coarse"], ["gedi"], None])
def test_values_do_not_depend_on_the_tiles(scene, tmp_path, sensors):
    whole, *others = (mapped(scene, tmp_path / f"{tile}.tif", sensors=sensors, tile=tile) for tile in (64, 7, 17))
    for other in others:
        np.testing.assert_allclose(other, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("resolution", [5.0, 20.0])
def test_values_at_another_resolution_do_not_depend_on_the_tiles(scene, tmp_path, resolution):
    whole, cut = (mapped(scene, tmp_path / f"{tile}.tif", resolution=resolution, tile=tile) for tile in (64, 11))
    assert whole.shape[1:] == (ROWS * 10 // resolution, COLS * 10 // resolution)
    np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-5)


def test_a_halo_is_needed_for_that(scene, tmp_path, monkeypatch):
    """The scene can tell: without a halo, tiles differ."""
    whole = mapped(scene, tmp_path / "whole.tif", sensors=["ortho"], tile=64)
    monkeypatch.setattr(Mapper, "_reach", lambda self, name: 0)
    cut = mapped(scene, tmp_path / "cut.tif", sensors=["ortho"], tile=7)
    assert np.abs(cut - whole).max() > 1e-3


def test_one_sensor_alone_gives_the_unit_vectors_of_its_encoder(scene, tmp_path):
    checkpoint, path = scene
    found = mapped(scene, tmp_path / "s2.tif", sensors=["s2"])
    store, module = Store.open(path), load_pretraining(checkpoint, "cpu")
    batch = read_chips(store, [(-6, -6)], 48, ["s2"])
    with torch.no_grad():
        shared = module.encoders["s2"](batch, "s2").shared.numpy().reshape(48, 48, -1)[6 : 6 + ROWS, 6 : 6 + COLS]
    expected = shared / np.linalg.norm(shared, axis=2, keepdims=True)
    np.testing.assert_allclose(found.transpose(1, 2, 0), expected, atol=1e-5)


def test_fused_embeddings_have_unit_length(scene, tmp_path):
    found = mapped(scene, tmp_path / "all.tif")
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1.0, atol=1e-5)


def test_a_fused_embedding_is_the_direction_of_the_mean_of_its_sensors(scene, tmp_path):
    one, other, both = (
        mapped(scene, tmp_path / f"{'_'.join(names)}.tif", sensors=names) for names in (["s2"], ["ortho"], ["s2", "ortho"])
    )
    mean = one + other
    np.testing.assert_allclose(both, mean / np.linalg.norm(mean, axis=0), atol=1e-5)


# -- nodata


def test_columns_without_points_are_nodata_and_no_others(scene, tmp_path):
    found = mapped(scene, tmp_path / "als.tif", sensors=["als"])
    unseen = np.zeros((ROWS, COLS), bool)
    unseen[NO_POINTS] = True
    np.testing.assert_array_equal(np.isnan(found), np.broadcast_to(unseen, found.shape))


def test_another_sensor_fills_them(scene, tmp_path):
    assert np.isfinite(mapped(scene, tmp_path / "two.tif", sensors=["als", "s2"])).all()


def test_footprints_are_written_under_themselves_alone(scene, tmp_path):
    found = np.isfinite(mapped(scene, tmp_path / "gedi.tif", sensors=["gedi"])).all(axis=0)
    # Shots in the middle of every third row of columns 10 and 30, one of them degraded: four neighbours are 10 m away.
    expected = np.zeros((ROWS, COLS), bool)
    for col in (10, 30):
        for row in range(1, ROWS, 3):
            if (row, col) != (1, 10):
                for south, east in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
                    expected[row + south, col + east] = True
    np.testing.assert_array_equal(found, expected)


def test_nothing_seen_is_an_error_and_leaves_no_file(tmp_path):
    store = write_scene(tmp_path / "scene.zarr", ("s2", "far"), rows=16, cols=16)
    donor = write_scene(tmp_path / "donor.zarr", ("s2", "ortho"), rows=16, cols=24)
    checkpoint = write_checkpoint(tmp_path / "c.ckpt", donor, ["s2", "ortho"])
    data = torch.load(checkpoint, weights_only=True)
    renamed = {name.replace("encoders.ortho", "encoders.far"): value for name, value in data["state_dict"].items()}
    data["hyper_parameters"]["scene"]["sensors"] = ["s2", "far"]
    options = data["hyper_parameters"]["encoder_options"]
    options["far"] = options.pop("ortho")
    torch.save({**data, "state_dict": renamed}, checkpoint)
    with pytest.raises(StoreError, match="saw none"):
        embed(checkpoint, store, [tmp_path / "far.tif", tmp_path / "far.parquet"], sensors=["far"], progress=False)
    assert not [item for item in tmp_path.iterdir() if "far" in item.name]


# -- footprints to cells


def test_a_footprint_in_the_middle_of_a_small_cell_reaches_those_within_its_radius():
    vectors = torch.tensor([[1.0, 0.0]])
    found, present = footprints_to_cells(vectors, torch.ones(1, dtype=torch.bool), torch.tensor([[21.0, 21.0]]), 2.0, 21)
    row, col = np.mgrid[:21, :21]
    np.testing.assert_array_equal(present.reshape(21, 21).numpy(), np.hypot(row - 10, col - 10) * 2 <= 12.5)
    np.testing.assert_allclose(found[present].numpy(), [[1.0, 0.0]] * int(present.sum()))


def test_overlapping_footprints_are_weighted_by_their_gaussians():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    position = torch.tensor([[5.0, 5.0], [13.0, 5.0]])
    found, present = footprints_to_cells(vectors, torch.ones(2, dtype=torch.bool), position, 10.0, 2)
    # The north-west cell's centre (5, 5) is 0 m from the first and 8 m from the second.
    expected = np.array([1.0, math.exp(-(8**2) / (2 * 6.25**2))])
    np.testing.assert_allclose(found[0].numpy(), expected / np.linalg.norm(expected), rtol=1e-6)
    # The south-eastern one (15, 15) is 14.1 m from the first, 10.2 m from the second.
    np.testing.assert_allclose(found[3].numpy(), [0.0, 1.0], atol=1e-7)
    assert present.all()


def test_a_footprint_counts_for_its_own_cell_however_large():
    found, present = footprints_to_cells(
        torch.tensor([[0.0, 1.0]]), torch.ones(1, dtype=torch.bool), torch.tensor([[1.0, 1.0]]), 2000.0, 2
    )
    assert present.tolist() == [True, False, False, False]
    assert found[0].tolist() == [0.0, 1.0]


def test_footprints_that_are_not_present_or_not_there_leave_nothing():
    empty, present = footprints_to_cells(torch.zeros(0, 2), torch.zeros(0, dtype=torch.bool), torch.zeros(0, 2), 10.0, 3)
    assert empty.shape == (9, 2)
    assert not present.any()
    _, hidden = footprints_to_cells(torch.ones(1, 2), torch.zeros(1, dtype=torch.bool), torch.ones(1, 2), 10.0, 3)
    assert not hidden.any()


# -- files


def test_the_cog_has_place_names_nodata_tags_and_overviews(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("large")
    store = write_scene(folder / "scene.zarr", ("s2", "coarse"), rows=40, cols=48)
    checkpoint = write_checkpoint(folder / "c.ckpt", store, ["s2", "coarse"])
    embed(checkpoint, store, tmp_path / "emb.tif", sensors=["coarse"], resolution=0.625, progress=False)
    with rasterio.open(tmp_path / "emb.tif") as dataset:
        assert dataset.crs == CRS("EPSG:2154")
        assert (dataset.transform.c, dataset.transform.f) == (X0, Y0)
        assert dataset.res == (0.625, 0.625)
        assert dataset.shape == (640, 768)
        assert dataset.descriptions == tuple(f"emb_{number:03d}" for number in range(8))
        assert math.isnan(dataset.nodata)
        assert dataset.dtypes == ("float32",) * 8
        assert dataset.overviews(1)
        assert set(dataset.block_shapes) == {(512, 512)}
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert {"sensors": "coarse", "checkpoint": str(checkpoint), "resolution": "0.625"}.items() <= dataset.tags().items()


def test_cog_and_geoparquet_hold_the_same(scene, tmp_path):
    summary = embed(*scene, [tmp_path / "emb.tif", tmp_path / "emb.parquet"], sensors=["als", "gedi"], tile=10, progress=False)
    raster, frame = read(tmp_path / "emb.tif"), geopandas.read_parquet(tmp_path / "emb.parquet")
    assert frame.crs == CRS("EPSG:2154")
    assert len(frame) == summary.observed == int(np.isfinite(raster[0]).sum())
    assert not frame.duplicated(["row", "col"]).any()
    values = frame.filter(like="emb_").to_numpy()
    np.testing.assert_array_equal(values, raster[:, frame["row"], frame["col"]].T)
    with rasterio.open(tmp_path / "emb.tif") as dataset:
        sampled = np.array(list(dataset.sample(zip(frame.geometry.x, frame.geometry.y, strict=True))))
    np.testing.assert_array_equal(sampled, values)
    at = frame.set_index(["row", "col"])["sensors"]
    assert list(at.loc[7, 10]) == ["als", "gedi"]
    assert list(at.loc[7, 20]) == ["als"]
    assert summary.seen["als"] == ROWS * COLS - 16
    assert str(tmp_path / "emb.parquet") in str(summary)


def test_tiles_without_data_are_skipped(scene, tmp_path):
    summary = embed(*scene, tmp_path / "gedi.tif", sensors=["gedi"], tile=4, progress=False)
    # Tracks at columns 10 and 30 reach columns 9 to 11 and 29 to 31: tiles 2 and 7 of 9.
    assert summary.tiles == 6 * 9
    assert summary.empty == 6 * 7


def test_an_interrupted_map_leaves_what_was_there(scene, tmp_path, monkeypatch):
    path = tmp_path / "emb.tif"
    path.write_text("older")

    def stop(self, window, batches):
        raise KeyboardInterrupt

    monkeypatch.setattr(Mapper, "embed", stop)
    with pytest.raises(KeyboardInterrupt):
        embed(*scene, [path, tmp_path / "emb.parquet"], progress=False)
    assert [item.name for item in tmp_path.iterdir()] == ["emb.tif"]
    assert path.read_text() == "older"


# -- refusals


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sensors": ["hsi"]}, "no encoder for sensor 'hsi'"),
        ({"resolution": 7.0}, "do not fit columns"),
        ({"tile": 0}, "--tile 0"),
        ({"device": "cuda:99"}, "no such CUDA device"),
    ],
)
def test_options_that_cannot_be_are_named(scene, tmp_path, options, text):
    with pytest.raises(ConfigError, match=text):
        embed(*scene, tmp_path / "emb.tif", progress=False, **options)
    assert not list(tmp_path.iterdir())


def test_a_sensor_that_only_the_checkpoint_has_is_named(scene, tmp_path):
    store = write_scene(tmp_path / "other.zarr", ("s2",), rows=16, cols=16)
    with pytest.raises(ConfigError, match="has no sensor 'ortho'; it has s2"):
        embed(scene[0], store, tmp_path / "emb.tif", sensors=["ortho"], progress=False)


def test_outputs_are_told_by_their_ending(scene, tmp_path):
    with pytest.raises(ConfigError, match=r"\.tif \(COG\) or \.parquet"):
        embed(*scene, tmp_path / "emb.csv")
    with pytest.raises(ConfigError, match="twice"):
        embed(*scene, [tmp_path / "emb.tif"] * 2)
    with pytest.raises(ConfigError, match="--out"):
        embed(*scene, [])
    with pytest.raises(InputError, match="nowhere"):
        embed(*scene, tmp_path / "nowhere" / "emb.tif", progress=False)
