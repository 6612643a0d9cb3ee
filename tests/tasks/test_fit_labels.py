"""Fits to GEDI footprints, to rasters of sparse labels, and of several targets at once."""

from __future__ import annotations

import json

import geopandas
import h5py
import numpy as np
import pytest
from pyproj import Transformer
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from fusion3d.cli import app
from fusion3d.errors import ConfigError
from fusion3d.tasks.fit import fit
from fusion3d.tasks.fit_targets import fit_targets
from tests.io.gedi_files import beam_l2a, write
from tests.tasks.places import X0, Y0, planted, write_map

SIGMA = np.hypot(6.25, 10.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("place"), plots=80)


def test_footprints_are_described_by_their_gaussian(tmp_path):
    """The value is a linear function of a Gaussian blur of rough bands: what the cells themselves, or discs, would not give."""
    rng = np.random.default_rng(3)
    bands = rng.normal(size=(3, 120, 120))
    blurred = gaussian_filter(bands, (0, SIGMA / 10, SIGMA / 10), mode="nearest", truncate=3)
    embedding = write_map(tmp_path / "emb.tif", bands)
    cell = rng.choice(np.arange(0, 100 * 100, 3), 150, replace=False)
    row, col = cell // 100 + 10, cell % 100 + 10
    values = 300 + 200 * blurred[0, row, col] - 150 * blurred[1, row, col]
    lon, lat = Transformer.from_crs(2154, 4326, always_xy=True).transform(X0 + 10 * col + 5, Y0 - 10 * row - 5)
    beam = {name: found for name, found in beam_l2a(150).items() if name not in ("rh", "quality_flag")}
    beam |= {"lon_lowestmode": lon, "lat_lowestmode": lat, "agbd": values, "agbd_se": np.full(150, 3.0)}
    path = write(tmp_path / "GEDI04_A.h5", {"BEAM0101": beam | {"l4_quality_flag": np.ones(150, np.uint8)}}, product="GEDI_L4A")
    found = fit(embedding, path, "agbd", tmp_path / "out", scheme="random")
    assert found.scorecard.unit == "Mg/ha"
    assert found.scorecard.plots == 150
    assert found.scorecard.model.r2.value > 0.99
    assert any("Gaussian means of sigma 11.8 m" in note for note in found.scorecard.notes)
    assert any(note.startswith("plots weigh 1/(se^2 + ") for note in found.scorecard.notes)
    sharp = fit(embedding, path, "agbd", tmp_path / "sharp", scheme="random", geolocation=0.0)
    assert sharp.scorecard.model.r2.value < 0.95
    # footprints of different folds share no cell: centres two reaches apart, and a diagonal
    blocks = fit(embedding, path, "agbd", tmp_path / "blocks", block=400)
    assert blocks.scorecard.folds.buffer == pytest.approx(np.sqrt(2) * 10 + 2 * (3 * SIGMA - 12.5))


def test_pixels_larger_than_the_cells_are_the_plots(place, tmp_path):
    """Labels of 30 m over a map of 10 m: the mean of 3 x 3 cells."""
    signal = 200 + np.tensordot(place.coefficients, place.values.astype(float), 1)
    coarse = signal[:99].reshape(33, 3, 40, 3).mean(axis=(1, 3))
    labels = np.where(np.random.default_rng(1).random(coarse.shape) < 0.15, np.maximum(coarse, 0), -1.0)
    path = write_map(tmp_path / "labels.tif", labels[None], pixel=30.0)
    found = fit(place.embedding, path, "agb", tmp_path / "out", label_nodata=-1, unit="Mg/ha", block=150)
    assert found.scorecard.plots == (labels >= 0).sum()
    assert found.scorecard.model.r2.value > 0.97


def test_real_sparse_labels_stay_within_the_range_of_a_weak_relation(data_dir, tmp_path):
    """246 pixels of a GEDI track on an optical image: better than their mean, far from good."""
    folder = data_dir / "hls_gedi_agb"
    found = fit(folder / "hls_10band.tif", folder / "gedi_agbd_label.tif", "agbd", tmp_path / "out", label_nodata=-1)
    assert found.scorecard.plots == 246
    assert 0.1 < found.scorecard.model.r2.value < 0.6


def test_each_target_has_its_folder_and_a_failing_one_does_not_stop_the_others(place, tmp_path):
    frame = geopandas.read_file(place.labels)
    frame["half_of_it"] = frame["agb"] / 2
    frame.to_file(tmp_path / "p.gpkg")
    words = ["fit", place.embedding, "--labels", tmp_path / "p.gpkg", "--target",
             "agb,nothing,half_of_it", "--unit", "Mg/ha,,Mg/ha", "--out", tmp_path / "out"]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 1, done.output
    assert {item.name for item in (tmp_path / "out").iterdir()} == {"agb", "half_of_it"}
    one, other = (json.loads((tmp_path / "out" / name / "scores.json").read_text()) for name in ("agb", "half_of_it"))
    assert one["model"]["rmse"]["value"] == pytest.approx(2 * other["model"]["rmse"]["value"], rel=1e-6)
    assert one["unit"] == "Mg/ha"
    last = done.stdout.strip().splitlines()
    assert "nothing: not fitted" in done.stdout
    last = [line for line in last if "(Mg/ha)" not in line and ": not fitted" not in line]
    assert f"{tmp_path / 'p.gpkg'}: has no column 'nothing'" in done.stdout
    assert last[-1] == f"models and scores: {tmp_path / 'out'}"
    rows = [line for line in last if line.startswith(("agb ", "nothing ", "half_of_it "))]
    assert len(rows) == 3
    assert f"{one['model']['r2']['value']:.2f}" in rows[0]


@pytest.mark.parametrize(
    ("targets", "units", "said"),
    [
        (["agb", "agb"], None, "name different columns"),
        ([], None, "name different columns"),
        (["a/b", "agb"], None, "cannot be the name of a folder"),
        (["agb", "h"], ["Mg/ha"], "1 units for 2 targets"),
    ],
)
def test_targets_that_cannot_be_folders_are_refused(place, tmp_path, targets, units, said):
    with pytest.raises(ConfigError, match=said):
        fit_targets(place.embedding, place.labels, targets, tmp_path / "out", units=units)
    assert not (tmp_path / "out").exists()


def test_several_files_may_follow_labels_as_a_shell_writes_them(place, tmp_path):
    for name in ("a", "b"):
        beam = {key: found for key, found in beam_l2a(2).items() if key not in ("rh", "quality_flag")}
        beam |= {"agbd": np.ones(2), "l4_quality_flag": np.ones(2, np.uint8)}
        write(tmp_path / f"GEDI04_A_{name}.h5", {"BEAM0101": beam}, product="GEDI_L4A")
    files = sorted(tmp_path.glob("GEDI04_A*.h5"))
    with h5py.File(files[1], "a") as file:
        file["BEAM0101/agbd"].attrs["units"] = "kg/m2"

    def run(*words: object) -> str:
        line = ["fit", place.embedding, "--target", "agbd", "--out", tmp_path / "out", *words]
        return str(CliRunner().invoke(app, list(map(str, line))).exception)

    # the second file was read: its unit is refused
    assert run("--labels", *files).startswith(f"{files[1]}: its values are in kg/m2")
    assert "unexpected argument 'more.txt'" in run("--labels", files[0], "more.txt")
