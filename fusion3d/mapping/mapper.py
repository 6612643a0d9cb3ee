"""Tiles of a store by encoders of a checkpoint: what each sensor says of every cell, and one embedding of it.

The halo of a tile is declared by each step: every sensor is read with one as wide as its encoder's receptive field, so that the
values do not depend on the tiles. GEDI
measures footprints, not cells: their embeddings are written to the cells under them (`encoders.footprint_cells`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusion3d.data.chips import read_chips
from fusion3d.data.observation import ChipBatch
from fusion3d.encoders.footprint_cells import FOOTPRINT_RADIUS, ROUNDING, on_cells
from fusion3d.encoders.fusion import ColumnFusion, check_fusion, fuse
from fusion3d.encoders.output import ColumnEmbedding
from fusion3d.errors import ConfigError
from fusion3d.evaluation.tuned_file import answer_band
from fusion3d.grid import Window
from fusion3d.mapping.tiles import MapGrid
from fusion3d.store import Store

if TYPE_CHECKING:
    from fusion3d.evaluation.supervised import SupervisedModel
    from fusion3d.pretraining.module import CrossModalPretraining

DEFAULT_FUSION = "precision"
"""Where the checkpoint has a trained fusion, else the mean: see `tools/bench_fusion.py`."""
FEATURES = ("shared", "all", "sensors", "answer")
_AT_ONCE = 1 << 15
"""Cells fused at a time."""


@dataclass(frozen=True)
class Cells:
    """Embeddings of a rectangle of a map's cells: values [D, rows, cols], NaN where not `observed`; `seen` by sensor."""

    window: Window
    values: npt.NDArray[np.float32]
    observed: npt.NDArray[np.bool_]
    seen: dict[str, npt.NDArray[np.bool_]]


