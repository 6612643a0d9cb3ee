"""A whole scene on disk: complete or absent, the same by seed, and read like any other by `prepare`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from fusion3d.cli import app
from fusion3d.errors import ConfigError, InputError
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import read_scene
from fusion3d.prepare.summary import content_lines
from fusion3d.simulate import scene as scene_room
from fusion3d.simulate.guide import VISIBILITY
from fusion3d.simulate.model import Site
from fusion3d.simulate.scene import SceneOptions, simulate
from fusion3d.store import Store

SITE = Site(150, seed=3)
SPARSE = SceneOptions(density=2.0, passes=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "scene"
    simulate(SITE, out, SPARSE, quiet=True)
    return out


@pytest.fixture(scope="module")
def store(folder) -> Store:
    out = folder.with_name("scene.zarr")
    summary = prepare(read_scene(folder / "scene.yaml"), out, quiet=True)
    assert summary.set_aside == []
    return Store.open(out)


def digests(folder: Path, *suffixes: str) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.suffix in suffixes)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_prepare_reads_every_sensor_of_the_scene(store):
    assert set(store.sensors) >= {"als", "hsi", "ortho", "s1_asc", "s1_desc", "s2"}
    assert (store.grid.rows, store.grid.cols) == (15, 15)
    assert store.grid.pyproj_crs.to_epsg() == 2154
    assert len(store.raster_info("s2").bands) == 10
    assert len(store.raster_info("hsi").bands) == 200
    assert all(band.wavelength for band in store.raster_info("hsi").bands)
    assert {band.polarisation for band in store.raster_info("s1_asc").bands} == {"VV", "VH"}
    assert len([date for date in store.raster_info("s2").dates if date]) >= 20


def test_store_of_a_simulated_scene_says_so(store):
    assert "simulated data" in content_lines(store.attributes)[0]


def test_same_seed_gives_the_same_files(folder, tmp_path):
    simulate(SITE, tmp_path / "again", SPARSE, quiet=True)
    kinds = (".tif", ".h5", ".geojson", ".yaml")
    assert digests(tmp_path / "again", *kinds) == digests(folder, *kinds)


def test_another_seed_gives_another_place(folder, tmp_path):
    simulate(Site(150, seed=4), tmp_path / "other", SceneOptions(sensors=("s2",)), quiet=True)
    name = "truth/terrain.tif"
    assert digests(tmp_path / "other", ".tif")[name] != digests(folder, ".tif")[name]


def test_scene_without_a_sensor_does_not_name_it(tmp_path):
    simulate(SITE, tmp_path / "scene", SceneOptions(sensors=("s1",)), quiet=True)
    wanted = yaml.safe_load((tmp_path / "scene" / "scene.yaml").read_text())
    assert set(wanted["rasters"]) == {"s1_asc", "s1_desc"}
    assert "als" not in wanted
    assert not (tmp_path / "scene" / "als").exists()


def test_page_beside_the_scene_names_each_private_variable(folder):
    page = (folder / "README.md").read_text()
    private = [item for item in VISIBILITY if len(item.sensors) == 1]
    assert {item.sensors[0] for item in private} == {"als", "gedi", "ortho", "hsi", "s2", "s1"}
    for item in private:
        assert f"| {item.truth} |" in page
        assert (folder / "truth" / f"{item.truth}.tif").exists()


def test_failure_leaves_neither_scene_nor_draft(tmp_path, monkeypatch):
    from fusion3d.simulate.truth import TruthWriter

    def full(self, tile):
        raise InputError("agb.tif", "cannot be written", "free disk space")

    monkeypatch.setattr(TruthWriter, "add", full)
    with pytest.raises(InputError):
        simulate(SITE, tmp_path / "scene", SceneOptions(sensors=("s1",)), quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_folder_with_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="no simulated scene"):
        simulate(SITE, tmp_path, SPARSE, overwrite=True, quiet=True)
    assert (tmp_path / "thesis.txt").exists()


def test_file_of_the_records_name_does_not_make_a_folder_a_scene(tmp_path):
    (tmp_path / scene_room.RECORD).write_text('{"my": "solver settings"}')
    with pytest.raises(InputError, match="no simulated scene"):
        simulate(SITE, tmp_path, SPARSE, overwrite=True, quiet=True)


def test_what_a_user_put_into_a_scene_is_not_replaced(tmp_path):
    options = SceneOptions(sensors=("s1",))
    simulate(Site(100), tmp_path / "scene", options, quiet=True)
    (tmp_path / "scene" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"did not write \(notes\.txt\)"):
        simulate(Site(100), tmp_path / "scene", options, overwrite=True, quiet=True)
    assert (tmp_path / "scene" / "notes.txt").read_text() == "mine"


def test_folder_that_is_filled_while_the_scene_is_made_is_not_replaced(tmp_path, monkeypatch):
    out = tmp_path / "scene"

    def fill(site, sensors):
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
        return ""

    monkeypatch.setattr(scene_room, "guide", fill)
    with pytest.raises(InputError, match="no simulated scene"):
        simulate(Site(100), out, SceneOptions(sensors=("s1",)), quiet=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["scene", "thesis.txt"]


def test_link_and_working_folder_are_written_into(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    options = SceneOptions(sensors=("s1",))
    simulate(Site(100), tmp_path / "link", options, quiet=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "scene.yaml").exists()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    simulate(Site(100), ".", options, quiet=True)
    assert (tmp_path / "here" / "scene.yaml").exists()


def test_scene_is_replaced_only_when_asked(tmp_path):
    options = SceneOptions(sensors=("s1",))
    simulate(SITE, tmp_path / "scene", options, quiet=True)
    with pytest.raises(InputError, match="--overwrite"):
        simulate(SITE, tmp_path / "scene", options, quiet=True)
    simulate(Site(100), tmp_path / "scene", options, overwrite=True, quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]
    assert '"size": 100' in (tmp_path / "scene" / scene_room.RECORD).read_text()


@pytest.mark.parametrize("words", [["--size", "1015"], ["--size", "50"], ["--year", "3"], ["--seed", "-1"], ["--density", "0"],
                                   ["--passes", "0"], ["--sensors", "als,sonar"]])  # fmt: skip
def test_options_that_cannot_be_are_refused_before_anything_is_written(tmp_path, words):
    result = CliRunner().invoke(app, ["simulate", "--out", str(tmp_path / "scene"), *words])
    assert isinstance(result.exception, ConfigError)
    assert words[0] in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_second_year_is_the_same_place_later(folder, tmp_path):
    import rasterio

    simulate(Site(150, seed=3, year=2), tmp_path / "later", SceneOptions(sensors=("s1",)), quiet=True)

    def read(base: Path, name: str) -> np.ndarray:
        with rasterio.open(base / "truth" / name) as file:
            return file.read(1)

    assert np.array_equal(read(folder, "terrain.tif"), read(tmp_path / "later", "terrain.tif"))
    before, after = read(folder, "canopy_height.tif"), read(tmp_path / "later", "canopy_height.tif")
    change = read(tmp_path / "later", "change.tif")
    assert change.shape == after.shape
    forest = (before > 5) & (after > 5)
    assert 0.0 < np.nanmedian((after - before)[forest]) < 5.0
