"""What each sensor says of chosen columns of a store: embedded once, then used for any subset of the sensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fusion3d.data.chips import read_chips
from fusion3d.data.observation import ChipBatch
from fusion3d.encoders.footprint_cells import on_cells
from fusion3d.encoders.fusion import fuse
from fusion3d.evaluation.places import Patch
from fusion3d.store import Store

if TYPE_CHECKING:
    from fusion3d.pretraining.module import CrossModalPretraining

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SensorColumns:
    """What one sensor says of N columns; 0 where not present.

    Attributes
    ----------
    shared : [N, D] unit vectors that other sensors are compared with
    features : [N, W] all that the encoder knows, shared and private
    present : [N] where the sensor saw the column (a column under a GEDI footprint, see `fusion3d.encoders.footprint_cells`)
    """

    shared: Float32
    features: Float32
    present: BoolArray

    def take(self, rows: Int64) -> SensorColumns:
        """Some of the columns."""
        return SensorColumns(self.shared[rows], self.features[rows], self.present[rows])


@dataclass(frozen=True)
class EmbeddedColumns:
    """What each sensor says of the same columns.

    Attributes
    ----------
    columns : [N] row * cols + col of the store's grid, rising
    sensors : by name
    """

    columns: Int64
    sensors: Mapping[str, SensorColumns]

    def fused(self, names: Sequence[str] | None = None) -> tuple[Float32, BoolArray]:
        """One unit vector [N, D] of each column from a subset of the sensors (all when None), and where one of them saw it."""
        parts = {
            name: (torch.from_numpy(self.sensors[name].shared), torch.from_numpy(self.sensors[name].present))
            for name in (self.sensors if names is None else names)
        }
        vectors, present = fuse(parts)
        return vectors.numpy(), present.numpy()

    def joined(self, names: Sequence[str] | None = None) -> tuple[Float32, BoolArray]:
        """Features of a subset of the sensors side by side [N, sum of W], 0 where absent, and where one saw the column."""
        chosen = [self.sensors[name] for name in (self.sensors if names is None else names)]
        return np.concatenate([part.features for part in chosen], axis=1), np.logical_or.reduce([part.present for part in chosen])


def embed_columns(
    module: CrossModalPretraining,
    store: Store,
    chosen: Sequence[Patch],
    names: Sequence[str],
    wanted: BoolArray | None = None,
    *,
    alter: Callable[[ChipBatch], ChipBatch] | None = None,
    advance: Callable[[], None] | None = None,
) -> EmbeddedColumns:
    """Embed the columns of some patches with the encoders of a checkpoint.

    Parameters
    ----------
    chosen : each column is taken from the patch that owns it (`places.patches`)
    names : sensors that checkpoint and store hold
    wanted : [rows, cols] of the grid, the columns to keep; None keeps all
    alter : what to do to a batch before it is encoded, such as adding noise
    advance : called after each patch
    """
    cols = store.grid.cols
    columns: list[Int64] = []
    parts: dict[str, list[tuple[Float32, Float32, BoolArray]]] = {name: [] for name in names}
    for patch in chosen:
        rows, where = _kept(patch, cols, wanted)
        if len(rows):
            columns.append(where)
            batch = read_chips(store, [(patch.window.row, patch.window.col)], patch.window.rows, names)
            batch = batch if alter is None else alter(batch)
            for name, found in _embedded(module, batch.to(module.device), names):
                parts[name].append(tuple(value[rows].cpu().numpy() for value in found))  # type: ignore[arg-type]
        if advance is not None:
            advance()
    order = np.argsort(np.concatenate(columns)) if columns else np.zeros(0, np.int64)
    sensors = {
        name: SensorColumns(*(np.concatenate(values)[order] for values in zip(*found))) for name, found in parts.items() if found
    }
    return EmbeddedColumns(np.concatenate(columns)[order] if columns else order, sensors)


def columns_of(chosen: Sequence[Patch], cols: int, wanted: BoolArray | None = None) -> Int64:
    """[N] columns that patches own, rising."""
    parts = [_kept(patch, cols, wanted)[1] for patch in chosen]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)


def _kept(patch: Patch, cols: int, wanted: BoolArray | None) -> tuple[Int64, Int64]:
    """Columns that a patch owns: their number in the patch, and in the grid."""
    own, window = patch.own, patch.window
    row, col = (axis.ravel() for axis in np.mgrid[own.row : own.row_stop, own.col : own.col_stop])
    if wanted is not None:
        kept = wanted[row, col]
        row, col = row[kept], col[kept]
    return (row - window.row) * window.cols + (col - window.col), row * cols + col


@torch.inference_mode()
def _embedded(
    module: CrossModalPretraining, batch: ChipBatch, names: Sequence[str]
) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor]]]:
    """Unit vectors, features and presence of every column of a chip, by sensor."""
    for name in names:
        found = on_cells(module.encode(batch, name), batch)
        yield name, (normalize(found.shared.float(), dim=1), found.features.float(), found.present)
