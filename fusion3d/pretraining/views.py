"""What each sensor's encoder says of a batch, computed when it is first asked for and in pieces that fit the memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from fusion3d.data.observation import ChipBatch
from fusion3d.encoders.output import ColumnEmbedding, FootprintEmbedding
from fusion3d.pretraining.objective import Embedded
from fusion3d.pretraining.recompute import recomputed

Found = ColumnEmbedding | FootprintEmbedding
Encode = Callable[[ChipBatch, str], Found]
Cut = Callable[[ChipBatch, str], list[tuple[int, int]]]
"""First chip of each piece of a batch and the one after its last, for a sensor."""

_Result = TypeVar("_Result")


def equal_pieces(chips: int) -> Cut:
    """Pieces of so many chips, the last one of what is left."""
    return lambda batch, sensor: [(start, min(start + chips, batch.chips)) for start in range(0, batch.chips, chips)]


class Views:
    """Embeddings of one batch by sensor.

    With `cut`, the encoders run on one piece of the batch at a time without keeping what the backward pass needs, and again,
    one piece after the other, when the gradients of the embeddings are known: the loss sees all columns, memory holds one piece
    of one sensor (gradient cache: Gao et al. 2021, RepL4NLP). The gradients are those of the whole batch.

    Parameters
    ----------
    encode : what an encoder says of a batch
    cut : the pieces; None encodes the batch as a whole, once
    device : pieces are moved there; None leaves them where the batch is
    """

    def __init__(self, batch: ChipBatch, encode: Encode, cut: Cut | None = None, device: torch.device | None = None) -> None:
        self.batch, self._encode, self._cut, self._device = batch, encode, cut, device
        self._found: dict[str, Found] = {}

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors that the batch holds."""
        return self.batch.sensors

    def embedding(self, sensor: str) -> Found:
        """Shared projection and features of every column, or of every footprint for gedi."""
        if sensor not in self._found:
            encode = self._encode
            self._found[sensor] = joined(self.in_pieces(sensor, lambda piece, _: encode(piece, sensor)))
        return self._found[sensor]

    def unit(self, sensor: str) -> Embedded:
        """Unit vectors of the shared part, in float32."""
        found = self.embedding(sensor)
        return Embedded(nn.functional.normalize(found.shared.float(), dim=1), found.present)

    def of(self, batch: ChipBatch) -> Views:
        """Views of another batch, for instance one of which a part is hidden, by the same encoders."""
        return Views(batch, self._encode, self._cut, self._device)

    def by(self, encode: Encode) -> Views:
        """Views of the same batch by other encoders, in the same pieces."""
        return Views(self.batch, encode, self._cut, self._device)

    def pieces(self, sensor: str) -> list[tuple[int, int]]:
        """First chip of each piece for a sensor and the one after its last."""
        return [(0, self.batch.chips)] if self._cut is None else self._cut(self.batch, sensor)

    def in_pieces(self, sensor: str, run: Callable[..., _Result], *given: Tensor) -> list[_Result]:
        """What `run` says of each piece, the number of its first chip and `given`; with `cut` it runs again in the backward pass.

        Parameters
        ----------
        run : must give the same each time that it is called with the same piece
        given : tensors with a gradient, but for weights, that it uses
        """
        if self._cut is None:
            return [_of_piece(run, self.batch, 0, self.batch.chips, self._device, *given)]
        device = self._device or torch.device("cpu")
        work = (partial(_of_piece, run, self.batch, *piece, self._device) for piece in self.pieces(sensor))
        return [recomputed(of_piece, device, *given) for of_piece in work]


# No method of `Views`: the graph of embeddings keeps what a piece runs again with. Were the embeddings part of that, parts of the
# graph that no gradient reaches would keep themselves, and the batch, for good.
def _of_piece(
    run: Callable[..., _Result], batch: ChipBatch, start: int, stop: int, device: torch.device | None, *given: Tensor
) -> _Result:
    piece = batch if (start, stop) == (0, batch.chips) else batch.part(start, stop)
    return run(piece if device is None else piece.to(device), start, *given)


def joined(parts: list[Found]) -> Found:
    """Embeddings of consecutive chips as those of one batch."""
    first = parts[0]
    if len(parts) == 1:
        return first
    whole = FootprintEmbedding(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("shared", "features", "present"))
    )
    if isinstance(first, FootprintEmbedding):
        return whole
    return ColumnEmbedding(whole.shared, whole.features, whole.present, first.cell, first.rows, first.cols)


def nothing_seen(batch: ChipBatch, sensor: str, shared_dim: int, width: int, like: torch.Tensor) -> Found:
    """The embedding of a sensor that a batch does not hold: nothing is present."""
    sites = 0 if sensor == "gedi" else batch.columns
    vectors = like.new_zeros(sites, shared_dim), like.new_zeros(sites, width)
    present = torch.zeros(sites, dtype=torch.bool, device=like.device)
    if sensor == "gedi":
        return FootprintEmbedding(*vectors, present)
    return ColumnEmbedding(*vectors, present, batch.column, batch.size, batch.size)
