from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from fusion3d.data.split import Split
from fusion3d.encoders.als import AlsEncoder
from fusion3d.encoders.checkpoint import load_encoder
from fusion3d.encoders.registry import ENCODERS
from fusion3d.errors import ConfigError, Fusion3DError, InputError
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.pretraining.callbacks import AtomicCheckpointIO, last_checkpoint
from fusion3d.pretraining.checkpoint_file import encoders_of
from fusion3d.pretraining.command import check_run, main, precision
from fusion3d.pretraining.module import CrossModalPretraining
from tests.data.scene import scene_grid, write_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> str:
    return write_scene(tmp_path_factory.mktemp("command") / "scene.zarr")


def arguments(scene: str, out: Path, *more: str) -> list[str]:
    return [
        "--data.store",
        scene,
        "--out",
        str(out),
        "--data.size",
        "8",
        "--data.batch_size",
        "2",
        "--data.max_dates",
        "2",
        "--data.val_chips",
        "2",
        "--trainer.max_steps",
        "6",
        "--trainer.val_check_interval",
        "4",
        "--trainer.log_every_n_steps",
        "1",
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
        "--checkpoint_every",
        "2",
        *more,
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(last_checkpoint(run), weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def finished(scene, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main(arguments(scene, run)) == 0
    return run


def test_run_holds_configuration_logs_checkpoint_and_encoders(finished, scene):
    configuration = yaml.safe_load((finished / "config.yaml").read_text())
    assert configuration["data"]["store"] == scene
    assert configuration["model"]["preset"] == "tiny"
    assert {path.name for path in (finished / "encoders").iterdir()} >= {
        f"{s}.safetensors" for s in ("als", "gedi", "ortho", "s2")
    }
    assert list(finished.glob("logs/*/events*"))
    with (finished / "logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [0, 1, 2, 3, 4, 5]
    assert any(row.get("val/loss") for row in rows)
    assert not list(finished.rglob("*.partial"))


def test_checkpoint_alone_makes_the_model_and_the_split_again(finished):
    module = CrossModalPretraining.load_from_checkpoint(last_checkpoint(finished), weights_only=True)
    assert module.sensors == ("als", "gedi", "ortho", "s2")
    split = Split.from_plain(module.hparams["scene"]["splits"][0])
    split.check(scene_grid())
    assert split.held_out().any()


def test_exported_encoder_has_the_weights_of_the_checkpoint(finished):
    trained = weights(finished)
    for sensor in ("als", "gedi", "s2"):
        encoder = load_encoder(finished / "encoders" / f"{sensor}.safetensors")
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, trained[f"encoders.{sensor}.{name}"])


@pytest.mark.parametrize(
    "options",
    [
        ("--data.num_workers", "2"),
        ("--model.pairs", "2", "--trainer.accumulate_grad_batches", "2"),
        ("--model.date_positives", "0.5", "--model.chip_contrast", "0.5", "--model.private", "16"),
    ],
)
def test_resumed_run_equals_an_unbroken_one(scene, tmp_path, options, monkeypatch):
    class Killed(Exception):
        pass

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(arguments(scene, whole, *options)) == 0
    step = CrossModalPretraining.training_step

    def dies_in_step_5(self, batch, batch_idx):
        if self.global_step == 5:
            raise Killed
        return step(self, batch, batch_idx)

    monkeypatch.setattr(CrossModalPretraining, "training_step", dies_in_step_5)
    with pytest.raises(Killed):
        main(arguments(scene, broken, *options))
    assert torch.load(last_checkpoint(broken), weights_only=True)["global_step"] == 4
    monkeypatch.undo()
    torch.manual_seed(99)
    assert main(arguments(scene, broken, *options, "--resume")) == 0
    first, second = weights(whole), weights(broken)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_killed_process_resumes_to_the_same_weights(scene, tmp_path, finished):
    run = tmp_path / "run"
    code = f"""
import time
from fusion3d.pretraining.command import CrossModalPretraining as Model, main
step = Model.training_step
Model.training_step = lambda self, *rest: time.sleep(600) if self.global_step == 5 else step(self, *rest)
main({arguments(scene, run)!r})
"""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    limit = time.monotonic() + 120
    while not last_checkpoint(run).exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last_checkpoint(run).exists()
    assert main(arguments(scene, run, "--resume")) == 0
    first, second = weights(finished), weights(run)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_run_that_is_there_is_not_overwritten(scene, finished):
    with pytest.raises(InputError, match="continue it with --resume, or give another --out"):
        main(arguments(scene, finished))


def test_resuming_a_finished_run_changes_nothing(scene, finished):
    before = weights(finished)
    assert main(arguments(scene, finished, "--resume")) == 0
    assert all(torch.equal(before[name], value) for name, value in weights(finished).items())


def test_resuming_with_other_data_is_refused(scene, finished):
    with pytest.raises(ConfigError, match="not those of the checkpoint"):
        main(arguments(scene, finished, "--resume", "--data.holdout", "0.4", "--trainer.max_steps", "8"))


class LaterEncoder(AlsEncoder):
    """With an option that those of before do not have, and that presets switch on."""

    def __init__(self, *options: int, wider: bool = False, **named: int) -> None:
        super().__init__(*options, **named)
        if wider:
            self.wider = torch.nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("recorded", "preset"),
    [(True, {"channels": 8, "levels": 2, "wider": True}), (False, {"statistics": False})],
    ids=["recorded", "before they were recorded"],
)
def test_a_run_keeps_its_encoders_when_presets_change(scene, finished, tmp_path, monkeypatch, recorded, preset):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    held = torch.load(last_checkpoint(run), weights_only=True)
    if not recorded:
        del held["encoders"]
        torch.save(held, last_checkpoint(run))
    monkeypatch.setitem(AlsEncoder.presets, "tiny", AlsEncoder.presets["tiny"] | preset)
    if recorded:
        monkeypatch.setitem(ENCODERS, "als", LaterEncoder)
    opened = load_pretraining(run, "cpu")
    assert all(torch.equal(value, held["state_dict"][name]) for name, value in opened.state_dict().items())
    assert main(arguments(scene, run, "--resume", "--trainer.max_steps", "8")) == 0
    assert load_pretraining(run, "cpu").trained_steps == 8
    assert load_encoder(run / "encoders" / "als.safetensors").hyperparameters == opened.encoders["als"].hyperparameters


@pytest.mark.parametrize("change", [("--model.preset", "small"), ("--model.encoder_options", "{als: {levels: 2}}")])
def test_resuming_with_other_encoders_is_refused(scene, finished, change):
    with pytest.raises(ConfigError, match=rf"{change[0]}.* is not that of .*last\.ckpt.*another --out"):
        main(arguments(scene, finished, "--resume", *change))


@pytest.mark.parametrize("encoders", [
    3, ["als"], {"als": None}, {"als": {"width": "x"}}, {"als": {"\n": 1}}, {"als": {"width": float("nan")}},
    {"als": {"width": -1}}, {"als": {**AlsEncoder.presets["tiny"], "width": 48}},
])  # fmt: skip
def test_encoders_that_cannot_be_made_are_told_in_one_line(finished, encoders):
    held = torch.load(last_checkpoint(finished), weights_only=True) | {"encoders": encoders}
    with pytest.raises(InputError, match=r"x\.ckpt: its als encoder does not fit .*train one of another version again") as error:
        encoders_of(Path("x.ckpt"), held)
    assert "\n" not in str(error.value)


def test_a_run_whose_encoders_cannot_be_made_neither_goes_on_nor_embeds(scene, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    torch.save(torch.load(last_checkpoint(run), weights_only=True) | {"encoders": {"als": {"width": "x"}}}, last_checkpoint(run))
    for verb in (lambda: load_pretraining(run, "cpu"), lambda: main(arguments(scene, run, "--resume"))):
        with pytest.raises(InputError, match=r"last\.ckpt: its als encoder does not fit"):
            verb()


def test_data_that_cannot_be_trained_on_leave_no_run(tmp_path):
    apart = write_scene(tmp_path / "apart.zarr", sensors=("als", "far"))
    with pytest.raises(Fusion3DError, match="no two sensors"):
        main(arguments(apart, tmp_path / "run"))
    assert check_run(tmp_path / "run", resume=False) is None


def test_unknown_option_is_named_and_writes_nothing(scene, tmp_path):
    with pytest.raises(ConfigError, match=r"--model\.presett"):
        main(arguments(scene, tmp_path / "run", "--model.presett", "tiny"))
    assert not (tmp_path / "run").exists()


def test_configuration_file_of_the_repository_is_accepted(scene, tmp_path):
    config = Path(__file__).parents[2] / "configs" / "pretrain_tiny.yaml"
    assert config.read_text().splitlines()[0] == "# fusion3d pretrain --config configs/pretrain_tiny.yaml --data.store scene.zarr"
    assert main(["--config", str(config), *arguments(scene, tmp_path / "run", "--trainer.max_steps", "1")]) == 0


def test_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"step": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["last.ckpt"]


def test_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file, not a folder"):
        check_run(tmp_path / "file", resume=False)


def test_precision_is_float32_without_a_gpu():
    assert precision("cpu") == "32-true"


def test_a_store_of_one_sensor_trains_retention_alone(tmp_path):
    scene = write_scene(tmp_path / "scene.zarr", sensors=("gedi",))
    assert main(arguments(scene, tmp_path / "run")) == 0
    rows = list(csv.DictReader(next((tmp_path / "run" / "logs").rglob("metrics.csv")).open()))
    assert any(row.get("train/retention_gedi") for row in rows)
    assert not any(name.startswith("train/contrast") for name in rows[0])


def test_a_store_of_one_sensor_without_retention_is_refused(tmp_path):
    scene = write_scene(tmp_path / "scene.zarr", sensors=("gedi",))
    with pytest.raises(ConfigError, match="retention"):
        main(arguments(scene, tmp_path / "run", "--model.retention", "0"))
