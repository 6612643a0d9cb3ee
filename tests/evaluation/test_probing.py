"""Probes from checkpoint to report on a small scene."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine

from fusion3d.data.split import Split
from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation import columns as columns_module
from fusion3d.evaluation import supervised as supervised_module
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.evaluation.columns import embed_columns
from fusion3d.evaluation.labels import open_labels
from fusion3d.evaluation.places import patches, probe_places
from fusion3d.evaluation.probe_table import (
    ALL_FEATURES,
    ALONE,
    FUSED,
    NOTHING,
    PRETRAINED,
    RANDOM,
    RANDOM_ALL,
    RAW,
    SUPERVISED,
)
from fusion3d.evaluation.probe_tasks import ProbeOptions
from fusion3d.evaluation.probing import probe
from fusion3d.store import Store
from tests.data.scene import COLS, ROWS, X0, Y0, canopy, write_scene
from tests.evaluation.checkpoints import write_checkpoint

SENSORS = ["als", "gedi", "s2"]
QUICK = ProbeOptions(draws=2, supervised_steps=2, columns=200)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A store and a checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("probing")
    store = write_scene(folder / "scene.zarr", ("als", "gedi", "s2"))
    return folder, Store.open(store), write_checkpoint(folder / "random.ckpt", store, SENSORS)


def write(path, values, nodata=None):
    values = np.asarray(values)
    with rasterio.open(
        path, "w", driver="GTiff", width=COLS, height=ROWS, count=1, dtype=values.dtype, crs="EPSG:2154",
        transform=Affine(10, 0, X0, 0, -10, Y0), nodata=nodata,
    ) as file:  # fmt: skip
        file.write(values, 1)
    return str(path)


@pytest.fixture(scope="module")
def report(scene):
    folder, store, checkpoint = scene
    height = open_labels(write(folder / "height.tif", canopy().astype(np.float32)), store)
    kind = open_labels(write(folder / "kind.tif", (1 + (canopy() > 15) + (canopy() > 22)).astype(np.uint8)), store)
    return probe(checkpoint, store, [height, kind], QUICK, alone={"s2": checkpoint}, device="cpu")


def rows_of(report, variable, source):
    return {(row.features, row.probe): row for row in report.of(variable) if row.input == source}


def test_every_baseline_stands_beside_the_probes_on_the_same_places(report):
    for variable in ("height", "kind"):
        fused, s2 = rows_of(report, variable, FUSED), rows_of(report, variable, "s2")
        assert set(fused) == {
            (NOTHING, "guess"), (PRETRAINED, "linear"), (PRETRAINED, "knn"), (ALL_FEATURES, "linear"), (RANDOM, "linear"),
            (RANDOM, "knn"), (RANDOM_ALL, "linear"), (RAW, "linear"), (RAW, "forest"), (SUPERVISED, "2 steps"),
        }  # fmt: skip
        assert {features for features, _ in s2} == {PRETRAINED, ALONE, RANDOM, RAW}
        for rows in (fused, s2):
            assert len({row.tested for row in rows.values()}) == 1
            assert len({tuple(row.labels.items()) for row in rows.values()}) == 1
            assert all(list(row.score) == [0.01, 0.1, 1.0] for row in rows.values())


def test_height_metrics_tell_canopy_height_and_guesses_do_not(report):
    assert rows_of(report, "height", "als")[RAW, "forest"].score[1.0].value > 0.9
    assert rows_of(report, "kind", "als")[RAW, "forest"].score[1.0].value > 0.8
    assert rows_of(report, "height", FUSED)[NOTHING, "guess"].score[1.0].value <= 0
    measured_alike = rows_of(report, "height", FUSED)[NOTHING, "guess"].second[1.0]
    assert measured_alike.low < measured_alike.value < measured_alike.high


def test_a_checkpoint_with_the_weights_that_training_began_with_equals_random_weights(report):
    for variable, source in (("height", FUSED), ("height", "als"), ("kind", "s2")):
        rows = rows_of(report, variable, source)
        for name in ("linear", "knn"):
            assert rows[PRETRAINED, name].score == rows[RANDOM, name].score


def test_a_checkpoint_differs_from_itself_by_nothing(report):
    assert [(item.variable, item.sensor) for item in report.differences] == [("height", "s2"), ("kind", "s2")]
    for item in report.differences:
        assert all((found.value, found.low, found.high) == (0, 0, 0) for found in item.difference.values())


def test_few_labels_have_a_spread_over_draws_and_all_labels_an_interval(report):
    row = rows_of(report, "height", "als")[RAW, "linear"]
    assert row.score[0.1].spread > 0
    assert row.score[1.0].spread is None
    assert row.score[1.0].low < row.score[1.0].value < row.score[1.0].high
    assert row.labels[0.01] < row.labels[0.1] < row.labels[1.0]


def test_gedi_is_tested_where_it_has_footprints(report):
    found = [row for row in report.of("height") if row.input == "gedi"]
    whole = next(item for item in report.variables if item.name == "height")
    assert found
    assert all(0 < row.tested < whole.test for row in found)


def test_a_linear_function_of_the_features_is_found_again(scene, tmp_path):
    """Labels made from what an encoder says: places, labels and features belong together from raster to score."""
    _, store, checkpoint = scene
    module = load_pretraining(checkpoint, "cpu")
    places = probe_places([module], store, ["s2"])
    chosen = [patch for window in (*places.training, *places.test) for patch in patches(window)]
    found = embed_columns(module, store, chosen, ["s2"])
    labels = np.full(ROWS * COLS, -1e6)
    labels[found.columns] = found.sensors["s2"].features @ np.linspace(-1, 2, 16)
    source = open_labels(write(tmp_path / "planted.tif", labels.reshape(ROWS, COLS), nodata=-1e6), store)
    options = ProbeOptions(probes=("linear",), shares=(1.0,), baselines=False, columns=2000)
    report = probe(checkpoint, store, [source], options, sensors=["s2"], device="cpu")
    (row,) = [row for row in report.rows if row.features == PRETRAINED]
    assert row.score[1.0].value > 0.999


def test_no_window_that_is_read_mixes_training_and_held_out_ground(scene, monkeypatch):
    folder, store, checkpoint = scene
    split = Split.from_plain(load_pretraining(checkpoint, "cpu").hparams["scene"]["splits"][0])
    training, held = split.training(), split.held_out()
    read, direct = {"embed": [], "train": []}, columns_module.read_chips

    def spy(name):
        def reading(store, origins, size, *args, **options):
            (row, col), part = origins[0], slice(None)
            read[name].append([mask[row : row + size, col : col + size][part].all() for mask in (training, held)])
            return direct(store, origins, size, *args, **options)

        return reading

    monkeypatch.setattr(columns_module, "read_chips", spy("embed"))
    monkeypatch.setattr(supervised_module, "read_chips", spy("train"))
    source = open_labels(write(folder / "again.tif", canopy().astype(np.float32)), store)
    probe(checkpoint, store, [source], ProbeOptions(shares=(0.1,), draws=1, supervised_steps=3), sensors=["s2"], device="cpu")
    assert all(sum(where) == 1 for where in read["embed"])
    assert len(read["train"]) == 6
    assert all(where == [True, False] for where in read["train"])


def test_the_same_seed_gives_the_same_figures(scene):
    folder, store, checkpoint = scene

    def run(seed):
        source = open_labels(write(folder / "seeded.tif", canopy().astype(np.float32)), store)
        options = ProbeOptions(shares=(0.1,), draws=2, columns=100, supervised_steps=2, seed=seed)
        return probe(checkpoint, store, [source], options, sensors=["s2"], device="cpu")

    first = run(3)
    assert first == run(3)
    assert first.rows != run(4).rows


def test_more_training_from_scratch_learns_more(scene):
    """60 steps on canopy height from points reach what two steps do not."""
    folder, store, checkpoint = scene
    found = []
    for steps in (2, 60):
        source = open_labels(write(folder / "scratch.tif", canopy().astype(np.float32)), store)
        options = ProbeOptions(probes=("knn",), shares=(1.0,), supervised_steps=steps)
        report = probe(checkpoint, store, [source], options, sensors=["als"], device="cpu")
        found.append(next(row for row in report.rows if row.features == SUPERVISED).score[1.0].value)
    assert found[0] < found[1]
    assert found[1] > 0.5


# -- what cannot be probed


@pytest.mark.parametrize(
    ("values", "nodata", "problem"),
    [
        (np.full((ROWS, COLS), 5.0, np.float32), None, "the same, 5, in every place to learn from"),
        (np.full((ROWS, COLS), -1.0, np.float32), -1.0, "no label on the store's columns"),
    ],
)
def test_labels_that_say_nothing_are_refused_in_one_line(scene, tmp_path, values, nodata, problem):
    _, store, checkpoint = scene
    source = open_labels(write(tmp_path / "bad.tif", values, nodata), store)
    with pytest.raises(InputError, match=problem) as error:
        probe(checkpoint, store, [source], QUICK, sensors=["s2"], device="cpu")
    assert "bad.tif" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_variable_that_cannot_be_probed_is_noted_beside_those_that_can(scene):
    """The scene has no buildings."""
    _, store, checkpoint = scene
    options = ProbeOptions(probes=("linear",), shares=(1.0,), baselines=False)
    report = probe(checkpoint, store, [open_labels("als:classes", store)], options, sensors=["s2"], device="cpu")
    assert [item.name for item in report.variables] == ["vegetation share", "ground share"]
    assert any("building share of als:classes left out" in note for note in report.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": ("deep",)}, "--probe 'deep'"),
        ({"shares": (0.0,)}, "--share"),
        ({"draws": 0}, "--draws 0"),
        ({"supervised_steps": -1}, "--supervised-steps -1"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        ProbeOptions(**options)


def test_a_sensor_alone_must_be_probed_and_in_its_checkpoint(scene):
    folder, store, checkpoint = scene
    source = open_labels("als:classes", store)
    with pytest.raises(ConfigError, match="--alone hsi"):
        probe(checkpoint, store, [source], QUICK, alone={"hsi": checkpoint}, device="cpu")
    s2 = write_checkpoint(folder / "s2.ckpt", store.path, ["s2"])
    with pytest.raises(ConfigError, match="no encoder for sensor 'als'"):
        probe(checkpoint, store, [source], QUICK, alone={"als": s2}, device="cpu")
