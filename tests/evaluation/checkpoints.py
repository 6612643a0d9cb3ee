"""Checkpoints of `fusion3d pretrain` without the training."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from fusion3d.data.datamodule import ChipDataModule
from fusion3d.pretraining.module import CrossModalPretraining

NARROW = {
    "als": {"width": 16, "shared_dim": 8, "channels": 8, "levels": 2},
    "gedi": {"width": 16, "shared_dim": 8, "point_channels": 16},
    "raster": {"width": 16, "shared_dim": 8, "pixel_channels": 8, "hidden": 16},
}


def write_checkpoint(path: Path, store: str, sensors: list[str], holdout: float = 0.25, seed: int = 3) -> Path:
    """A checkpoint with the random weights of `seed`, for some sensors of a store."""
    data = ChipDataModule(store, size=8, sensors=sensors, holdout=holdout, min_columns=4)
    data.setup()
    options = {name: NARROW.get(name, NARROW["raster"]) for name in data.sensors}
    # a single sensor has nothing but retention to learn from
    retention = float(len(data.sensors) == 1)
    module = CrossModalPretraining(encoder_options=options, seed=seed, scene=data.facts(), retention=retention)
    module.configure_model()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path, weights_only=True)
    return path
