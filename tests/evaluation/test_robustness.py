"""Robustness from checkpoint to figures on a small scene."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from typer.testing import CliRunner

from fusion3d.cli import app
from fusion3d.data.split import Split
from fusion3d.errors import ConfigError
from fusion3d.evaluation import columns as columns_module
from fusion3d.evaluation import robustness as robustness_module
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.evaluation.labels import open_labels
from fusion3d.evaluation.robustness import RobustnessOptions, robustness
from fusion3d.evaluation.robustness_table import (
    ALONE,
    FAILURE,
    FUSED,
    MEAN,
    MISSING,
    NOISE,
    REFITTED,
    RETRIEVAL,
    SHIFT,
    SIZE,
    SUBSET,
    RobustnessReport,
)
from fusion3d.store import Store
from tests.data.scene import canopy, write_scene
from tests.evaluation.checkpoints import write_checkpoint
from tests.evaluation.test_probing import write

SENSORS = ("als", "ortho", "s2")
QUICK = RobustnessOptions(draws=1, columns=60, fusions=("mean",))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A store and a checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("robustness")
    store = write_scene(folder / "scene.zarr", SENSORS)
    return folder, Store.open(store), write_checkpoint(folder / "random.ckpt", store, list(SENSORS))


@pytest.fixture(scope="module")
def report(scene):
    folder, store, checkpoint = scene
    height = open_labels(write(folder / "height.tif", canopy().astype(np.float32)), store)
    options = RobustnessOptions(draws=2, columns=100, fusions=("mean", "attention"))
    return robustness(checkpoint, store, [height], options, device="cpu")


def task_of(report, name):
    return next(task for task in report.tasks if task.name == name)


def values(rows, score=FUSED):
    return {row.amount: row.scores[score].value for row in rows}


def test_every_subset_is_judged_by_every_task_that_it_is_no_target_of(report):
    assert {task.name for task in report.tasks} == {"height", MEAN, *SENSORS}
    subsets = {row.sensors for row in report.of(task_of(report, "height"), SUBSET, "mean")}
    assert {frozenset(subset) for subset in subsets} == {
        frozenset(name for name, there in zip(SENSORS, chosen) if there) for chosen in product((0, 1), repeat=3) if any(chosen)
    }
    of_s2 = {frozenset(row.sensors) for row in report.of(task_of(report, "s2"), SUBSET, "mean")}
    assert of_s2 == {frozenset(["als"]), frozenset(["ortho"]), frozenset(["als", "ortho"])}
    assert report.subsets == report.possible == 7


def test_the_probe_of_all_sensors_is_the_refitted_one_for_all_sensors_and_worse_elsewhere(report):
    task = task_of(report, "height")
    for row in report.of(task, SUBSET):
        if len(row.sensors) == 3:
            assert row.scores[FUSED] == row.scores[REFITTED]
        else:
            assert row.scores[FUSED].value < row.scores[REFITTED].value


def test_expected_scores_are_those_of_all_outcomes_of_failing_sensors(report):
    for name in ("height", "s2"):
        task = task_of(report, name)
        worth = {frozenset(row.sensors): row.scores[FUSED].value for row in report.of(task, SUBSET, "attention")}
        taking_part = sorted(set().union(*worth))
        for row in report.of(task, FAILURE, "attention"):
            total = weight = 0.0
            for outcome in product((True, False), repeat=len(taking_part)):
                if any(outcome):
                    chance = math.prod(1 - row.amount if works else row.amount for works in outcome)
                    left = frozenset(sensor for sensor, works in zip(taking_part, outcome) if works)
                    total, weight = total + chance * worth[left], weight + chance
            assert row.scores[FUSED].value == pytest.approx(total / weight)
        sizes = values(report.of(task, SIZE, "attention"))
        assert sizes[1.0] == pytest.approx(np.mean([value for subset, value in worth.items() if len(subset) == 1]))


def test_the_mean_of_the_retrievals_is_over_the_left_out_sensors(report):
    for part in (FAILURE, MISSING):
        single = [values(report.of(task_of(report, name), part, "mean")) for name in SENSORS]
        for amount, value in values(report.of(task_of(report, MEAN), part, "mean")).items():
            assert value == pytest.approx(np.mean([found[amount] for found in single]))


def test_chance_of_the_mean_is_over_the_retrievals_that_were_judged(report):
    mean, single = task_of(report, MEAN), [task_of(report, name) for name in SENSORS]
    assert report.chance(mean, SIZE) == pytest.approx(np.mean([task.chance for task in single]))
    fewer = replace(report, rows=tuple(row for row in report.rows if (row.task, row.part) != ("s2", SHIFT)))
    assert fewer.chance(mean, SHIFT) == pytest.approx(np.mean([task.chance for task in single if task.name != "s2"]))


def test_nothing_disturbed_scores_as_all_sensors(report):
    task = task_of(report, "height")
    whole = next(row for row in report.of(task, SUBSET, "mean") if len(row.sensors) == 3).scores[FUSED]
    assert next(row for row in report.of(task, MISSING, "mean") if row.amount == 0).scores[FUSED] == whole
    for name in SENSORS:
        row = next(row for row in report.of(task, NOISE, "mean") if row.amount == 0 and row.sensors == (name,))
        assert row.scores[FUSED] == whole
        alone = next(row for row in report.of(task, SUBSET, "mean") if row.sensors == (name,))
        assert row.scores[ALONE] == alone.scores[REFITTED]


def test_canopy_height_is_lost_with_gaps_noise_and_shifts_of_the_sensor_that_sees_it(report):
    task = task_of(report, "height")
    gaps = values(report.of(task, MISSING, "attention"))
    assert all(gaps[0.0] > gaps[share] + 0.1 for share in (0.25, 0.5, 0.75))
    for part, least in ((NOISE, 0.02), (SHIFT, 0.1)):
        rows = [row for row in report.of(task, part, "attention") if row.sensors == ("als",)]
        alone = list(values(rows, ALONE).values())
        assert alone[0] - alone[-1] > least
        assert all(row.scores[FUSED].spread is not None for row in rows if row.amount)


def test_steps_of_a_shift_are_those_that_a_sensor_can_take(report):
    task = task_of(report, "height")
    steps = {name: [row.amount for row in report.of(task, SHIFT, "mean") if row.sensors == (name,)] for name in SENSORS}
    assert steps == {"als": [0, 0.25, 0.5, 1, 2], "ortho": [0, 0.25, 0.5, 1, 2], "s2": [0, 1, 2]}


def test_figures_come_back_from_json_and_stand_in_the_tables(report):
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert RobustnessReport.from_json(plain).to_json() == report.to_json()
    row = next(row for row in report.of(task_of(report, "height"), SUBSET, "mean") if len(row.sensors) == 2)
    assert f"| {' '.join(row.sensors)} | mean | 100 % | {row.scores[FUSED].text()} |" in report.markdown()
    text = report.table()
    assert "Expected when each sensor fails by itself" in text
    assert f"seed {report.seed}" in text
    assert max(map(len, text.splitlines())) < 250


def test_without_labels_retrieval_is_judged_and_the_seed_decides(scene):
    _, store, checkpoint = scene

    def run(seed):
        options = RobustnessOptions(draws=1, columns=50, fusions=("mean",), seed=seed)
        return robustness(checkpoint, store, options=options, sensors=["ortho", "s2"], device="cpu")

    first = run(0)
    assert {task.kind for task in first.tasks} == {RETRIEVAL}
    assert first.to_json() == run(0).to_json()
    assert first.rows != run(1).rows


def test_no_window_that_is_judged_holds_ground_trained_on(scene, monkeypatch):
    folder, store, checkpoint = scene
    split = Split.from_plain(load_pretraining(checkpoint, "cpu").hparams["scene"]["splits"][0])
    training, held = split.training(), split.held_out()
    read, learnt, direct = [], [], columns_module.read_chips

    def spy(store, origins, size, *args, **options):
        row, col = origins[0]
        read.append([mask[row : row + size, col : col + size].all() for mask in (training, held)])
        if read[-1][0]:
            learnt.append((row, col, size))
        return direct(store, origins, size, *args, **options)

    monkeypatch.setattr(columns_module, "read_chips", spy)
    source = open_labels(write(folder / "again.tif", canopy().astype(np.float32)), store)
    robustness(checkpoint, store, [source], QUICK, sensors=["ortho", "s2"], device="cpu")
    assert all(sum(where) == 1 for where in read)
    # what is learnt from is read once, as it is; what is tested again for each disturbance
    assert 0 < len(learnt) == len(set(learnt)) < len(read) / 2


def test_a_checkpoint_without_a_fusion_has_the_mean_alone(scene, monkeypatch):
    _, store, checkpoint = scene

    def without_fusion(*arguments, **options):
        module = load_pretraining(*arguments, **options)
        module.fusion = None
        return module

    monkeypatch.setattr(robustness_module, "load_pretraining", without_fusion)
    with pytest.raises(ConfigError, match="--fusion precision needs a fusion"):
        robustness(checkpoint, store, options=RobustnessOptions(fusions=("precision",)), device="cpu")
    options = RobustnessOptions(draws=1, columns=50)
    assert robustness(checkpoint, store, options=options, sensors=["ortho", "s2"], device="cpu").fusions == ("mean",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": 0}, "--subsets 0"),
        ({"draws": 0}, "--robustness-draws 0"),
        ({"columns": 10}, "--robustness-columns 10"),
        ({"fusions": ("sum",)}, "--fusion sum"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        RobustnessOptions(**options)


def test_one_sensor_cannot_be_left_out(scene):
    _, store, checkpoint = scene
    with pytest.raises(ConfigError, match="--robustness needs two sensors"):
        robustness(checkpoint, store, options=QUICK, sensors=["s2"], device="cpu")


def test_the_command_writes_figures_when_asked_and_spends_nothing_otherwise(scene, tmp_path, monkeypatch):
    _, store, checkpoint = scene
    command = ["evaluate", str(checkpoint), store.path, "--quiet", "--columns", "100", "--device", "cpu"]
    options = ["--robustness", "--robustness-draws", "1", "--robustness-columns", "50", "--fusion", "mean"]
    out = tmp_path / "figures.json"
    found = CliRunner().invoke(app, [*command, *options, "--sensors", "ortho,s2", "--out", str(out)])
    assert found.exit_code == 0, found.output
    plain = json.loads(out.read_text())
    assert plain["pairs"]
    assert plain["robustness"]["fusions"] == ["mean"]
    assert "Robustness of the fused embedding" in found.output

    def refuse(*arguments, **options):
        raise AssertionError("not asked for")

    monkeypatch.setattr(robustness_module, "robustness", refuse)
    found = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "robustness" not in json.loads(out.read_text())
    assert CliRunner().invoke(app, [*command, *options, "--untrained"]).exit_code != 0
