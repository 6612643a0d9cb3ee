"""Two processes that divide the weights between them (`--trainer.strategy fsdp2`) learn what one process does."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh

from fusion3d.data.chips import collate, read_chips
from fusion3d.encoders.checkpoint import load_encoder
from fusion3d.errors import ConfigError
from fusion3d.pretraining.callbacks import last_checkpoint
from fusion3d.pretraining.command import main
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.sharding import check_strategy, fill_gradients, gather, make_rows_of_numbers, shard
from fusion3d.store import Store
from tests.data.scene import write_scene
from tests.pretraining.test_distributed import CASES, NO_POINTS, PROCESSES, SENSORS, Step, module_of, result
from tests.pretraining.test_processes import assert_alike, learnt, options

WATCHED = {
    **{name: CASES[name] for name in ("the first process without meetings", "footprints against points")},
    "all sensors, some of them on one process": (([NO_POINTS], [(8, 8)]), 4, SENSORS, 6, {"alignment": "none"}),
}
"""Batches of which the processes hold other sensors, or another number of pieces."""
SHARDED = ("--trainer.devices", "2", "--trainer.strategy", "fsdp2", "--resume", "--model.chips_at_once", "1")
OFTEN = ("--trainer.max_steps", "3", "--checkpoint_every", "1", "--trainer.val_check_interval", "2")


def process(number: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": PROCESSES, "LOCAL_WORLD_SIZE": PROCESSES}
    own = {"RANK": number, "LOCAL_RANK": number, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in {**meet, **own}.items()})
    assert main(options(f"{folder}/scene.zarr", Path(folder, "run"), 1, *OFTEN, *SHARDED)) == 0
    store = Store.open(f"{folder}/scene.zarr")
    torch.save({name: sharded(store, number, *WATCHED[name]) for name in WATCHED}, f"{folder}/{number}.pt")
    distributed.destroy_process_group()


def sharded(store: Store, number: int, chips, size: int, sensors, count: int, more: dict):
    """Loss, whole gradients and how many weights this process holds."""
    module = module_of(count, more)
    shard(module, module.encoders, init_device_mesh("cpu", (PROCESSES,)), ["loss"])
    held = sum(parameter.to_local().numel() for parameter in module.parameters())
    batch = read_chips(store, chips[number], size, sensors)
    drawn = module.draw(batch, (0, 3))
    gather(module.encoders[name] for name in SENSORS if module.alignment.every_sensor or any(name in d.pair for d in drawn))
    loss, _ = module.loss(batch, drawn, (0, 3))
    fill_gradients(module, loss)
    loss.backward()
    gradients = {name: None if p.grad is None else p.grad.full_tensor() for name, p in module.named_parameters()}
    return loss.item(), gradients, held


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run that one process began and was killed in, and two went on with; and their gradients of `WATCHED`."""

    class Killed(Exception):
        pass

    folder, step = tmp_path_factory.mktemp("sharding"), CrossModalPretraining.training_step

    def dies_in_step_1(self, batch, batch_idx):
        if self.global_step == 1:
            raise Killed
        return step(self, batch, batch_idx)

    scene = write_scene(folder / "scene.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        assert main(options(scene, folder / "alone", 2, *OFTEN)) == 0
        patch.setattr(CrossModalPretraining, "training_step", dies_in_step_1)
        with pytest.raises(Killed):
            main(options(scene, folder / "run", 2, *OFTEN))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        multiprocessing.start_processes(process, (str(folder), port), PROCESSES, start_method="spawn")
    return folder


@pytest.mark.parametrize("case", WATCHED)
def test_gradient_is_that_of_one_process_with_all_chips(folder, case):
    chips, size, sensors, count, more = WATCHED[case]
    store = Store.open(str(folder / "scene.zarr"))
    module = module_of(count, more)
    loss, _, gradients = result(Step(module), module, collate([read_chips(store, part, size, sensors) for part in chips]))
    for found_loss, found, _ in (torch.load(folder / f"{number}.pt", weights_only=True)[case] for number in range(PROCESSES)):
        assert found_loss == pytest.approx(loss, rel=1e-6)
        assert {name for name, value in found.items() if value is None} == {n for n, value in gradients.items() if value is None}
        for name, gradient in gradients.items():
            if gradient is not None:
                torch.testing.assert_close(
                    found[name], gradient, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
                )


def test_each_process_holds_about_half_of_the_weights(folder):
    total = sum(parameter.numel() for parameter in module_of(1, {}).parameters())
    held = [torch.load(folder / f"{number}.pt", weights_only=True)[next(iter(WATCHED))][2] for number in range(PROCESSES)]
    assert sum(held) == total
    assert max(held) < 0.55 * total


def test_two_sharded_processes_go_on_as_the_one_that_was_killed(folder):
    assert_alike(learnt(folder / "run"), learnt(folder / "alone"))


def test_checkpoint_is_laid_out_as_that_of_one_process(folder):
    alone, run = (torch.load(last_checkpoint(folder / name), weights_only=True) for name in ("alone", "run"))
    assert {name: value.shape for name, value in run["state_dict"].items()} == {
        name: value.shape for name, value in alone["state_dict"].items()
    }
    (expected,), (found,) = alone["optimizer_states"], run["optimizer_states"]
    assert [group["params"] for group in found["param_groups"]] == [group["params"] for group in expected["param_groups"]]
    assert found["state"].keys() == expected["state"].keys()
    moments = [torch.cat([one["exp_avg"].flatten() for one in state["state"].values()]) for state in (found, expected)]
    assert_alike(*moments)


def test_encoders_are_written_whole(folder):
    weights = torch.load(last_checkpoint(folder / "run"), weights_only=True)["state_dict"]
    encoder = load_encoder(folder / "run" / "encoders" / "s2.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights[f"encoders.s2.{name}"])


def test_checkpoints_with_single_numbers_for_rows_still_fit():
    module = module_of(1, {})
    state = module.state_dict()
    name = "alignment.contrast.log_temperature"
    old = {**state, name: state[name].reshape(())}
    make_rows_of_numbers(old, module)
    module.load_state_dict(old)
    assert old[name].shape == (1,)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload", ModelParallelStrategy(), FSDPStrategy.__new__(FSDPStrategy)])
def test_other_ways_to_shard_are_refused_with_the_one_to_take(strategy):
    with pytest.raises(ConfigError, match="take fsdp2"):
        check_strategy(strategy)
