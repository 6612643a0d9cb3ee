"""What surrounds the training loop: checkpoints that are whole or absent, and a progress bar that counts steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar

from fusion3d.io.whole_file import whole_file, write_whole

LAST = "last"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name and renames it, so that a killed run leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, RuntimeError) as draft:  # what torch raises on a full disk
            super().save_checkpoint(checkpoint, draft, storage_options)
            with draft.open("rb") as written:
                os.fsync(written.fileno())


def last_checkpoint(run: Path) -> Path:
    """Where a run keeps its newest checkpoint."""
    return run / "checkpoints" / f"{LAST}.ckpt"


def config_file(run: Path) -> Path:
    """The resolved configuration of a run; where it is, a run has begun."""
    return run / "config.yaml"


class ConfigurationFile(Callback):
    """Writes the resolved configuration when training begins, so that data or options that are refused leave none behind."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, self.text)


def checkpoint_every(run: Path, steps: int) -> ModelCheckpoint:
    """Keep one checkpoint of a run, renewed every `steps` optimiser steps."""
    path = last_checkpoint(run)
    return ModelCheckpoint(
        path.parent,
        filename=path.stem,
        every_n_train_steps=steps,
        save_top_k=1,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )


class StepProgressBar(TQDMProgressBar):
    """Progress in batches out of the whole run; batches are endless, so there is no epoch to show."""

    @property
    def total_train_batches(self) -> int | float:
        steps = self.trainer.max_steps
        return steps * self.trainer.accumulate_grad_batches if steps > 0 else super().total_train_batches

    def on_train_epoch_start(self, trainer: Trainer, *rest: Any) -> None:
        super().on_train_epoch_start(trainer, *rest)
        bar = self.train_progress_bar
        bar.set_description("pretrain")
        bar.n = bar.initial = trainer.global_step * trainer.accumulate_grad_batches

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
