"""Fusion of what any subset of sensors says of a cell into one embedding.

With unit vectors z_m of the sensors that saw the cell, three ways, each with all sensors' vectors in one space:

- mean: norm(sum_m z_m);
- precision: norm(sum_m z_m / s_m^2), the inverse-variance weighting of independent measurements. log s_m^2 is a number of the
  sensor plus a linear function of its features of the cell, so that a sensor says itself where it is to be trusted;
- attention: self-attention over the sensors' tokens and pooling by a learned query (Lee et al. 2019, Set Transformer, ICML).
  It gives fused features that keep what only one sensor knows, and moves the precision-weighted mean.

A sensor that saw nothing of a cell is masked: it is no zero that means something.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from fusion3d.encoders.output import ColumnEmbedding, FootprintEmbedding
from fusion3d.encoders.registry import kind_of
from fusion3d.errors import ConfigError

FUSIONS = ("mean", "precision", "attention")
_LARGEST_LOG_VARIANCE = 5.0
_NOTHING = "there is nothing to fuse: name at least one sensor"

Parts = Mapping[str, ColumnEmbedding | FootprintEmbedding]
"""What each sensor says of the same sites."""


def fuse(
    parts: Mapping[str, tuple[Float[Tensor, "cells shared_dim"], Bool[Tensor, " cells"]]],
) -> tuple[Float[Tensor, "cells shared_dim"], Bool[Tensor, " cells"]]:
    """The mean of whichever sensors saw a cell, independent of their order and of sensors that did not.

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
        raise ConfigError(_NOTHING)
    # A fixed order of summation, so that the order of the sensors changes nothing at all.
    names = sorted(parts)
    present = torch.stack([parts[name][1] for name in names])
    units = torch.stack([functional.normalize(parts[name][0], dim=1) for name in names])
    fused = functional.normalize(torch.where(present[..., None], units, 0.0).sum(dim=0), dim=1)
    observed = present.any(dim=0)
    return torch.where(observed[:, None], fused, 0.0), observed


@dataclass(frozen=True)
class Fused:
    """One embedding of each site.

    Attributes
    ----------
    shared : unit vectors; 0 where not `observed`
    features : shared and private knowledge of all the sensors, 0 where not `observed`; only attention has them
    observed : a sensor saw the site
    """

    shared: Float[Tensor, "sites shared_dim"]
    features: Float[Tensor, "sites width"]
    observed: Bool[Tensor, " sites"]


@dataclass(frozen=True)
class _Tokens:
    """Sensors in alphabetic order: unit vectors, features and whether the sensor is known by its name, 0 where not `present`."""

    names: tuple[str, ...]
    units: Float[Tensor, "sensors sites shared_dim"]
    features: tuple[Float[Tensor, "sites width"], ...]
    named: Float[Tensor, "sensors sites"]
    present: Bool[Tensor, "sensors sites"]

    @property
    def observed(self) -> Tensor:
        return self.present.any(dim=0)


