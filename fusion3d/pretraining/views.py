"""What each sensor's encoder says of a batch, computed when it is first asked for and in pieces that fit the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusion3d.data.observation import ChipBatch
from fusion3d.encoders.output import ColumnEmbedding, FootprintEmbedding
from fusion3d.pretraining.objective import Embedded

Found = ColumnEmbedding | FootprintEmbedding
Encode = Callable[[ChipBatch, str], Found]


class Views:
    """Embeddings of one batch by sensor.

    With `chips_at_once`, the encoders run on that many chips at a time without keeping what the backward pass needs, and again,
    one piece after the other, when the gradients of the embeddings are known: the loss sees all columns, memory holds one piece
    (gradient cache: Gao et al. 2021, RepL4NLP; activation checkpoints: Chen et al. 2016, arXiv 1604.06174). The gradients are
    those of the whole batch.

    Parameters
    ----------
    encode : what an encoder says of a batch
    chips_at_once : chips of a piece; None encodes the batch as a whole
    """

    def __init__(self, batch: ChipBatch, encode: Encode, chips_at_once: int | None = None) -> None:
        self.batch, self._encode, self._chips_at_once = batch, encode, chips_at_once
        self._found: dict[str, Found] = {}

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors that the batch holds."""
        return self.batch.sensors

    def embedding(self, sensor: str) -> Found:
        """Shared projection and features of every column, or of every footprint for gedi."""
        if sensor not in self._found:
            self._found[sensor] = self._encode_in_pieces(sensor)
        return self._found[sensor]

    def unit(self, sensor: str) -> Embedded:
        """Unit vectors of the shared part, in float32."""
        found = self.embedding(sensor)
        return Embedded(nn.functional.normalize(found.shared.float(), dim=1), found.present)

    def of(self, batch: ChipBatch) -> Views:
        """Views of another batch, for instance one of which a part is hidden, with the same encoders and pieces."""
        return Views(batch, self._encode, self._chips_at_once)

    def _encode_in_pieces(self, sensor: str) -> Found:
        step = self._chips_at_once or self.batch.chips
        if self.batch.chips <= step:
            return self._encode(self.batch, sensor)
        pieces = [self.batch.part(start, min(start + step, self.batch.chips)) for start in range(0, self.batch.chips, step)]
        return joined([self._piece(piece, sensor) for piece in pieces])

    def _piece(self, piece: ChipBatch, sensor: str) -> Found:
        if not torch.is_grad_enabled():
            return self._encode(piece, sensor)
        about: list[Found] = []

        def run() -> tuple[Tensor, Tensor]:
            found = self._encode(piece, sensor)
            about[:] = [found]
            return found.shared, found.features

        shared, features = checkpoint(run, use_reentrant=False)
        return with_vectors(about[0], shared, features)


def with_vectors(found: Found, shared: Tensor, features: Tensor) -> Found:
    """The same sites with other vectors."""
    if isinstance(found, FootprintEmbedding):
        return FootprintEmbedding(shared, features, found.present)
    return ColumnEmbedding(shared, features, found.present, found.cell, found.rows, found.cols)


def joined(parts: list[Found]) -> Found:
    """Embeddings of consecutive chips as those of one batch."""
    whole = FootprintEmbedding(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("shared", "features", "present"))
    )
    first = parts[0]
    if isinstance(first, FootprintEmbedding):
        return whole
    return ColumnEmbedding(whole.shared, whole.features, whole.present, first.cell, first.rows, first.cols)
