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
from fusion3d.encoders import FUSIONS
from fusion3d.errors import ConfigError, InputError, StoreError
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.mapping.embed import embed
from fusion3d.mapping.mapper import Mapper
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
    renamed = {name.replace(".ortho.", ".far."): value for name, value in data["state_dict"].items()}
    data["hyper_parameters"]["scene"]["sensors"] = ["s2", "far"]
    options = data["hyper_parameters"]["encoder_options"]
    options["far"] = options.pop("ortho")
    torch.save({**data, "state_dict": renamed}, checkpoint)
    with pytest.raises(StoreError, match="saw none"):
        embed(checkpoint, store, [tmp_path / "far.tif", tmp_path / "far.parquet"], sensors=["far"], progress=False)
    assert not [item for item in tmp_path.iterdir() if "far" in item.name]


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
    assert {item.name for item in tmp_path.iterdir()} == {"emb.tif", "emb.tif.partial"}
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


# -- ways to fuse


@pytest.mark.parametrize("options", [{"fusion": "mean"}, {"fusion": "attention"}, {"features": "all"}])
def test_values_of_every_fusion_do_not_depend_on_the_tiles(scene, tmp_path, options):
    whole, other = (mapped(scene, tmp_path / f"{tile}.tif", sensors=["gedi", "s2"], tile=tile, **options) for tile in (64, 11))
    np.testing.assert_allclose(other, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_where_a_sensor_ends_the_map_is_that_of_the_others(scene, tmp_path, fusion):
    both, alone = (
        mapped(scene, tmp_path / f"{'_'.join(names)}.tif", sensors=names, fusion=fusion, features="all")
        for names in (["als", "s2"], ["s2"])
    )
    unseen = np.zeros((ROWS, COLS), bool)
    unseen[NO_POINTS] = True
    np.testing.assert_allclose(both[:, unseen], alone[:, unseen], atol=1e-5)
    assert (np.abs(both - alone).max(axis=0) > 1e-3)[~unseen].all()


def test_cells_fused_in_pieces_are_those_of_the_whole(scene, tmp_path, monkeypatch):
    whole = mapped(scene, tmp_path / "whole.tif", sensors=["ortho", "s2"], features="all")
    monkeypatch.setattr("fusion3d.mapping.mapper._AT_ONCE", 100)
    np.testing.assert_allclose(mapped(scene, tmp_path / "cut.tif", sensors=["ortho", "s2"], features="all"), whole, atol=1e-6)


def test_all_features_are_the_shared_ones_and_then_the_fused_ones_by_name(scene, tmp_path):
    files = [tmp_path / "all.tif", tmp_path / "all.parquet"]
    summary = embed(*scene, files, sensors=["als", "s2"], features="all", progress=False)
    shared = mapped(scene, tmp_path / "shared.tif", sensors=["als", "s2"])
    names = [f"emb_{number:03d}" for number in range(8)] + [f"fused_{number:03d}" for number in range(8)]
    with rasterio.open(files[0]) as dataset:
        assert list(dataset.descriptions) == names
        assert dataset.tags()["features"] == "all"
        assert dataset.tags()["fusion"] == summary.fusion
    assert summary.dimensions == 16
    np.testing.assert_array_equal(read(files[0])[:8], shared)
    assert list(geopandas.read_parquet(files[1]).columns)[4:] == names


def without_fusion(checkpoint, path) -> str:
    """The checkpoint as it was written before there was a fusion to train."""
    data = torch.load(checkpoint, weights_only=True)
    data["state_dict"] = {n: v for n, v in data["state_dict"].items() if not n.startswith(("fusion.", "prediction."))}
    data["hyper_parameters"] = {n: v for n, v in data["hyper_parameters"].items() if not n.startswith("prediction")}
    torch.save(data, path)
    return str(path)


def test_a_checkpoint_without_fusion_is_mapped_by_the_mean_and_refuses_more(scene, tmp_path):
    old = without_fusion(scene[0], tmp_path / "old.ckpt"), scene[1]
    expected = mapped(scene, tmp_path / "mean.tif", sensors=["als", "s2"], fusion="mean")
    np.testing.assert_array_equal(mapped(old, tmp_path / "old.tif", sensors=["als", "s2"]), expected)
    for options, text in (({"fusion": "attention"}, "--fusion attention needs"), ({"features": "all"}, "--features all needs")):
        with pytest.raises(ConfigError, match=text):
            embed(*old, tmp_path / "no.tif", progress=False, **options)
    assert not (tmp_path / "no.tif").exists()


@pytest.mark.parametrize(
    ("options", "text"), [({"fusion": "max"}, "--fusion max"), ({"features": "private"}, "--features private")]
)
def test_unknown_ways_to_fuse_are_named(scene, tmp_path, options, text):
    with pytest.raises(ConfigError, match=text):
        embed(*scene, tmp_path / "emb.tif", progress=False, **options)


def test_features_of_each_sensor_stand_beside_the_shared_ones_and_are_0_where_it_saw_nothing(scene, tmp_path):
    path = tmp_path / "sensors.tif"
    values = mapped(scene, path, sensors=["als", "s2"], features="sensors")
    np.testing.assert_array_equal(values[:8], mapped(scene, tmp_path / "shared.tif", sensors=["als", "s2"]))
    with rasterio.open(path) as dataset:
        names = list(dataset.descriptions)
    width = (len(names) - 8) // 2
    assert names[8:] == [f"{sensor}_{number:03d}" for sensor in ("als", "s2") for number in range(width)]
    als, s2 = values[8 : 8 + width], values[8 + width :]
    unseen = np.zeros((ROWS, COLS), bool)
    unseen[NO_POINTS] = True
    assert not als[:, unseen].any()
    assert np.abs(als[:, ~unseen]).max(axis=0).min() > 0
    assert np.abs(s2).max(axis=0).min() > 0
    alone = mapped(scene, tmp_path / "s2.tif", sensors=["s2"], features="sensors")
    np.testing.assert_allclose(alone[8:], s2, atol=1e-6)
    # tiles of which a sensor saw nothing have its bands too
    np.testing.assert_allclose(
        mapped(scene, tmp_path / "cut.tif", sensors=["als", "s2"], features="sensors", tile=3), values, atol=1e-5
    )


def test_features_of_sensors_need_no_trained_fusion(scene, tmp_path):
    old = without_fusion(scene[0], tmp_path / "old.ckpt"), scene[1]
    found = mapped(old, tmp_path / "old.tif", sensors=["als", "s2"], features="sensors")
    np.testing.assert_array_equal(found[8:], mapped(scene, tmp_path / "new.tif", sensors=["als", "s2"], features="sensors")[8:])
