"""Shared and private parts, split: the private part holds what the shared one does not say.

The features f of an encoder carry everything. Two linear maps read them: the shared projection s [D], which sensors are compared
by, and here a private one p [P]. With the option, retention decodes (s, p) and not f, so that what is kept of a sensor is kept in
one of the two, and p is decorrelated from s:

    L_m = 1/P sum over i in 1..D, j in 1..P of C_ij^2
    C_ij = sum over k of (s_ki - mean s_i) (p_kj - mean p_j) / (n sd(s_i) sd(p_j))

over the n columns (footprints) k that sensor m saw, of all processes. It is 0 exactly when no private dimension is linearly
related to a shared one, and does not depend on their scales: neither part can evade it by shrinking.

Split and reconstruction from both parts: Bousmalis et al. 2016 (NeurIPS, domain separation networks), whose difference loss is
|S^T P|_F^2; its entries as correlations: Zbontar et al. 2021 (ICML, Barlow Twins); cf. the covariance term of Bardes et al. 2022
(ICLR, VICReg). Linear independence is all that is asked for: p may still be a function of s that is not linear.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion3d.encoders.registry import Encoder
from fusion3d.errors import ConfigError
from fusion3d.pretraining.distributed import sum_over_ranks, total_over_ranks
from fusion3d.pretraining.views import Found

LEAST_SITES = 32
"""Correlations of fewer are noise: 1/n of the square of each is chance."""

_LEAST_VARIANCE = 1e-8


def check_private(dimensions: int, retention: float) -> None:
    """`ConfigError` unless a private part can be that long, and has something to learn from."""
    if dimensions < 0:
        raise ConfigError(f"--model.private {dimensions} must be 0 or more")
    if dimensions and not retention:
        raise ConfigError(f"--model.private {dimensions} learns from reconstruction alone; keep --model.retention above 0")


def decoded_width(encoder: Encoder, dimensions: int) -> int:
    """Length of what retention decodes: shared and private part, or all features when there is no private part."""
    return encoder.shared_dim + dimensions if dimensions else encoder.width


class PrivateParts(nn.Module):
    """Private projections by sensor.

    Parameters
    ----------
    encoders : by sensor
    dimensions : P

    Raises
    ------
    ConfigError
        The features of an encoder have no room for that many beside the shared ones.
    """

    def __init__(self, encoders: Mapping[str, Encoder], dimensions: int) -> None:
        super().__init__()
        for name, encoder in encoders.items():
            room = encoder.width - encoder.shared_dim
            if dimensions > room:
                raise ConfigError(
                    f"--model.private {dimensions} does not fit the features of {name}: {encoder.width} dimensions, "
                    f"{encoder.shared_dim} of them shared; take {max(0, room)} at most, or another --model.encoder_options"
                )
        self.dimensions = dimensions
        # no bias: neither a correlation nor a decoder with a bias of its own sees one
        self.projections = nn.ModuleDict({name: nn.Linear(item.width, dimensions, bias=False) for name, item in encoders.items()})

    def both(self, sensor: str, found: Found) -> Float[Tensor, "sites both"]:
        """Shared and private part of a sensor's embeddings, side by side."""
        return torch.cat([found.shared, self.projections[sensor](found.features)], dim=1)

    def dependence(self, sensor: str, found: Found) -> Float[Tensor, ""] | None:
        """L_m; None when all processes together saw fewer than `LEAST_SITES` sites."""
        shared_dim = found.shared.shape[1]
        parts = self.both(sensor, found)
        return cross_correlation(parts[:, :shared_dim], parts[:, shared_dim:], found.present)


def cross_correlation(
    shared: Float[Tensor, "sites shared_dim"], private: Float[Tensor, "sites dimensions"], present: Bool[Tensor, " sites"]
) -> Float[Tensor, ""] | None:
    """Sum of the squared correlations of shared and private dimensions over the present sites of all processes, by private one.

    Sums of products are exchanged and not sites; value and gradient are those of one process with all sites.
    """
    dtype = torch.promote_types(shared.dtype, torch.float32)
    weight = present.to(dtype).unsqueeze(1)
    both = torch.cat([shared, private], dim=1).to(dtype) * weight
    count, *sums = total_over_ranks(torch.cat([weight.sum(dim=0), both.sum(dim=0)]).double())
    if count < LEAST_SITES:
        return None
    # The gradient through the means is zero: deviations from a mean sum to zero.
    mean = (torch.stack(sums) / count).to(dtype)
    first, second = ((both - mean) * weight).split([shared.shape[1], private.shape[1]], dim=1)
    with torch.autocast(shared.device.type, enabled=False):
        products = torch.cat([(first.T @ second).flatten(), first.square().sum(dim=0), second.square().sum(dim=0)])
    moments = sum_over_ranks(products) / count.to(dtype)
    sizes = [shared.shape[1] * private.shape[1], shared.shape[1], private.shape[1]]
    covariance, of_first, of_second = moments.split(sizes)
    scale = of_first.clamp(min=_LEAST_VARIANCE)[:, None] * of_second.clamp(min=_LEAST_VARIANCE)
    return (covariance.unflatten(0, scale.shape).square() / scale).sum() / private.shape[1]
