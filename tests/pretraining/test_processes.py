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
from fusion3d.pretraining.module import CrossModalPretraining
from tests.data.scene import write_scene
from tests.pretraining.test_command import arguments

ROOT = Path(__file__).parents[2]
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STOPS_IN_STEP_3 = """
import sys, time
from fusion3d.pretraining.command import CrossModalPretraining as Model, main
step = Model.training_step
Model.training_step = lambda self, *rest: time.sleep(600) if self.global_step == 3 else step(self, *rest)
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> str:
    return write_scene(tmp_path_factory.mktemp("processes") / "scene.zarr")


def options(scene: str, run: Path, chips: int, *more: str) -> list[str]:
    return arguments(scene, run, "--data.batch_size", str(chips), "--trainer.max_steps", "4", *more)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def learnt(run: Path) -> torch.Tensor:
    """Change of all weights since the start, one vector."""
    kept = torch.load(last_checkpoint(run), weights_only=True)
    start = CrossModalPretraining(**kept["hyper_parameters"])
    start.configure_model()
    return torch.cat([(kept["state_dict"][name] - value).flatten() for name, value in start.state_dict().items()])


@pytest.fixture(scope="module")
def alone(scene, tmp_path_factory) -> torch.Tensor:
    """What an unbroken run of one process with two chips a step learns."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert main(options(scene, run, 2)) == 0
    return learnt(run)


def assert_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    # Not each weight by itself: where a gradient is 0 but for rounding, Adam makes a step of it.
    assert (found - expected).norm() < 0.01 * expected.norm()


def test_two_processes_that_were_killed_go_on_as_one(scene, alone, tmp_path):
    run, script = tmp_path / "run", tmp_path / "stops.py"
    script.write_text(STOPS_IN_STEP_3)
    process = subprocess.Popen(
        [sys.executable, str(script), *options(scene, run, 1, *TWO)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    limit = time.monotonic() + 240
    while not last_checkpoint(run).exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert torch.load(last_checkpoint(run), weights_only=True)["global_step"] == 2
    assert main(options(scene, run, 2, "--resume")) == 0
    assert_alike(learnt(run), alone)


def test_one_process_that_was_killed_goes_on_as_two_under_torchrun(scene, alone, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    run, step = tmp_path / "run", CrossModalPretraining.training_step

    def dies_in_step_3(self, batch, batch_idx):
        if self.global_step == 3:
            raise Killed
        return step(self, batch, batch_idx)

    monkeypatch.setattr(CrossModalPretraining, "training_step", dies_in_step_3)
    with pytest.raises(Killed):
        main(options(scene, run, 2))
    command = [sys.executable, *TORCHRUN, "-m", "fusion3d.cli", "pretrain", *options(scene, run, 1, *TWO, "--resume")]
    finished = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("4 steps, sensors als, gedi, ortho, s2") == 1
    assert {path.stem for path in (run / "encoders").iterdir()} == {"als", "gedi", "ortho", "s2"}
    assert_alike(learnt(run), alone)
