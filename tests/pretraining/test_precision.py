"""Half precision: encoders compute in bfloat16, what decides about the loss does not."""

from __future__ import annotations

import csv
import math

import torch

from fusion3d.pretraining import objective
from fusion3d.pretraining.callbacks import last_checkpoint
from fusion3d.pretraining.command import main
from tests.data.scene import write_scene
from tests.pretraining.test_command import arguments

SENSORS = ("als", "gedi", "ortho", "s2")


def test_bfloat16_trains_every_term_and_contrasts_in_float32(tmp_path, monkeypatch):
    compared, encoded = [], set()
    contrast, linear = objective.contrast, torch.nn.functional.linear

    def watched(first, second, *rest):
        compared.extend([first, second])
        return contrast(first, second, *rest)

    def watched_linear(*arguments):
        result = linear(*arguments)
        encoded.add(result.dtype)
        return result

    monkeypatch.setattr(objective, "contrast", watched)
    monkeypatch.setattr(torch.nn.functional, "linear", watched_linear)
    scene, run = write_scene(tmp_path / "scene.zarr"), tmp_path / "run"
    options = ("--trainer.precision", "bf16-mixed", "--trainer.max_steps", "3", "--model.pairs", "6", "--model.chips_at_once=1")
    assert main(arguments(scene, run, *options)) == 0
    assert encoded == {torch.bfloat16}
    assert {vectors.dtype for vectors in compared} == {torch.float32}
    for vectors in compared:
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)), rtol=1e-5, atol=1e-5)
    with next((run / "logs").rglob("metrics.csv")).open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    steps = [row for row in rows if "train/loss" in row]
    assert len(steps) == 3
    assert all(math.isfinite(value) for row in rows for value in row.values())
    terms = {name for row in steps for name in row}
    assert {f"train/retention_{name}" for name in SENSORS} <= terms
    assert sum(name.startswith("train/contrast_") for name in terms) == 6
    weights = torch.load(last_checkpoint(run), weights_only=True)["state_dict"]
    assert all(value.dtype == torch.float32 for value in weights.values())
