"""Chip-level contrast: what two sensors say of a whole chip, against other chips.

A sensor's word on a chip is the mean of the unit vectors of the columns (footprints) that it saw there, at unit length:

    c_km = norm(sum over columns i of chip k that m saw of z_mi)
    L_ab = contrast(c_a, c_b) over the chips k that both saw

as images are contrasted across sensors in CROMA (Fuller et al. 2023, NeurIPS). Chips whose centres are nearer than a chip's side
overlap: they are no negatives, nor are those within the exclusion radius.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from fusion3d.data.observation import ChipBatch
from fusion3d.data.pairs import Pair
from fusion3d.ops import contrast as info_nce
from fusion3d.pretraining.objective import Embedded, LocationContrast, Sites


def contrast_of_chips(
    contrast: LocationContrast, batch: ChipBatch, pair: Pair, embedded: Mapping[str, Embedded], generator: torch.Generator
) -> Tensor | None:
    """The loss of a pair over the chips of all processes; None when both saw fewer than two of them.

    Parameters
    ----------
    contrast : its temperature, exclusion radius, and most sites at once
    generator : of the chips, where there are more than those; in the same state on every process
    """
    (first, one), (second, other) = (mean_of_chips(batch, name, embedded[name]) for name in pair)
    keep = one & other
    side = batch.size * batch.column
    centre = (batch.origin.to(first.device).flip(1).double() + batch.size / 2) * batch.column
    own = Sites(first[keep], second[keep], centre[keep], batch.scene.to(first.device)[keep])
    chips = own.gathered(contrast.max_columns, generator)
    if len(chips.first) < 2:
        return None
    position = (chips.position - chips.position.amin(dim=0)).float()
    vectors = chips.first.float(), chips.second.float()
    return info_nce(*vectors, contrast.temperature, position, chips.scene, max(contrast.exclusion, side))


def mean_of_chips(
    batch: ChipBatch, sensor: str, found: Embedded
) -> tuple[Float[Tensor, "chips dimensions"], Bool[Tensor, " chips"]]:
    """Mean of the unit vectors of each chip at unit length, and which chips the sensor saw."""
    device = found.vectors.device
    if sensor == "gedi":
        chip = found.vectors.new_zeros(0, dtype=torch.int64) if batch.gedi is None else batch.gedi.chip.to(device)
    else:
        chip = torch.arange(batch.chips, device=device).repeat_interleave(batch.size**2)
    there = found.present
    total = found.vectors.new_zeros(batch.chips, found.vectors.shape[1]).index_add(0, chip[there], found.vectors[there])
    seen = torch.zeros(batch.chips, dtype=torch.bool, device=device).index_fill(0, chip[there], True)
    return normalize(total, dim=1), seen
