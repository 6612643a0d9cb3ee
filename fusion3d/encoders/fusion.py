"""Fusion of the embeddings of any subset of sensors: the mean of their unit vectors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from fusion3d.errors import ConfigError


def fuse(
    parts: Mapping[str, tuple[Float[Tensor, "cells shared_dim"], Bool[Tensor, " cells"]]],
) -> tuple[Float[Tensor, "cells shared_dim"], Bool[Tensor, " cells"]]:
    """One embedding of each cell from whichever sensors saw it, independent of their order and of sensors that did not.

    Parameters
    ----------
    parts : by sensor, shared projections (normalised here) and presence

    Returns
    -------
    unit vectors, 0 where no sensor saw the cell; and true where one did

    Raises
    ------
    ConfigError
        There is no sensor.
    """
    if not parts:
        raise ConfigError("there is nothing to fuse: name at least one sensor")
    # A fixed order of summation, so that the order of the sensors changes nothing at all.
    names = sorted(parts)
    present = torch.stack([parts[name][1] for name in names])
    units = torch.stack([functional.normalize(parts[name][0], dim=1) for name in names])
    fused = functional.normalize(torch.where(present[..., None], units, 0.0).sum(dim=0), dim=1)
    observed = present.any(dim=0)
    return torch.where(observed[:, None], fused, 0.0), observed
