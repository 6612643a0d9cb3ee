"""Leave-one-out consensus: each sensor against the mean of the others that saw the same place.

    L = sum over m of contrast(z_m, c_m),    c_mi = norm(sum over n other than m of z_ni)

Every sensor is compared with a centre that all make together, so that cost grows with the number of sensors and not of pairs;
after the centroid anchors of Jeong et al. 2024 (arXiv 2410.02086), with the sensor itself left out of its own centre.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from fusion3d.data.pairs import DrawnPair, stream
from fusion3d.ops.contrast import contrast_rows
from fusion3d.pretraining.alignment import Aligned, Alignment, register
from fusion3d.pretraining.baselines.places import Places, common_places
from fusion3d.pretraining.views import Views


@register
class Consensus(Alignment):
    """Contrast of each sensor with the mean of the others."""

    name = "consensus"
    every_sensor = True

    def forward(self, views: Views, drawn: Sequence[DrawnPair], key: tuple[int, ...]) -> Aligned:
        embedded = {name: views.unit(name) for name in views.sensors}
        rows: dict[str, list[Tensor]] = {}
        for places in common_places(views.batch, embedded, self.contrast, stream(*key, 0)):
            for name, values in consensus_losses(places, self.contrast.temperature).items():
                rows.setdefault(name, []).append(values)
        loss = 0.0 * self.contrast.log_temperature.sum()
        parts: dict[str, Tensor] = {}
        for name, found in rows.items():
            value = torch.cat(found).mean()
            loss = loss + value
            parts[f"consensus_{name}"] = value.detach()
        return Aligned(loss, parts, dict.fromkeys(views.sensors, 1.0))


def consensus_losses(places: Places, temperature: Float[Tensor, ""]) -> dict[str, Float[Tensor, " places"]]:
    """By sensor, the two-way contrast of each place that it and another saw; without sensors that share fewer than two."""
    total = places.vectors.sum(dim=0)
    found = {}
    for number, name in enumerate(places.sensors):
        keep = (places.present[number] & (places.present.sum(dim=0) > 1)).nonzero()[:, 0]
        if len(keep) < 2:
            continue
        own = places.vectors[number, keep]
        others = normalize(total[keep] - own, dim=1)
        one_scene = torch.zeros_like(keep)
        found[name] = contrast_rows(own, others, temperature, places.position[keep], one_scene, places.radius)
    return found
