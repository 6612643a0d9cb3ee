"""What the sensors recorded of a batch of chips: plain tensors between the store and the encoders.

A batch has B chips of n x n columns; its M = B * n * n columns are numbered ``(chip * n + row) * n + col`` with rows running
south and columns running east. A sensor that saw nothing is absent (None or a missing key), a column it did not see is false in
`present`; neither is ever a zero that means something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fusion3d.data.pairs import DrawnPair
from fusion3d.io.bands import Band


def _move(value: object, *args: object, **kwargs: object) -> object:
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            kwargs = {key: item for key, item in kwargs.items() if key != "dtype"}
            args = tuple(item for item in args if not isinstance(item, torch.dtype))
        return value.to(*args, **kwargs)  # type: ignore[call-overload]
    if isinstance(value, _Movable):
        return value.to(*args, **kwargs)
    if isinstance(value, Mapping):
        return {key: _move(item, *args, **kwargs) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class _Movable:
    def to(self, *args: object, **kwargs: object) -> Self:
        """A copy on another device or, for floating tensors, of another dtype."""
        return replace(self, **{f.name: _move(getattr(self, f.name), *args, **kwargs) for f in fields(self)})


@dataclass(frozen=True)
class PointObservation(_Movable):
    """Points of an aerial LiDAR, sorted by column.

    Attributes
    ----------
    offset : east and south distance from the north-west corner of the point's own column, metres, in [0, column size)
    height : above ground, metres
    attributes : in the order of `POINT_ATTRIBUTES`
    row_splits : CSR: points of column m are ``row_splits[m]:row_splits[m + 1]``
    """

    offset: Float[Tensor, "points 2"]
    height: Float[Tensor, " points"]
    attributes: Float[Tensor, "points attributes"]
    row_splits: Int64[Tensor, " columns_plus_one"]

    @property
    def present(self) -> Bool[Tensor, " columns"]:
        return self.row_splits[1:] > self.row_splits[:-1]

    def part(self, start: int, stop: int) -> PointObservation:
        """Points of the columns ``start:stop``, without copying them."""
        first, last = (int(self.row_splits[at]) for at in (start, stop))
        return PointObservation(
            self.offset[first:last],
            self.height[first:last],
            self.attributes[first:last],
            self.row_splits[start : stop + 1] - first,
        )


POINT_ATTRIBUTES = ("intensity", "return_fraction", "returns", "scan_angle")
"""Intensity over the store's 95th percentile, clipped to [0, 4]; return number / number of returns; number of returns / 5;
cosine-free absolute scan angle / 30 degrees."""


@dataclass(frozen=True)
class RasterObservation(_Movable):
    """A raster sensor's dates over the chips, north up.

    Attributes
    ----------
    values : standardised with the store's per-band mean and standard deviation; 0 where not `valid`
    valid : nodata, clouds and absent dates are false
    days : days since 1970-01-01 of each date, NaN where the date is not known
    date_present : false for padding
    bands : per channel
    pixel : pixel size, metres
    pixels_per_column : at least 1 when a column holds that many pixels a side, else 0
    columns_per_pixel : at least 1 when a pixel covers that many columns a side (1 together with pixels_per_column 1), else 0
    pixel_origin : per chip, position of the chip's first column inside its first pixel, in columns (0 unless pixels are coarser)
    """

    values: Float[Tensor, "chips dates channels height width"]
    valid: Bool[Tensor, "chips dates channels height width"]
    days: Float[Tensor, "chips dates"]
    date_present: Bool[Tensor, "chips dates"]
    bands: tuple[Band, ...]
    pixel: float
    pixels_per_column: int
    columns_per_pixel: int
    pixel_origin: Int64[Tensor, "chips 2"]

    def part(self, start: int, stop: int) -> RasterObservation:
        """The chips ``start:stop``, without copying them."""
        cut = slice(start, stop)
        return replace(
            self,
            values=self.values[cut],
            valid=self.valid[cut],
            days=self.days[cut],
            date_present=self.date_present[cut],
            pixel_origin=self.pixel_origin[cut],
        )


@dataclass(frozen=True)
class FootprintObservation(_Movable):
    """GEDI footprints inside the chips, each a set of vertical points.

    Attributes
    ----------
    position : east and south of the chip's north-west corner, metres
    chip : which chip, never falling
    height : of the vertical points above ground, metres
    energy : of the vertical points: share of the waveform's energy (L1B) or of the cumulative energy step (L2A RH curve)
    row_splits : CSR of vertical points by footprint
    attributes : in the order of `FOOTPRINT_ATTRIBUTES`
    day : days since 1970-01-01
    """

    position: Float[Tensor, "footprints 2"]
    chip: Int64[Tensor, " footprints"]
    height: Float[Tensor, " points"]
    energy: Float[Tensor, " points"]
    row_splits: Int64[Tensor, " footprints_plus_one"]
    attributes: Float[Tensor, "footprints attributes"]
    day: Float[Tensor, " footprints"]

    @property
    def count(self) -> int:
        return self.chip.numel()

    def part(self, start: int, stop: int) -> FootprintObservation:
        """Footprints in the chips ``start:stop``, without copying them."""
        first, last = torch.searchsorted(self.chip, torch.tensor([start, stop], device=self.chip.device)).tolist()
        low, high = int(self.row_splits[first]), int(self.row_splits[last])
        return FootprintObservation(
            self.position[first:last],
            self.chip[first:last] - start,
            self.height[low:high],
            self.energy[low:high],
            self.row_splits[first : last + 1] - low,
            self.attributes[first:last],
            self.day[first:last],
        )


FOOTPRINT_ATTRIBUTES = ("power_beam", "sensitivity", "solar_elevation")
"""1 for a full-power beam, 0 for coverage; sensitivity 0-1; solar elevation / 90 degrees."""


@dataclass(frozen=True)
class ChipBatch(_Movable):
    """B square chips of `size` columns a side and what each sensor saw of them.

    Attributes
    ----------
    origin : row and column, in the store's grid, of each chip's north-west column
    size : columns a side
    column, voxel : metres
    als, gedi : observations or None
    rasters : by sensor name
    drawn : pairs of sensors that the chips were drawn for, where only those were read; None where all sensors were
    store : number of the store that each chip is from; None where all are from one. Rows and columns of different stores have
        nothing to do with each other
    turn : how each chip was turned, as `fusion3d.data.turn` has it; None where all lie as they are on the ground
    """

    origin: Int64[Tensor, "chips 2"]
    size: int
    column: float
    voxel: float
    als: PointObservation | None = None
    gedi: FootprintObservation | None = None
    rasters: Mapping[str, RasterObservation] = field(default_factory=dict)
    drawn: tuple[DrawnPair, ...] | None = None
    store: Int64[Tensor, " chips"] | None = None
    turn: Int64[Tensor, " chips"] | None = None

    @property
    def chips(self) -> int:
        return self.origin.shape[0]

    @property
    def columns(self) -> int:
        """M, the number of columns of the batch."""
        return self.chips * self.size * self.size

    @property
    def scene(self) -> Int64[Tensor, " chips"]:
        """Number of each chip's store, 0 where all are from one."""
        return torch.zeros_like(self.origin[:, 0]) if self.store is None else self.store

    def part(self, start: int, stop: int) -> ChipBatch:
        """The chips ``start:stop`` as a batch of their own, without copying what was recorded."""
        side = self.size * self.size
        return replace(
            self,
            origin=self.origin[start:stop],
            store=None if self.store is None else self.store[start:stop],
            turn=None if self.turn is None else self.turn[start:stop],
            als=None if self.als is None else self.als.part(start * side, stop * side),
            gedi=None if self.gedi is None else self.gedi.part(start, stop),
            rasters={name: raster.part(start, stop) for name, raster in self.rasters.items()},
        )

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors that are there: als, gedi, then the rasters in alphabetic order."""
        named = [name for name in ("als", "gedi") if getattr(self, name) is not None]
        return (*named, *sorted(self.rasters))