class ColumnFusion(nn.Module):
    """Trained fusion of any subset of sensors.

    What it learns of a sensor has a part for its kind (als, gedi, raster) and one for its name with its features. A sensor of
    another name is read by its shared vector and its kind.

    Parameters
    ----------
    widths : by sensor, length of its encoder's features
    shared_dim : D
    width : W, length of the fused features
    heads : of the attention over sensors
    """

    def __init__(self, widths: Mapping[str, int], shared_dim: int, width: int, heads: int = 4) -> None:
        super().__init__()
        if not widths:
            raise ConfigError(_NOTHING)
        if width % heads:
            raise ConfigError(f"fused features of length {width} cannot be shared out between {heads} heads; take a multiple")
        self.widths, self.shared_dim, self.width, self.heads = dict(widths), shared_dim, width, heads
        kinds = sorted({kind_of(name) for name in widths})
        self.kind_log_variance = nn.ParameterDict({kind: nn.Parameter(torch.zeros(1)) for kind in kinds})
        self.log_variance = nn.ModuleDict({name: nn.Linear(size, 1) for name, size in widths.items()})
        for layer in self.log_variance.values():
            nn.init.zeros_(layer.weight)  # all sensors alike: the precision-weighted mean begins as the mean
            nn.init.zeros_(layer.bias)
        self.kind_token = nn.ParameterDict({kind: nn.Parameter(0.1 * torch.randn(width)) for kind in kinds})
        self.read = nn.ModuleDict({name: nn.Linear(size, width) for name, size in widths.items()})
        self.read_shared = nn.Linear(shared_dim, width, bias=False)
        nn.init.normal_(self.read_shared.weight, std=1.0)  # of unit vectors
        self.enter = nn.LayerNorm(width)
        # without the keys' bias: a softmax does not see it
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.mix = nn.Linear(width, width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.pool_norm = nn.LayerNorm(width)
        self.score, self.pool_value = nn.Linear(width, heads, bias=False), nn.Linear(width, width)
        self.leave = nn.LayerNorm(width)
        self.move = nn.Linear(width, shared_dim, bias=False)
        nn.init.normal_(self.move.weight, std=0.1 / math.sqrt(width * shared_dim))

    # -- the three ways

    def mean(self, parts: Parts) -> Fused:
        """The mean of unit vectors, as `fuse`."""
        shared, observed = fuse({name: (part.shared, part.present) for name, part in parts.items()})
        return Fused(shared, shared.new_zeros(len(shared), 0), observed)

    def precision(self, parts: Parts) -> Fused:
        """The precision-weighted mean of unit vectors."""
        tokens = self._tokens(parts, None)
        shared = _weighted(tokens, self._log_variances(tokens))
        return Fused(shared, shared.new_zeros(len(shared), 0), tokens.observed)

    def attention(self, parts: Parts, nameless: Mapping[str, Bool[Tensor, " sites"]] | None = None) -> Fused:
        """Fused features by set attention, and the precision-weighted mean that they move.

        Parameters
        ----------
        nameless : by sensor, sites at which it is read as one of another name; for training
        """
        tokens = self._tokens(parts, nameless)
        seen = tokens.present.T.unsqueeze(-1)
        x = self._read(tokens).transpose(0, 1)
        entered = self.enter(x)
        query, key, value = (layer(entered).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        scores = torch.einsum("nqhc,nkhc->nqkh", query, key) / math.sqrt(self.width // self.heads)
        x = x + self.mix(torch.einsum("nqkh,nkhc->nqhc", _shares(scores, seen.unsqueeze(1), 2), value).flatten(-2))
        x = x + self.think(x)
        pooled = self.pool_norm(x)
        value = self.pool_value(pooled).unflatten(-1, (self.heads, -1))
        features = torch.einsum("nmh,nmhc->nhc", _shares(self.score(pooled), seen, 1), value).flatten(-2)
        observed = tokens.observed.unsqueeze(1)
        features = torch.where(observed, self.leave(features), 0.0).to(tokens.units.dtype)
        # The variances are a statement about the sensors: how the mean is moved must not bend them.
        mean = _weighted(tokens, self._log_variances(tokens).detach())
        shared = functional.normalize(mean + self.move(features).to(mean.dtype), dim=1)
        return Fused(torch.where(observed, shared, 0.0), features, tokens.observed)

    def fuse(self, parts: Parts, way: str) -> Fused:
        """One of `FUSIONS` by name.

        Raises
        ------
        ConfigError
            There is no such way, no sensor, or features of another length than in training.
        """
        check_fusion(way)
        return {"mean": self.mean, "precision": self.precision, "attention": self.attention}[way](parts)

    def log_variances(
        self, parts: Parts, nameless: Mapping[str, Bool[Tensor, " sites"]] | None = None
    ) -> dict[str, Float[Tensor, " sites"]]:
        """log s_m^2 of each sensor, the squared distance that its unit vector is expected to be off; 0 where absent."""
        tokens = self._tokens(parts, nameless)
        return dict(zip(tokens.names, self._log_variances(tokens), strict=True))

    # -- tokens

    def _tokens(self, parts: Parts, nameless: Mapping[str, Tensor] | None) -> _Tokens:
        if not parts:
            raise ConfigError(_NOTHING)
        # A fixed order of summation, so that the order of the sensors changes nothing at all.
        names = tuple(sorted(parts))
        dtype = self.read_shared.weight.dtype
        units, features, named = [], [], []
        for name in names:
            part, known = parts[name], self.widths.get(name)
            seen = part.present.unsqueeze(1)
            if known is not None and part.features.shape[1] != known:
                raise ConfigError(f"{name}: features of length {part.features.shape[1]}, but the fusion was made for {known}")
            units.append(functional.normalize(torch.where(seen, part.shared, 0.0).to(dtype), dim=1))
            features.append(torch.where(seen, part.features, 0.0).to(dtype))
            by_name = part.present if known is not None else torch.zeros_like(part.present)
            named.append(by_name & ~nameless[name] if nameless and name in nameless else by_name)
        present = torch.stack([parts[name].present for name in names])
        return _Tokens(names, torch.stack(units), tuple(features), torch.stack(named).to(dtype), present)

    def _log_variances(self, tokens: _Tokens) -> Float[Tensor, "sensors sites"]:
        found = []
        for at, name in enumerate(tokens.names):
            kind = kind_of(name)
            value = self.kind_log_variance[kind] if kind in self.kind_log_variance else tokens.named.new_zeros(())
            if name in self.log_variance:
                value = value + tokens.named[at] * self.log_variance[name](tokens.features[at]).squeeze(1)
            found.append(_LARGEST_LOG_VARIANCE * torch.tanh(value / _LARGEST_LOG_VARIANCE) * tokens.present[at])
        return torch.stack(found)

    def _read(self, tokens: _Tokens) -> Float[Tensor, "sensors sites width"]:
        found = []
        for at, name in enumerate(tokens.names):
            kind = kind_of(name)
            token = self.read_shared(tokens.units[at])
            if kind in self.kind_token:
                token = token + self.kind_token[kind]
            if name in self.read:
                token = token + tokens.named[at].unsqueeze(1) * self.read[name](tokens.features[at])
            found.append(token)
        return torch.stack(found)


def check_fusion(way: str) -> str:
    """The name of a way to fuse; ConfigError where there is none."""
    if way not in FUSIONS:
        raise ConfigError(f"--fusion {way} is not known; choose from {', '.join(FUSIONS)}")
    return way


def _weighted(tokens: _Tokens, log_variances: Tensor) -> Float[Tensor, "sites shared_dim"]:
    """Precision-weighted mean direction; with equal variances bit for bit the mean."""
    lowest = torch.where(tokens.present, log_variances, torch.inf).amin(dim=0)
    weights = torch.where(tokens.present, torch.exp(torch.where(tokens.observed, lowest, 0.0) - log_variances), 0.0)
    return functional.normalize((weights.unsqueeze(-1) * tokens.units).sum(dim=0), dim=1)


def _shares(scores: Tensor, seen: Tensor, dim: int) -> Tensor:
    """Softmax over the seen; 0 where there is none."""
    # the lowest number, not -inf: a site that no sensor saw would become NaN, also in the gradient
    return scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(dim=dim) * seen
