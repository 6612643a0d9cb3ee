"""What an encoder is, and the encoders there are.

A new encoder is one class under `register`; `build` then makes it by name and the conformance suite runs on it.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from torch import nn

from fusion3d.data.observation import ChipBatch
from fusion3d.encoders.output import ColumnEmbedding, FootprintEmbedding
from fusion3d.errors import ConfigError

Scalar = int | float | str | bool


class Encoder(nn.Module, ABC):
    """From one sensor's observation in a batch of chips to embeddings.

    Results are a function of the sensor's own measurements: neither other chips of the batch, nor padding, nor (beyond
    `receptive_field`) where a chip was cut change them.

    Attributes
    ----------
    kind : name in the registry
    presets : hyperparameters by preset name
    hyperparameters : plain values that make the same encoder again: ``type(encoder)(**encoder.hyperparameters)``
    width, shared_dim : W and D, length of features and of the shared projection
    """

    kind: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Scalar]]]

    def __init__(self, **hyperparameters: Scalar) -> None:
        super().__init__()
        for name, value in hyperparameters.items():
            if isinstance(value, int) and value < 1 and not isinstance(value, bool):
                raise ConfigError(f"{name} of the {self.kind} encoder must be at least 1, not {value}")
        self.hyperparameters = hyperparameters
        self.width = int(hyperparameters["width"])
        self.shared_dim = int(hyperparameters["shared_dim"])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, hence of the results; inputs are converted to it."""
        return next(self.parameters()).dtype

    @abstractmethod
    def receptive_field(self, column: float, *, voxel: float | None = None, cell: float | None = None) -> int:
        """Columns around a column that can change its embedding: the halo that makes tiles seamless.

        Parameters
        ----------
        column, voxel : metres; None for `voxel` stands for the worst case, voxels as large as columns
        cell : output cell, metres; None for the column
        """

    @abstractmethod
    def forward(self, batch: ChipBatch, sensor: str, cell: float | None = None) -> ColumnEmbedding | FootprintEmbedding:
        """Embed what `sensor` recorded in `batch`.

        Parameters
        ----------
        sensor : name of the sensor in the batch
        cell : output cell, metres: the column size times or over an integer; None for the column

        Raises
        ------
        ConfigError
            The batch does not hold the sensor, or the cell does not fit the columns.
        """


ENCODERS: dict[str, type[Encoder]] = {}
_Class = TypeVar("_Class", bound=type[Encoder])


def register(encoder: _Class) -> _Class:
    """Make `build` know an encoder class by its `kind`."""
    ENCODERS[encoder.kind] = encoder
    return encoder


def kind_of(sensor: str) -> str:
    """The kind of encoder for a sensor: its own name where an encoder has it, else raster."""
    return sensor if sensor in ENCODERS else "raster"


def build(kind: str, preset: str = "tiny", **hyperparameters: Scalar) -> Encoder:
    """A new encoder: a preset, with some hyperparameters replaced.

    Raises
    ------
    ConfigError
        No such kind, preset or hyperparameter.
    """
    if kind not in ENCODERS:
        raise ConfigError(f"there is no encoder {kind!r}; choose from {', '.join(sorted(ENCODERS))}")
    encoder = ENCODERS[kind]
    if preset not in encoder.presets:
        raise ConfigError(f"the {kind} encoder has no preset {preset!r}; choose from {', '.join(encoder.presets)}")
    known = list(inspect.signature(encoder).parameters)
    unknown = sorted(set(hyperparameters) - set(known))
    if unknown:
        raise ConfigError(f"the {kind} encoder has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return encoder(**{**encoder.presets[preset], **hyperparameters})


def sensor_missing(batch: ChipBatch, sensor: str) -> ConfigError:
    """The error for a sensor that a batch does not hold."""
    held = ", ".join(batch.sensors) or "none"
    return ConfigError(
        f"the batch holds no observation of sensor {sensor!r} (it holds {held}); encode only sensors that are there"
    )
