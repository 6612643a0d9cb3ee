"""OmniSat's contrast of all sensors at once (Astruc et al. 2024, ECCV), a MIL-NCE (Miech et al. 2020, CVPR) over sensors.

A token is what one sensor says of one column. Its positives are the other sensors' tokens of the same column; it is compared with
every token of the batch but those of its own sensor in its own tile (chip)::

    L_mi = -log [ sum over n other than m of exp(z_mi.z_ni / t) / sum over (n, j) in K_mi of exp(z_mi.z_nj / t) ]
    K_mi = all (n, j) with n other than m, or j in another tile than i

The published loss is the mean over tokens. Here it is the sum over sensors of the mean over a sensor's tokens: the same but for
the factor M where all M sensors saw every column, and a sensor that saw little (GEDI) counts as much as the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fusion3d.data.pairs import DrawnPair, stream
from fusion3d.pretraining.alignment import Aligned, Alignment, register
from fusion3d.pretraining.baselines.places import Places, common_places
from fusion3d.pretraining.objective import LocationContrast
from fusion3d.pretraining.views import Views

_ROWS = 1024
"""Queries compared with all tokens at a time: memory grows with the number of tokens, not with its square."""


@register
class MilNce(Alignment):
    """Contrast of the tokens of all sensors at once."""

    name = "mil_nce"
    every_sensor = True

    def forward(self, views: Views, drawn: Sequence[DrawnPair], key: tuple[int, ...]) -> Aligned:
        by_sensor = mil_nce(views, self.contrast, stream(*key, 0))
        loss = 0.0 * self.contrast.log_temperature.sum() + sum(by_sensor.values())
        parts = {f"mil_nce_{name}": value.detach() for name, value in by_sensor.items()}
        return Aligned(loss, parts, dict.fromkeys(views.sensors, 1.0))


def mil_nce(views: Views, contrast: LocationContrast, generator: torch.Generator) -> dict[str, Tensor]:
    """Mean loss of each sensor's tokens, of the sensors that have one with a positive."""
    embedded = {name: views.unit(name) for name in views.sensors}
    rows: dict[str, list[Tensor]] = {}
    for places in common_places(views.batch, embedded, contrast, generator):
        tokens = Tokens.of(places)
        values, query = token_losses(tokens, contrast.temperature)
        for number, name in enumerate(places.sensors):
            rows.setdefault(name, []).append(values[tokens.sensor[query] == number])
    joined = {name: torch.cat(found) for name, found in rows.items()}
    return {name: found.mean() for name, found in joined.items() if len(found)}


@dataclass(frozen=True)
class Tokens:
    """What a sensor (its number) says of a place; `position` in metres, `radius` of places that are no negatives."""

    vectors: Float[Tensor, "tokens dimensions"]
    sensor: Int64[Tensor, " tokens"]
    place: Int64[Tensor, " tokens"]
    tile: Int64[Tensor, " tokens"]
    position: Float[Tensor, "tokens 2"]
    radius: float

    @classmethod
    def of(cls, places: Places) -> Tokens:
        """Of every sensor and every place that it saw."""
        sensor, place = places.present.nonzero(as_tuple=True)
        return cls(places.vectors[sensor, place], sensor, place, places.tile[place], places.position[place], places.radius)


def token_losses(
    tokens: Tokens, temperature: Float[Tensor, ""], rows: int = _ROWS
) -> tuple[Float[Tensor, " queries"], Int64[Tensor, " queries"]]:
    """Loss of every token that has a positive, and which tokens those are.

    Parameters
    ----------
    rows : queries at a time; changes memory, not the result
    """
    if not len(tokens.place):
        return tokens.vectors.sum(dim=1), tokens.place
    query = (torch.bincount(tokens.place)[tokens.place] > 1).nonzero()[:, 0]

    def part(vectors: Tensor, keys: Tensor, temperature: Tensor, some: Tensor) -> Tensor:
        with torch.autocast(keys.device.type, enabled=False):  # half-precision similarities at a low temperature are noise
            similarity = vectors @ keys.T / temperature
            same_place = tokens.place[some, None] == tokens.place
            same_sensor = tokens.sensor[some, None] == tokens.sensor
            positive = same_place & ~same_sensor
            left_out = same_sensor & (tokens.tile[some, None] == tokens.tile)
            if tokens.radius > 0:
                distance = torch.cdist(tokens.position[some], tokens.position, compute_mode="donot_use_mm_for_euclid_dist")
                left_out |= (distance < tokens.radius) & ~positive
            right = similarity.masked_fill(~positive, -torch.inf).logsumexp(dim=1)
            return similarity.masked_fill(left_out, -torch.inf).logsumexp(dim=1) - right

    parts = []
    for some in query.split(rows):
        arguments = (tokens.vectors[some], tokens.vectors, temperature, some)
        if torch.is_grad_enabled() and len(query) > rows:
            parts.append(checkpoint(part, *arguments, use_reentrant=False))
        else:
            parts.append(part(*arguments))
    return torch.cat(parts) if parts else tokens.vectors[:0].sum(dim=1), query
