"""An encoder as a program: torch.export of its whole way from measurements to embeddings, for any number of them.

A program is for one sensor, one size of chip, one column and voxel (or one set of bands) and one output cell, all taken from an
example; how many chips, points, footprints or dates there are stays free. It runs where torch and fusion3d are installed, also
without the encoder's Python code: ``import fusion3d.ops`` makes its operators known before `torch.export.load`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fusion3d.data.observation import ChipBatch, FootprintObservation, PointObservation, RasterObservation
from fusion3d.encoders.registry import Encoder, sensor_missing
from fusion3d.errors import ConfigError

Observation = PointObservation | FootprintObservation | RasterObservation


def export_program(encoder: Encoder, batch: ChipBatch, sensor: str, cell: float | None = None) -> ExportedProgram:
    """The encoder as a program, to be written by `torch.export.save` and read by `torch.export.load`.

    Parameters
    ----------
    encoder : is exported as it is, in evaluation or in training mode
    batch : an example; its sizes are free in the program, all else (chip size, metres, bands) is fixed
    sensor : which the program is for
    cell : output cell, metres; None for the column

    Returns
    -------
    a program of ``origin`` and the observation's tensors by name, as `program_inputs` gives them, that returns (shared, features,
    present) as in `ColumnEmbedding` and `FootprintEmbedding`. Programs for GEDI take two footprints or more; programs for rasters
    encode all images at once, however much memory that takes.

    Raises
    ------
    ConfigError
        The batch does not hold the sensor, or holds nothing that it saw.
    """
    batch = _twice(batch, sensor)
    inputs = program_inputs(batch, sensor)
    sizes = _sizes(batch, _observation(batch, sensor))
    return torch.export.export(_OnTensors(encoder, batch, sensor, cell), inputs, dynamic_shapes=({0: Dim("chips")}, sizes))


def program_inputs(batch: ChipBatch, sensor: str) -> tuple[Int64[Tensor, "chips 2"], dict[str, Tensor]]:
    """What a program for `sensor` is called with: ``program.module()(*program_inputs(batch, sensor))``.

    Raises
    ------
    ConfigError
        The batch does not hold the sensor.
    """
    return batch.origin, _parts(_observation(batch, sensor), tensors=True)


class _OnTensors(nn.Module):
    """An encoder whose inputs and outputs are tensors alone."""

    def __init__(self, encoder: Encoder, batch: ChipBatch, sensor: str, cell: float | None) -> None:
        super().__init__()
        self.encoder, self.sensor, self.cell = encoder, sensor, cell
        self.like = replace(batch, als=None, gedi=None, rasters={})
        observation = _observation(batch, sensor)
        self.observation: Any = type(observation)
        self.fixed = _parts(observation, tensors=False)

    def forward(
        self, origin: Int64[Tensor, "chips 2"], tensors: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "items shared_dim"], Float[Tensor, "items width"], Bool[Tensor, " items"]]:
        observation = self.observation(**tensors, **self.fixed)
        found = self.encoder(_holding(replace(self.like, origin=origin), self.sensor, observation), self.sensor, self.cell)
        return found.shared, found.features, found.present


def _observation(batch: ChipBatch, sensor: str) -> Observation:
    if sensor not in batch.sensors:
        raise sensor_missing(batch, sensor)
    return batch.rasters[sensor] if sensor in batch.rasters else getattr(batch, sensor)


def _holding(batch: ChipBatch, sensor: str, observation: Observation) -> ChipBatch:
    """The batch as if only `sensor` had seen it."""
    alone = replace(batch, als=None, gedi=None, rasters={})
    if isinstance(observation, RasterObservation):
        return replace(alone, rasters={sensor: observation})
    if isinstance(observation, PointObservation):
        return replace(alone, als=observation)
    return replace(alone, gedi=observation)


def _parts(observation: Observation, *, tensors: bool) -> dict[str, Any]:
    values = {one.name: getattr(observation, one.name) for one in fields(observation)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor) == tensors}


def _twice(batch: ChipBatch, sensor: str) -> ChipBatch:
    """Every chip and every date two times: of a size of 1 the exporter would not believe that it is free."""
    observation = _observation(batch, sensor)
    pairs = {name: torch.cat((value, value)) for name, value in _parts(observation, tensors=True).items()}
    if not isinstance(observation, RasterObservation):
        splits = observation.row_splits
        pairs["row_splits"] = torch.cat((splits, splits[1:] + splits[-1]))
        if not splits[-1]:
            raise ConfigError(f"the example holds nothing that {sensor} saw; take a batch with measurements")
    if isinstance(observation, FootprintObservation):
        pairs["chip"] = torch.cat((observation.chip, observation.chip + batch.chips))
    if isinstance(observation, RasterObservation):
        if not observation.values.numel():
            raise ConfigError(f"the example holds no images of {sensor}; take a batch with measurements")
        for name in ("values", "valid", "days", "date_present"):
            pairs[name] = torch.cat((pairs[name], pairs[name]), dim=1)
    kind: Any = type(observation)
    doubled = kind(**pairs, **_parts(observation, tensors=False))
    return _holding(replace(batch, origin=batch.origin.repeat(2, 1)), sensor, doubled)


def _sizes(batch: ChipBatch, observation: Observation) -> dict[str, dict[int, Any]]:
    """Which sizes of the observation's tensors are free, and how they hang together."""
    chips = Dim("chips")
    if isinstance(observation, RasterObservation):
        images = {0: chips, 1: Dim("dates")}
        return {**dict.fromkeys(("values", "valid", "days", "date_present"), images), "pixel_origin": {0: chips}}
    points = {0: Dim("points")}
    if isinstance(observation, PointObservation):
        return {**dict.fromkeys(("offset", "height", "attributes"), points), "row_splits": {0: batch.size**2 * chips + 1}}
    footprints = Dim("footprints", min=2)
    each = {name: {0: footprints} for name in ("position", "chip", "attributes", "day")}
    return {**each, **dict.fromkeys(("height", "energy"), points), "row_splits": {0: footprints + 1}}
