"""No alignment: each sensor reconstructs what was hidden of itself, and nothing makes sensors agree."""

from __future__ import annotations

from collections.abc import Sequence

from fusion3d.data.pairs import DrawnPair
from fusion3d.pretraining.alignment import Aligned, Alignment, register
from fusion3d.pretraining.views import Views


@register
class Unaligned(Alignment):
    """Reconstruction only."""

    name = "none"
    every_sensor = True

    def forward(self, views: Views, drawn: Sequence[DrawnPair], key: tuple[int, ...]) -> Aligned:
        return Aligned(0.0 * self.contrast.log_temperature.sum(), {}, dict.fromkeys(views.sensors, 1.0))
