"""Star: every sensor is contrasted with one, the centre (ImageBind: Girdhar et al. 2023, CVPR).

L = sum over m other than c of L_mc
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fusion3d.data.pairs import DrawnPair, stream
from fusion3d.errors import ConfigError
from fusion3d.pretraining.alignment import Aligned, Alignment, register
from fusion3d.pretraining.objective import LocationContrast
from fusion3d.pretraining.views import Views


@register
class StarContrast(Alignment):
    """Location contrast of the pairs that hold the centre; what the centre did not see is not aligned.

    Parameters
    ----------
    centre : name of a sensor
    """

    name = "star"
    every_sensor = True

    def __init__(self, contrast: LocationContrast, centre: str = "s2") -> None:
        super().__init__(contrast)
        self.centre = centre

    def begin(self, encoders: nn.ModuleDict) -> None:
        if self.centre not in encoders:
            raise ConfigError(
                f"--model.alignment_options.centre {self.centre} is not a sensor of the data; choose from {', '.join(encoders)}"
            )

    def forward(self, views: Views, drawn: Sequence[DrawnPair], key: tuple[int, ...]) -> Aligned:
        loss = 0.0 * self.contrast.log_temperature.sum()
        parts: dict[str, Tensor] = {}
        for number, item in enumerate(drawn):
            if self.centre not in item.pair:
                continue
            embedded = {name: views.unit(name) for name in item.pair}
            value, _ = self.contrast(views.batch, item.pair, embedded, stream(*key, number))
            if value is not None:
                loss = loss + value
                parts[f"contrast_{item.pair[0]}-{item.pair[1]}"] = value.detach()
        return Aligned(loss, parts, dict.fromkeys(views.sensors, 1.0))
