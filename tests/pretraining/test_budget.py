from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import draw_pairs, stream
from fusion3d.errors import ConfigError
from fusion3d.pretraining.budget import Cost, Plan, amount
from fusion3d.pretraining.callbacks import last_checkpoint
from fusion3d.pretraining.command import main
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import meeting_pairs
from tests.data.scene import open_scene, write_scene
from tests.pretraining.test_command import arguments

SENSORS = ["als", "gedi", "ortho", "s2"]
MEBI = 2**20


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> str:
    return write_scene(tmp_path_factory.mktemp("budget") / "scene.zarr")


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    return read_chips(open_scene(tmp_path_factory.mktemp("chips") / "scene.zarr"), [(0, 0), (8, 26), (16, 4), (24, 8)], 8)


def plan(room: int, **costs: Cost) -> Plan:
    budget = int(room / 0.9) + 1
    return Plan(budget, "cpu", 0, 0, costs)


def test_as_many_chips_as_the_room_holds_make_a_piece(batch):
    pixels = batch.rasters["ortho"].values[0].numel()
    found = plan(350, ortho=Cost(50, 100, pixels))
    assert found.chips_at_once("ortho") == 3
    assert found.cut(batch, "ortho") == [(0, 3), (3, 4)]
    assert plan(150, ortho=Cost(50, 100, pixels)).cut(batch, "ortho") == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert plan(10_000, ortho=Cost(50, 100, pixels)).cut(batch, "ortho") == [(0, 4)]


def test_chips_heavier_than_those_of_the_dry_run_make_smaller_pieces(batch):
    pixels = batch.rasters["ortho"].values[0].numel()
    assert plan(400, ortho=Cost(0, 100, pixels // 2)).cut(batch, "ortho") == [(0, 2), (2, 4)]
    assert plan(400, ortho=Cost(0, 100, pixels * 2)).cut(batch, "ortho") == [(0, 4)]


def test_a_sensor_that_was_never_seen_is_encoded_chip_by_chip(batch):
    assert plan(400).cut(batch, "s2") == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_the_measurements_of_a_chip_are_counted(batch):
    chip = batch.part(1, 2)
    assert amount(chip, "als") == len(chip.als.height) > 0
    assert amount(chip, "s2") == 5 * 4 * 8 * 8
    assert amount(replace(chip, rasters={}), "s2") == 0


def test_a_plan_survives_a_checkpoint():
    found = plan(350, ortho=Cost(50, 100, 7), als=Cost(1, 2, 3))
    assert Plan.from_plain(found.to_plain()) == found


def gradient_of(module: CrossModalPretraining) -> torch.Tensor:
    gradients = [parameter.grad for parameter in module.parameters()]
    assert sum(gradient is None for gradient in gradients) < len(gradients) / 10
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def test_neither_loss_nor_gradient_depends_on_the_pieces(batch):
    results = []
    for cut in (None, plan(400, ortho=Cost(0, 100, 1), als=Cost(0, 150, 10**9)).cut):
        module = CrossModalPretraining(scene={"sensors": SENSORS})
        module.configure_model()
        module.double()
        if cut is not None:
            module._plan = plan(400, ortho=Cost(0, 100, 1), als=Cost(0, 150, 10**9))
        loss, _ = module.loss(batch, draw_pairs(meeting_pairs(batch), 6, stream(0)), (0, 0))
        loss.backward()
        results.append((loss.item(), gradient_of(module)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-7)


def losses(run) -> list[float]:
    with next((run / "logs").rglob("metrics.csv")).open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_a_run_within_a_budget_measures_every_sensor_and_learns_the_same(scene, tmp_path, capsys):
    plain, tight = tmp_path / "plain", tmp_path / "tight"
    assert main(arguments(scene, plain, "--trainer.max_steps", "2")) == 0
    assert main(arguments(scene, tight, "--trainer.max_steps", "2", "--memory-budget=64GiB")) == 0
    assert "memory budget 64.00 GiB on cpu" in capsys.readouterr().err
    assert losses(tight) == pytest.approx(losses(plain), rel=1e-4)
    found = Plan.from_plain(torch.load(last_checkpoint(tight), weights_only=True)["pieces"])
    assert (found.budget, found.whole, set(found.costs)) == (64 * 1024 * MEBI, True, set(SENSORS))
    assert all(0 < cost.chip < 1024 * MEBI for cost in found.costs.values())
    assert found.in_use > 100 * MEBI


def test_a_budget_too_small_names_what_is_needed_and_what_to_do(scene, tmp_path):
    with pytest.raises(ConfigError, match=r"--model\.memory_budget 64\.00 MiB is too small: a step needs .*--data\.size"):
        main(arguments(scene, tmp_path / "run", "--model.memory_budget", "64MiB"))
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"memory_budget": "plenty"}, "is not a size"),
        ({"memory_budget": "6GiB", "chips_at_once": 2}, "give one of them"),
        ({"chips_at_once": 0}, "at least 1"),
    ],
)
def test_options_that_contradict_themselves_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        CrossModalPretraining(**options)
