"""Channels as inputs: from a band's wavelength, width, polarisation and pixel size to the weights that read it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fusion3d.data.observation import Band

POLARISATIONS = ("VV", "VH", "HH", "HV")
_HARMONICS = 8
_DESCRIPTORS = 2 * _HARMONICS + 3 + len(POLARISATIONS) + 4 + 1


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) or value <= 0 else value


def _describe(band: Band, position: int, pixel: float) -> list[float]:
    wavelength, width = _known(band.wavelength), _known(band.fwhm)
    polarised = [float(band.polarisation == name) for name in POLARISATIONS]
    optical = [0.0] * (2 * _HARMONICS + 1)
    if wavelength is not None:
        # octaves above 350 nm: 0 for deep blue, 2.8 at the end of the shortwave infrared, 5 in the thermal infrared
        octave = math.log2(wavelength / 350.0)
        angles = [octave * math.pi / 4 * 2**harmonic for harmonic in range(_HARMONICS)]
        optical = [1.0, *map(math.sin, angles), *map(math.cos, angles)]
    spread = [0.0, 0.0] if width is None else [1.0, math.log10(width) - 1.5]
    # A band that nothing else describes is told from its neighbours by its place in the file.
    anonymous = [0.0] * 4
    if wavelength is None and not any(polarised):
        anonymous = [math.sin(position), math.cos(position), math.sin(position / 5), math.cos(position / 5)]
    return [*optical, *spread, *polarised, *anonymous, math.log10(pixel) / 2]


def describe_bands(bands: Sequence[Band], pixel: float) -> Float[Tensor, "channels descriptors"]:
    """What distinguishes channels, float64: Fourier features of log wavelength, log width, polarisation, log pixel size.

    Parameters
    ----------
    bands : in the order of the channels; only bands with neither wavelength nor polarisation depend on their place in it
    pixel : pixel size, metres
    """
    rows = [_describe(band, position, pixel) for position, band in enumerate(bands)]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), _DESCRIPTORS)


class BandKernels(nn.Module):
    """A 3 x 3 convolution whose weights are written by the bands' descriptors, as in DOFA (Xiong et al. 2024)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.channels = channels
        self.write = nn.Sequential(
            nn.Linear(_DESCRIPTORS, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 9 * channels)
        )
        nn.init.normal_(self.write[-1].weight, std=hidden**-0.5)

    def forward(self, bands: Sequence[Band], pixel: float) -> Float[Tensor, "outputs channels 3 3"]:
        """Kernels of the channels, as `torch.nn.functional.conv2d` takes them."""
        reference = self.write[0].weight
        descriptors = describe_bands(bands, pixel).to(reference)
        return self.write(descriptors).view(len(bands), self.channels, 3, 3).transpose(0, 1)
