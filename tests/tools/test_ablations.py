from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin

from fusion3d.errors import ConfigError, InputError
from fusion3d.simulate.guide import VISIBILITY
from fusion3d.simulate.model import Cover
from tests.data.scene import X0, Y0, canopy, write_scene

sys.path.append(str(Path(__file__).parents[2] / "tools"))
import ablation_scores
import ablation_table
import ablations

OBJECTIVE = ("alignment", "alignment_options", "pairs", "retention")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> tuple[Path, Path]:
    """A small store, and a folder with its truth: the canopy's height, and noise for what no sensor of it sees."""
    folder = tmp_path_factory.mktemp("ablations")
    write_scene(folder / "scene.zarr")
    height, random = canopy(), np.random.default_rng(0)
    truths = {item.truth: random.normal(size=height.shape) for item in VISIBILITY}
    truths |= {"canopy_height": height, "agb": 4 * height, "land_cover": np.full(height.shape, float(Cover.FOREST))}
    (folder / "scene" / "truth").mkdir(parents=True)
    for name, values in truths.items():
        path = folder / "scene" / "truth" / f"{name}.tif"
        profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "height": height.shape[0], "width": height.shape[1]}
        with rasterio.open(path, "w", crs="EPSG:2154", transform=from_origin(X0, Y0, 10, 10), **profile) as file:
            file.write(values.astype(np.float32), 1)
    return folder / "scene.zarr", folder / "scene"


def table(tmp_path: Path, steps: int = 60, budget: float | None = None, seeds: int = 2, only=None) -> ablations.Table:
    rows = ablations.configurations(6, only or ["sampled_pair_retention", "mil_nce"])
    return ablations.Table(Path("scene.zarr"), Path("scene"), tmp_path, rows, 6, steps, seeds, budget)


def finish(run: ablations.Run, cpu_seconds: float) -> None:
    ablation_table.write_json(run.result, {"steps": run.steps, "cpu_seconds": cpu_seconds, "encoder_updates": 1.0})


def test_configurations_differ_in_nothing_but_the_objective():
    rest = []
    for path in sorted(ablations.CONFIGS.glob("*.yaml")):
        first = path.read_text().splitlines()[0]
        assert first == f"# fusion3d pretrain --config configs/ablations/{path.name} --data.store scene.zarr"
        options = yaml.safe_load(path.read_text())
        options["out"] = None
        options["model"] = {name: value for name, value in options["model"].items() if name not in OBJECTIVE}
        rest.append(options)
    assert len(rest) == 11
    assert all(options == rest[0] for options in rest)


def test_unknown_configuration_is_refused():
    with pytest.raises(ConfigError, match="--only names mil_nse; choose from all_pairs, "):
        ablations.configurations(6, ["mil_nse"])


def test_configuration_that_runs_two_of_six_encoders_takes_three_times_the_steps(tmp_path):
    steps = {(run.configuration.name, run.seed): run.steps for run in table(tmp_path).runs("updates")}
    assert steps == {(name, seed): 60 if name == "mil_nce" else 180 for name, _ in steps for seed in (0, 1)}
    assert [run.configuration.name for run in table(tmp_path).runs("steps")] == ["sampled_pair_retention"] * 2
    assert {run.steps for run in table(tmp_path).runs("steps")} == {60}


def test_equal_seconds_take_the_steps_that_fit_into_the_budget_and_keep_to_them(tmp_path):
    for run in table(tmp_path).runs("updates"):
        finish(run, 300.0 if run.configuration.name == "mil_nce" else 180.0)
    # 240 s on average, at 5 s and at 1 s a step
    expected = {"mil_nce": 48, "sampled_pair_retention": 240}
    assert {run.configuration.name: run.steps for run in table(tmp_path).runs("seconds")} == expected
    later = table(tmp_path, only=["mil_nce"]).runs("seconds")
    assert {run.steps for run in later} == {48}
    with pytest.raises(InputError, match="--budget-seconds"):
        table(tmp_path, budget=100.0)._budget()


def test_given_budget_replaces_the_mean(tmp_path):
    for run in table(tmp_path).runs("updates"):
        finish(run, 60.0)
    steps = {run.configuration.name: run.steps for run in table(tmp_path, budget=30.0).runs("seconds")}
    assert steps == {"mil_nce": 30, "sampled_pair_retention": 90}


def test_folder_of_other_runs_is_refused(tmp_path):
    table(tmp_path)
    with pytest.raises(InputError, match="made with steps 60"):
        table(tmp_path, steps=61)


def test_table_has_mean_and_spread_of_the_seeds(tmp_path):
    made = table(tmp_path, only=["mil_nce"])
    for run, fused in zip(made.runs("updates"), (0.5, 0.7)):
        finish(run, 10.0)
        ablation_table.write_json(
            run.scores, {"fused": fused, "private": None, "private_by_variable": {"lignin from hsi": fused}}
        )
    written = made.table(["updates"])
    row = written["updates"]["mil_nce"]
    assert row["fused"] == {"mean": pytest.approx(0.6), "spread": pytest.approx(math.sqrt(0.02))}
    assert row["private"] is None
    text = ablation_table.markdown(written, Path("scene.zarr"))
    assert "| mil_nce | 60 | 2 | 0.600 ± 0.141 | - | - |" in text
    assert "| configuration | lignin from hsi |" in text


# -- scores


