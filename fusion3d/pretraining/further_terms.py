"""Terms of the loss beside alignment and retention that an option adds; each is off by default and then costs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from fusion3d.data.pairs import DrawnPair, stream
from fusion3d.errors import ConfigError
from fusion3d.pretraining.chip_contrast import contrast_of_chips
from fusion3d.pretraining.date_positives import contrast_of_dates
from fusion3d.pretraining.objective import LocationContrast
from fusion3d.pretraining.private import PrivateParts
from fusion3d.pretraining.views import Views

_DATES, _CHIPS = 1, 2


class FurtherTerms:
    """The optional terms of a step.

    Parameters
    ----------
    date_positives : weight of the contrast of a series with itself on other dates
    chip_contrast : weight of the contrast of chips as a whole, of each drawn pair of sensors
    private_weight : of the correlation of private parts with shared ones, where there are private parts
    """

    def __init__(self, date_positives: float = 0.0, chip_contrast: float = 0.0, private_weight: float = 0.2) -> None:
        weights = {"date_positives": date_positives, "chip_contrast": chip_contrast, "private_weight": private_weight}
        for name, value in weights.items():
            if value < 0 or not math.isfinite(value):
                raise ConfigError(f"--model.{name} {value} must be 0 or more")
        self.date_positives, self.chip_contrast, self.private_weight = date_positives, chip_contrast, private_weight

    def __call__(
        self,
        contrast: LocationContrast,
        views: Views,
        drawn: Sequence[DrawnPair],
        own_weight: Mapping[str, float],
        key: tuple[int, ...],
        first: int,
        private: PrivateParts | None = None,
    ) -> Iterator[tuple[str, float, Tensor]]:
        """Name, weight and value of each term.

        Parameters
        ----------
        drawn : pairs of this step
        own_weight : by sensor that ran
        key : of the random choices; the same on every process that trains with others
        first : number of the batch's first chip among the chips of all processes
        private : private parts of the embeddings; None: they are not split
        """
        for number, name in enumerate(sorted(own_weight)):
            if self.date_positives and name not in ("als", "gedi"):
                value = contrast_of_dates(contrast, views, name, (*key, _DATES, number), first)
                if value is not None:
                    yield f"dates_{name}", self.date_positives * own_weight[name], value
        for number, item in enumerate(drawn if self.chip_contrast else ()):
            embedded = {name: views.unit(name) for name in item.pair}
            value = contrast_of_chips(contrast, views.batch, item.pair, embedded, stream(*key, _CHIPS, number))
            if value is not None:
                yield f"chips_{item.pair[0]}-{item.pair[1]}", self.chip_contrast * item.weight, value
        for name in sorted(own_weight) if private is not None and self.private_weight else ():
            assert private is not None
            value = private.dependence(name, views.embedding(name))
            if value is not None:
                yield f"private_{name}", self.private_weight * own_weight[name], value
