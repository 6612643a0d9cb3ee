"""Other dates as positives: what a sensor says of a column on some dates is contrasted with what it says on others.

The dates of each chip that a series saw are drawn into two halves T and T', the encoder reads each by itself, and

    L_m = contrast(z_m(x_m on T), z_m(x_m on T'))

is the location contrast of a pair, with its exclusion, temperature and masks: a column that one of the halves did not see (cloud)
has no positive. Places rather than moments are then told apart, as in SeCo (Manas et al. 2021, ICCV, arXiv 2103.16607).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fusion3d.data.observation import RasterObservation
from fusion3d.data.pairs import stream
from fusion3d.pretraining.objective import LocationContrast
from fusion3d.pretraining.views import Views

_HALVES = ("some dates", "other dates")


def contrast_of_dates(
    contrast: LocationContrast, views: Views, sensor: str, key: tuple[int, ...], first: int = 0
) -> Tensor | None:
    """The loss of a sensor; None when fewer than two columns, of all processes, were seen in both halves of its dates.

    Parameters
    ----------
    views : of the batch; the encoder of the sensor runs once more for each half
    key : of the random choices; the same on every process that trains with others
    first : number of the batch's first chip among the chips of all processes
    """
    batch = views.batch
    generators = [stream(*key, 1, first + chip) for chip in range(batch.chips)]
    halves = (None, None) if sensor not in batch.rasters else date_halves(batch.rasters[sensor], generators)
    parts = [replace(batch, als=None, gedi=None, rasters={} if half is None else {sensor: half}) for half in halves]
    embedded = {name: views.of(part).unit(sensor) for name, part in zip(_HALVES, parts, strict=True)}
    value, _ = contrast(batch, _HALVES, embedded, stream(*key, 2))
    return value


def date_halves(
    raster: RasterObservation, generators: Sequence[torch.Generator]
) -> tuple[RasterObservation, RasterObservation] | tuple[None, None]:
    """The raster on two disjoint halves of each chip's dates; on none in a chip of fewer than two, None when all chips are so.

    Parameters
    ----------
    generators : of each chip, on the CPU: neither padding nor other chips change how its dates are shared out
    """
    there = raster.date_present.cpu()
    taken = torch.zeros(2, *there.shape, dtype=torch.bool)
    for chip, generator in enumerate(generators):
        dates = there[chip].nonzero()[:, 0]
        order = dates[torch.randperm(len(dates), generator=generator)]
        if len(order) > 1:
            taken[0, chip, order[: len(order) // 2]] = True
            taken[1, chip, order[len(order) // 2 :]] = True
    if not taken.any():
        return None, None
    some, others = (replace(raster, date_present=half.to(raster.date_present.device)) for half in taken)
    return some, others
