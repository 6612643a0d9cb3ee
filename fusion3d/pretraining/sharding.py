"""Sharded training: weights, gradients and the optimiser's state divided between processes (``--trainer.strategy fsdp2``).

Each encoder is one unit, and everything else another (FSDP: Zhao et al. 2023, arXiv 2304.11277; the implementation is
`torch.distributed.fsdp.fully_shard`). A step gathers the units that it needs, once, before anything is encoded: all processes
know the drawn pairs, but not all of them hold the sensors of a pair, nor as many pieces of it. After the backward pass the mean
gradient of the processes is left in shards.

Checkpoints hold whole tensors, laid out as those of any other strategy, so that a run can go on with another number of
processes, or with one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy, StrategyRegistry
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from fusion3d.errors import ConfigError
from fusion3d.pretraining.distributed import largest_over_ranks
from fusion3d.pretraining.recompute import used_by

NAME = "fsdp2"


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy around `shard`: every process is a part of one data-parallel group, and checkpoints are whole."""

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__("auto", 1, save_distributed_checkpoint=False, process_group_backend=process_group_backend)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        fill_gradients(self._module, loss)
        return loss

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        found = super().validation_step(*args, **kwargs)
        release(self._module)
        return found

    # -- checkpoints of whole tensors

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only=weights_only)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return cast(dict[str, Any], _whole(self._module.state_dict()))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        own = self._module.state_dict()
        kept = {name: _like(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        self._module.load_state_dict(kept, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return cast(dict[str, Any], _whole(optimizer.state_dict()))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, kept in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            numbers = [number for group in kept["param_groups"] for number in group["params"]]
            state = {
                number: {name: _like(value, parameter) for name, value in kept["state"][number].items()}
                for number, parameter in zip(numbers, parameters, strict=True)
                if number in kept["state"]
            }
            optimizer.load_state_dict({**kept, "state": state})

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module


StrategyRegistry.register(NAME, ShardedStrategy, description="weights, gradients and optimiser divided between the processes")


def check_strategy(strategy: object) -> None:
    """`ConfigError` for ways to shard that this model is not made for.

    Parameters
    ----------
    strategy : its name or the strategy itself
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    strange = isinstance(strategy, FSDPStrategy | ModelParallelStrategy) and not isinstance(strategy, ShardedStrategy)
    if strange or name in FSDPStrategy.get_registered_strategies():
        raise ConfigError(
            f"--trainer.strategy {name} gathers an encoder's weights each time that it runs, but processes run it "
            f"a different number of times; take {NAME}"
        )


def mesh_of(trainer: Trainer | None) -> DeviceMesh | None:
    """The processes that a module is to be divided between; None where it is to stay whole.

    Raises
    ------
    ConfigError
        The trainer's strategy shards in a way that `check_strategy` refuses.
    """
    strategy = None if trainer is None else trainer.strategy
    check_strategy(strategy)
    return strategy.device_mesh["data_parallel"] if isinstance(strategy, ShardedStrategy) else None


def shard(module: nn.Module, encoders: nn.ModuleDict, mesh: DeviceMesh | None, steps: Iterable[str]) -> None:
    """Divide the weights of a module between processes.

    Parameters
    ----------
    module : built; the same on every process
    encoders : of it; units of their own, for `gather`
    mesh : of the processes; None leaves the module whole
    steps : methods of the module that need the weights of everything else
    """
    if mesh is None:
        return
    for encoder in encoders.values():
        fully_shard(encoder, mesh=mesh, reshard_after_forward=False)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    for step in steps:
        register_fsdp_forward_method(module, step)


def make_rows_of_numbers(state: dict[str, Any], module: nn.Module) -> None:
    """Fit the weights of an old checkpoint: single numbers had no rows to be divided once."""
    for name, own in module.named_parameters():
        if name in state and state[name].dim() == 0 and own.shape == (1,):
            state[name] = state[name].reshape(1)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has divided the weights of a module."""
    return isinstance(module, FSDPModule)


def gather(encoders: Iterable[nn.Module]) -> None:
    """Bring the weights of encoders together for this step, on every process; does nothing where they are not sharded."""
    for encoder in encoders:
        if isinstance(encoder, FSDPModule):
            encoder.unshard()


def release(module: nn.Module) -> None:
    """Leave of all weights the shards of this process, after a step without a backward pass."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def fill_gradients(module: nn.Module, loss: Tensor) -> None:
    """Give the weights that only other processes have a gradient of one of 0.

    The mean over the processes is taken of the same weights everywhere. Those that no process uses keep none: the optimiser
    leaves them as they are.

    Parameters
    ----------
    module : with the weights as `loss` was computed from them
    loss : of this process, before its backward pass
    """
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    own = {id(weight) for weight in used_by([loss])}
    here = torch.tensor([id(weight) in own for weight in weights], dtype=torch.int64, device=loss.device)
    anywhere = largest_over_ranks(here)
    for weight, mine, others in zip(weights, here.tolist(), anywhere.tolist(), strict=True):
        if others and not mine and weight.grad is None:
            weight.grad = torch.zeros_like(weight)


def _whole(value: Any) -> Any:
    """Shards replaced by whole tensors on the CPU; every process takes part, the first alone keeps them."""
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.cpu() if distributed.get_rank() == 0 else whole.new_empty(0)
    if isinstance(value, Mapping):
        return {name: _whole(item) for name, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def _like(value: Any, own: Any) -> Any:
    """The shard of this process of a whole tensor, where `own` is one and has its shape."""
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