def test_half_of_the_sensors_of_every_column_are_left_rounded_up():
    present = np.random.default_rng(1).random((200, 5)) < 0.7
    left = ablation_scores.without_half(present, np.random.default_rng(2))
    assert not (left & ~present).any()
    assert ((present.sum(axis=1) + 1) // 2 == left.sum(axis=1)).all()
    assert 0.4 < left[present].mean() < 0.65


def sites(count: int = 400) -> tuple[ablation_scores.Sites, np.ndarray]:
    place = np.stack([np.arange(count) // 20, np.arange(count) % 20], axis=1)
    return ablation_scores.Sites(place, np.arange(count) // 10, {}), place[:, 0] >= 14


def material(values: np.ndarray, name: str) -> ablation_scores.Material:
    return ablation_scores.Material((), {name: values.reshape(20, 20)}, np.zeros((20, 20), bool))


def test_probe_of_a_linear_function_of_the_features_is_perfect_and_of_noise_is_not():
    where, held = sites()
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 6))
    target = features @ np.arange(6.0) + 3
    assert ablation_scores.probe("agb", features, material(target, "agb"), where, held) > 0.999
    assert ablation_scores.probe("agb", features, material(random.normal(size=400), "agb"), where, held) < 0.1


def test_directions_that_differ_by_half_a_turn_are_one():
    where, held = sites()
    angle = np.random.default_rng(0).random(400) * 180
    features = np.stack([np.cos(np.radians(2 * angle)), np.sin(np.radians(2 * angle))], axis=1)
    turned = np.where(np.arange(400) % 2, angle, angle + 180)
    assert ablation_scores.probe("row_direction", features, material(turned, "row_direction"), where, held) > 0.999


def test_probe_with_few_sites_gives_nothing():
    where, held = sites()
    target = np.full(400, np.nan)
    target[:30] = target[-20:] = 1.0
    assert ablation_scores.probe("agb", np.ones((400, 2)), material(target, "agb"), where, held) is None


def test_r_squared_of_the_mean_is_zero_and_of_the_truth_one():
    target = np.array([1.0, 2.0, 6.0])
    assert ablation_scores.r_squared(np.full(3, 3.0), target) == pytest.approx(0.0)
    assert ablation_scores.r_squared(target, target) == 1.0
    # residuals 1, 0, -2 against deviations -2, -1, 3
    assert ablation_scores.r_squared(np.array([2.0, 2.0, 4.0]), target) == pytest.approx(1 - 5 / 14)


# -- the command


def arguments(simulated, out: Path, *more: str) -> list[str]:
    store, scene = simulated
    return [str(store), "--scene", str(scene), "--out", str(out), "--steps", "1", "--seeds", "1", "--train-chips", "8", *more]


def test_command_trains_scores_and_does_not_repeat_what_is_done(simulated, tmp_path, monkeypatch, capsys):
    only = ("--only", "jepa", "--parts", "updates", "--jobs", "1")
    assert ablations.main(arguments(simulated, tmp_path, *only)) == 0
    run = tmp_path / "updates" / "jepa" / "seed0"
    trained, scores = (json.loads((run / name).read_text()) for name in ("trained.json", "scores.json"))
    assert trained["steps"] == 1
    assert trained["encoder_updates"] == 1.0
    assert trained["cpu_seconds"] > 0
    # what several sensors see, and what one of these four sensors sees
    assert {"canopy_height", "agb", "canopy_cover"} <= set(scores["fused_by_variable"])
    assert "understorey from als" in scores["private_by_variable"]
    assert len(scores["recall_by_pair"]) == 12
    assert scores["loss_ms"] > 0
    out = capsys.readouterr().out
    assert "training that is left: about" in out
    assert "| jepa | 1 | 1 |" in (tmp_path / "table.md").read_text()

    def never(*rest, **more):
        raise AssertionError("a finished run was begun again")

    monkeypatch.setattr(ablations.subprocess, "run", never)
    before = (tmp_path / "table.json").read_text()
    assert ablations.main(arguments(simulated, tmp_path, *only)) == 0
    assert (tmp_path / "table.json").read_text() == before


def test_failed_training_is_told_and_ends_with_an_error(simulated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablations, "seconds_per_step", lambda *rest: 1.0)
    monkeypatch.setattr(
        ablations.subprocess,
        "run",
        lambda *rest, **more: ablations.subprocess.CompletedProcess(rest, 1, "", "fusion3d: no memory\n"),
    )
    assert ablations.main(arguments(simulated, tmp_path, "--only", "star", "--parts", "updates")) == 1
    assert "updates star seed 0: fusion3d: no memory" in capsys.readouterr().err
    assert not list(tmp_path.rglob("trained.json"))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--steps", "0"), "--steps 0"),
        (("--parts", "time"), "--parts time: choose from updates, seconds, steps"),
        (("--budget-seconds", "0"), "--budget-seconds"),
        (("--scene", "/nowhere"), "truth"),
        (("--parts", "seconds", "--only", "star"), "add updates to --parts"),
    ],
)
def test_impossible_options_are_one_line(simulated, tmp_path, monkeypatch, capsys, more, text):
    monkeypatch.setattr(ablations, "seconds_per_step", lambda *rest: 1.0)
    assert ablations.main(arguments(simulated, tmp_path, *more)) == 1
    captured = capsys.readouterr().err
    assert text in captured
    assert captured.count("\n") == 1
