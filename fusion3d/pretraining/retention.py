"""Retention: each sensor says what was hidden of its own signal, so that contrast does not erode what only it sees.

    L_m = Huber(R_m g_m(f_m(shown x_m)), R_m x_m) on what was hidden

g_m is a small decoder on the whole embedding (shared and private part). R_m is the identity or a frozen random projection of
bins or bands (no teacher network, and rarely a bin or band that dominates).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fusion3d.data.observation import Band, RasterObservation
from fusion3d.pretraining.hiding import PROFILE_BINS, Hidden, HiddenPixels, HiddenProfile

RetentionTarget = Literal["identity", "projection"]

_PROJECTED = 32
_POLARISATIONS = ("VV", "VH", "HH", "HV")
_FREQUENCIES = 8
_WAVELENGTHS = (300.0, 14_000.0)
_YEAR = 365.2425


class ProfileDecoder(nn.Module):
    """Vertical profile (square roots of shares by height bin) from an embedding."""

    def __init__(self, dimensions: int, bins: int = PROFILE_BINS) -> None:
        super().__init__()
        hidden = max(dimensions, bins)
        self.layers = nn.Sequential(nn.Linear(dimensions, hidden), nn.GELU(), nn.Linear(hidden, bins))

    def forward(self, embedding: Float[Tensor, "sites dimensions"]) -> Float[Tensor, "sites bins"]:
        return self.layers(embedding)


class PixelDecoder(nn.Module):
    """Mean of any band on any date from an embedding: a query of wavelength or polarisation and date meets the embedding.

    The same weights answer for any number of bands and dates.
    """

    def __init__(self, dimensions: int, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.content = nn.Sequential(nn.Linear(dimensions, width), nn.GELU(), nn.Linear(width, width))
        self.band = nn.Linear(2 * _FREQUENCIES + 2 + len(_POLARISATIONS), width)
        self.date = nn.Linear(3, width)
        self.query = nn.Sequential(nn.GELU(), nn.Linear(width, width + 1))

    def forward(
        self, embedding: Float[Tensor, "chips rows cols dimensions"], raster: RasterObservation
    ) -> Float[Tensor, "chips dates channels rows cols"]:
        asked = (
            self.band(band_features(raster.bands).to(self.band.weight))[None, None]
            + self.date(date_features(raster.days).to(self.date.weight))[:, :, None]
        )
        query = self.query(asked)
        mean = torch.einsum("bijd,btcd->btcij", self.content(embedding), query[..., :-1]) / math.sqrt(self.width)
        return mean + query[..., -1][..., None, None]


def band_features(bands: Sequence[Band]) -> Float[Tensor, "bands features"]:
    """Sines and cosines of the logarithm of the wavelength, polarisation, and for a band without either its place in the list."""
    low, high = (math.log(bound) for bound in _WAVELENGTHS)
    rows = []
    for index, band in enumerate(bands):
        optical = band.wavelength is not None
        # Wavelength on a log scale spans visible to thermal; a nameless band is told apart by its place.
        at = (math.log(min(max(band.wavelength, 1.0), 1e9)) - low) / (high - low) if optical else index / max(1, len(bands))
        waves = [function(2.0**k * math.pi * at) for k in range(_FREQUENCIES) for function in (math.sin, math.cos)]
        rows.append(
            [*waves, float(optical), math.log1p(band.fwhm or 0.0) / 5, *(float(band.polarisation == p) for p in _POLARISATIONS)]
        )
    return torch.tensor(rows)


def date_features(days: Float[Tensor, "chips dates"]) -> Float[Tensor, "chips dates 3"]:
    """Sine and cosine of the season, and whether the date is known (all 0 where it is not)."""
    known = days.isfinite()
    season = torch.where(known, days, 0.0) * (2 * math.pi / _YEAR)
    return torch.stack([season.sin(), season.cos(), torch.ones_like(season)], dim=-1) * known[..., None]


def make_decoder(sensor: str, dimensions: int) -> nn.Module:
    """Decoder of a sensor's hidden signal from embeddings of `dimensions`."""
    return ProfileDecoder(dimensions) if sensor in ("als", "gedi") else PixelDecoder(dimensions)


def balanced(weight: float, sensors: int, temperature: float) -> float:
    """Factor of a sensor's retention beside the contrast with all other sensors, of about the same gradient where `weight` is 1.

    A sensor is in as many pairs as there are others, and the gradient of a pair's contrast grows with one over the temperature;
    the error of a reconstruction is a mean of order 1, whatever the number of sensors.

    Parameters
    ----------
    temperature : at the start
    """
    return weight * max(1, sensors - 1) / temperature


def retention_error(
    decoder: nn.Module,
    embedding: Float[Tensor, "sites dimensions"],
    present: Tensor,
    hidden: Hidden,
    raster: RasterObservation | None = None,
    target: RetentionTarget = "identity",
    sensor: str = "",
) -> tuple[Float[Tensor, ""], Tensor]:
    """Huber loss on what was hidden where the shown rest has an embedding: the sum of its terms, and how many they are.

    Parameters
    ----------
    embedding : [M, D] of columns, or [F, D] of footprints
    present : [M] or [F] which embeddings are there
    raster : the observation whose bands and dates are asked for; rasters only
    sensor : its name seeds the frozen projection
    """
    if isinstance(hidden, HiddenProfile):
        keep = hidden.known & present
        residual = decoder(embedding[keep]).float() - hidden.target[keep]
        return _huber(residual, torch.ones_like(residual, dtype=torch.bool), target, sensor)
    assert isinstance(hidden, HiddenPixels)
    assert raster is not None
    chips, _, _, rows, cols = hidden.target.shape
    known = hidden.known & present.reshape(chips, 1, 1, rows, cols)
    answer = decoder(embedding.reshape(chips, rows, cols, -1), raster).float()
    residual = torch.where(known, answer - hidden.target, 0.0)
    return _huber(residual.movedim(2, -1), known.movedim(2, -1), target, sensor)


def _huber(residual: Tensor, known: Tensor, target: RetentionTarget, sensor: str) -> tuple[Tensor, Tensor]:
    """Over the known entries, or the rows with one after the projection (linear, so it is applied to the residual)."""
    if target == "projection":
        residual = residual @ random_projection(sensor, residual.shape[-1]).to(residual)
        known = known.any(dim=-1, keepdim=True).expand_as(residual)
    loss = nn.functional.huber_loss(residual, torch.zeros_like(residual), reduction="none")
    return (loss * known).sum(), known.sum()


@lru_cache(maxsize=64)
def random_projection(sensor: str, dimensions: int) -> Tensor:
    """Frozen Gaussian projection [dimensions, 32] that keeps lengths on average; the same in every run."""
    generator = torch.Generator().manual_seed(zlib.crc32(sensor.encode()))
    return torch.randn(dimensions, _PROJECTED, generator=generator) / math.sqrt(_PROJECTED)
