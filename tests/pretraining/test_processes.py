"""`fusion3d pretrain` in two processes: it learns what one process with the same chips a step does, also after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fusion3d.pretraining.callbacks import last_checkpoint
from fusion3d.pretraining.command import main
from tests.data.scene import write_scene
from tests.pretraining.test_command import arguments

ROOT = Path(__file__).parents[2]
LAUNCHERS = {
    "lightning": [sys.executable, "-m", "fusion3d.cli"],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fusion3d.cli"],
}
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> str:
    return write_scene(tmp_path_factory.mktemp("processes") / "scene.zarr")


def options(scene: str, run: Path, chips: int, *more: str) -> list[str]:
    return arguments(scene, run, "--data.batch_size", str(chips), "--trainer.max_steps", "4", *more)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def launch(launcher: str, arguments: list[str]) -> None:
    command = [*LAUNCHERS[launcher], "pretrain", *arguments]
    finished = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("4 steps, sensors als, gedi, ortho, s2") == 1


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(last_checkpoint(run), weights_only=True)["state_dict"]


def assert_learnt_alike(run: Path, other: Path) -> None:
    first, second = weights(run), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def alone(scene, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    assert main(options(scene, run, 2)) == 0
    return run


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_learn_what_one_does(scene, alone, tmp_path, launcher):
    launch(launcher, options(scene, tmp_path / "run", 1, *TWO))
    assert_learnt_alike(alone, tmp_path / "run")
    assert {path.stem for path in (tmp_path / "run" / "encoders").iterdir()} == {"als", "gedi", "ortho", "s2"}


def test_a_killed_run_of_two_processes_goes_on_in_one(scene, alone, tmp_path):
    run = tmp_path / "run"
    command = [*LAUNCHERS["lightning"], "pretrain", *options(scene, run, 1, *TWO, "--trainer.max_steps", "4000")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(), cwd=ROOT, start_new_session=True
    )
    limit = time.monotonic() + 240
    while not last_checkpoint(run).exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    reached = torch.load(last_checkpoint(run), weights_only=True)["global_step"]
    assert main(options(scene, run, 2, "--resume", "--trainer.max_steps", str(reached + 2))) == 0
    assert torch.load(last_checkpoint(run), weights_only=True)["global_step"] == reached + 2


def test_a_run_of_one_process_goes_on_in_two(scene, alone, tmp_path):
    run = tmp_path / "run"
    half = options(scene, run, 2, "--trainer.max_steps", "2")
    assert main(half) == 0
    launch("lightning", options(scene, run, 1, *TWO, "--resume"))
    assert torch.load(last_checkpoint(run), weights_only=True)["global_step"] == 4
