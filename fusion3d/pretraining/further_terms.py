"""Terms of the loss beside alignment and retention that an option adds; each is off by default and then costs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import Tensor

from fusion3d.errors import ConfigError
from fusion3d.pretraining.date_positives import contrast_of_dates
from fusion3d.pretraining.objective import LocationContrast
from fusion3d.pretraining.views import Views

_DATES = 1


class FurtherTerms:
    """The optional terms of a step.

    Parameters
    ----------
    date_positives : weight of the contrast of a series with itself on other dates
    """

    def __init__(self, date_positives: float = 0.0) -> None:
        for name, value in (("date_positives", date_positives),):
            if value < 0 or not math.isfinite(value):
                raise ConfigError(f"--model.{name} {value} must be 0 or more")
        self.date_positives = date_positives

    def __call__(
        self, contrast: LocationContrast, views: Views, own_weight: Mapping[str, float], key: tuple[int, ...], first: int
    ) -> Iterator[tuple[str, float, Tensor]]:
        """Name, weight and value of each term.

        Parameters
        ----------
        own_weight : by sensor that ran
        key : of the random choices; the same on every process that trains with others
        first : number of the batch's first chip among the chips of all processes
        """
        for number, name in enumerate(sorted(own_weight)):
            if self.date_positives and name not in ("als", "gedi"):
                value = contrast_of_dates(contrast, views, name, (*key, _DATES, number), first)
                if value is not None:
                    yield f"dates_{name}", self.date_positives * own_weight[name], value