class Mapper:
    """Embeds tiles of a store with chosen encoders of a checkpoint.

    Parameters
    ----------
    names : sensors that checkpoint and store hold
    resolution : side of a cell, metres; None for the column
    fusion, features : as for `embed`
    answers : target and heads of a fine-tuned run
    """

    def __init__(
        self,
        module: CrossModalPretraining,
        store: Store,
        names: Sequence[str],
        resolution: float | None = None,
        fusion: str | None = None,
        features: str = "shared",
        answers: tuple[str, SupervisedModel] | None = None,
    ) -> None:
        self.module, self.store, self.names = module, store, list(names)
        self.map = MapGrid.of(store.grid, resolution)
        # None rather than the same number: encoders then take the columns as they are
        self._cell = None if self.map.split == self.map.merge == 1 else self.map.cell
        self._halo = {name: self.map.whole(self._reach(name)) for name in names}
        self._seen = lru_cache(maxsize=1024)(store.seen)
        self._trained: ColumnFusion | None = module.fusion
        self.fusion = choose_fusion(self._trained, fusion, features)
        self.features = features
        self._answers = answers
        if features == "answer" and answers is None:
            raise ConfigError("--features answer is for a run of `fusion3d fit --finetune`")
        if features == "answer" and fusion is not None:
            raise ConfigError("--fusion has no place with --features answer: the answers of sensors are averaged")

    @property
    def bands(self) -> list[str]:
        """Names of the dimensions of an embedding."""
        shared = [f"emb_{number:03d}" for number in range(int(self.module.encoders[self.names[0]].shared_dim))]
        if self.features == "answer" and self._answers is not None:
            return [answer_band(self._answers[0])]
        if self.features == "sensors":
            widths = {name: int(self.module.encoders[name].width) for name in self.names}
            return [*shared, *(f"{name}_{number:03d}" for name, width in widths.items() for number in range(width))]
        if self.features == "shared" or self._trained is None:
            return shared
        return [*shared, *(f"fused_{number:03d}" for number in range(self._trained.width))]

    def _reach(self, name: str) -> int:
        """Columns around a tile that its cells depend on."""
        column = self.store.grid.column
        encoder = self.module.encoders[name]
        field = encoder.receptive_field(column, voxel=self.store.grid.voxel, cell=self._cell)
        return field + math.ceil((FOOTPRINT_RADIUS + ROUNDING) / column) if name == "gedi" else field

    def read(self, window: Window) -> dict[str, ChipBatch]:
        """What each sensor saw of a tile and its halo; without the sensors that saw nothing of the tile."""
        found = {}
        for name in self.names:
            halo = self._halo[name]
            # A footprint in the halo reaches into the tile; a point or pixel there only changes what the tile itself holds.
            if not self._sees(name, window.buffered(halo) if name == "gedi" else window):
                continue
            batch = read_chips(self.store, [(window.row - halo, window.col - halo)], window.rows + 2 * halo, [name])
            if name in batch.sensors:
                found[name] = batch
        return found

    def _sees(self, name: str, window: Window) -> bool:
        grid = self.store.grid
        for block in grid.blocks_in(window):
            whole = grid.block_window(*block)
            part = whole.intersection(window)
            rows = slice(part.row - whole.row, part.row_stop - whole.row)
            if self._seen(name, *block)[rows, part.col - whole.col : part.col_stop - whole.col].any():
                return True
        return False

    @torch.inference_mode()
    def embed(self, window: Window, batches: dict[str, ChipBatch]) -> Cells:
        """Fused embeddings of the cells of a tile from what `read` found."""
        side = window.rows * self.map.split // self.map.merge
        parts = self.encode(window, batches)
        count = side * side
        pieces = [self._fused(cut(parts, start, min(start + _AT_ONCE, count))) for start in range(0, count, _AT_ONCE)]
        values, observed = (torch.cat(part) for part in zip(*pieces, strict=True))
        values = torch.where(observed.unsqueeze(1), values, torch.nan).T.reshape(-1, side, side).cpu().numpy()
        cells = self.map.cells_of(window)
        inside = slice(0, cells.rows), slice(0, cells.cols)
        seen = {name: part.present.reshape(side, side).cpu().numpy()[inside] for name, part in parts.items()}
        return Cells(cells, values[(slice(None), *inside)], observed.reshape(side, side).cpu().numpy()[inside], seen)

    def _fused(self, parts: dict[str, ColumnEmbedding]) -> tuple[Tensor, Tensor]:
        """Embeddings of sites, and where they are."""
        if self.features == "answer" and self._answers is not None:
            model = self._answers[1]
            said, seen = model.answers({name: (part.features, part.present) for name, part in parts.items()})
            return said * model.scale + model.centre, seen
        if self._trained is None or (self.fusion == "mean" and self.features == "shared"):
            values, observed = fuse({name: (part.shared, part.present) for name, part in parts.items()})
        else:
            found = self._trained.fuse(parts, self.fusion)
            values, observed = found.shared, found.observed
        # a fused vector of length 0 has no direction; it is not an embedding
        observed = observed & (values.abs().sum(dim=1) > 0)
        if self.features == "sensors":
            values = torch.cat((values, self._by_sensor(parts, values)), dim=1)
        elif self._trained is not None and self.features == "all":
            features = found.features if self.fusion == "attention" else self._trained.attention(parts).features
            values = torch.cat((values, features), dim=1)
        return values, observed

    def _by_sensor(self, parts: dict[str, ColumnEmbedding], like: Tensor) -> Tensor:
        """Features of all sensors side by side, 0 where a sensor saw nothing."""
        found = []
        for name in self.names:
            if name in parts:
                found.append(torch.where(parts[name].present.unsqueeze(1), parts[name].features, 0.0))
            else:
                found.append(like.new_zeros(len(like), int(self.module.encoders[name].width)))
        return torch.cat(found, dim=1)

    @torch.inference_mode()
    def encode(self, window: Window, batches: dict[str, ChipBatch]) -> dict[str, ColumnEmbedding]:
        """What each sensor says of the cells of a tile, from what `read` found, the halo removed."""
        side = window.rows * self.map.split // self.map.merge
        return {name: self._encode(name, batch, side) for name, batch in batches.items()}

    def _encode(self, name: str, batch: ChipBatch, side: int) -> ColumnEmbedding:
        batch = batch.to(self.module.device)
        found = on_cells(self.module.encoders[name](batch, name, self._cell), batch, self._cell)
        first = (found.rows - side) // 2
        inside = slice(first, first + side)
        shared, features, present = (
            values.reshape(found.rows, found.cols, *values.shape[1:])[inside, inside].flatten(0, 1)
            for values in (found.shared.float(), found.features.float(), found.present)
        )
        return ColumnEmbedding(shared, features, present, found.cell, side, side)


def cut(parts: dict[str, ColumnEmbedding], start: int, stop: int) -> dict[str, ColumnEmbedding]:
    """The sites ``start:stop`` of every sensor, as one row."""
    at = slice(start, stop)
    return {
        name: ColumnEmbedding(part.shared[at], part.features[at], part.present[at], part.cell, 1, stop - start)
        for name, part in parts.items()
    }


def choose_fusion(trained: ColumnFusion | None, wanted: str | None, features: str = "shared") -> str:
    """The way to fuse: the wanted one, else `DEFAULT_FUSION` where a trained fusion is there and the mean where it is not.

    Raises
    ------
    ConfigError
        There is no such way or choice of features, or it needs a trained fusion.
    """
    if features not in FEATURES:
        raise ConfigError(f"--features {features} is not known; choose from {', '.join(FEATURES)}")
    if wanted is not None:
        check_fusion(wanted)
    if trained is None and (wanted not in (None, "mean") or features == "all"):
        asked = f"--fusion {wanted}" if wanted not in (None, "mean") else "--features all"
        raise ConfigError(f"{asked} needs a fusion, and the checkpoint was trained without one (--model.prediction 0)")
    return wanted or (DEFAULT_FUSION if trained is not None else "mean")
