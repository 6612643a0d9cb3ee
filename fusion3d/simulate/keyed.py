"""Random numbers that are functions of a key and of integer indices or of a place, so that a window is the same however cut.

A key is made from the scene's seed and the name of a stream. The hash is SplitMix64's finaliser (Steele, Lea and Flood 2014,
"Fast splittable pseudorandom number generators"), chained over the indices. The noise is that of a lattice of normal deviates,
blended by quintic weights (Perlin 2002) and divided by the weights' root sum of squares: standard normal at every place, not
only at the nodes.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.special import ndtr, ndtri

Float64 = npt.NDArray[np.float64]
UInt64 = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_TO_UNIT = 2.0**-53


def stream(seed: int, name: str) -> np.uint64:
    """Key of a named stream of random numbers of a scene."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def generator(seed: int, name: str, *indices: int) -> np.random.Generator:
    """A generator of its own for a thing (a tile, a date) that is never cut."""
    digest = hashlib.blake2b(f"{seed}/{name}/{indices}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


@njit(cache=True, inline="always")
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> _S30)) * _FIRST
    value = (value ^ (value >> _S27)) * _SECOND
    return value ^ (value >> _S31)


def hashed(key: np.uint64, *indices: npt.ArrayLike) -> UInt64:
    """64 random bits for every combination of integer indices (broadcast against each other; negative ones are allowed)."""
    value: UInt64 = np.asarray(key, np.uint64)
    with np.errstate(over="ignore"):
        for index in indices:
            value = _mix_array(value ^ _mix_array(np.asarray(index).astype(np.uint64) + _GOLDEN)) + _GOLDEN
        return _mix_array(value)


def _mix_array(value: UInt64) -> UInt64:
    value = (value ^ (value >> _S30)) * _FIRST
    value = (value ^ (value >> _S27)) * _SECOND
    return value ^ (value >> _S31)


def uniform(key: np.uint64, *indices: npt.ArrayLike) -> Float64:
    """Uniform in [0, 1), of 53 bits."""
    return (hashed(key, *indices) >> _S11).astype(np.float64) * _TO_UNIT


def normal(key: np.uint64, *indices: npt.ArrayLike) -> Float64:
    """Standard normal deviates."""
    return ndtri(uniform(key, *indices) + 0.5 * _TO_UNIT)


def noise(key: np.uint64, x: Float64, y: Float64, wavelength: float, octaves: int = 1, gain: float = 0.5) -> Float64:
    """Smooth random field, standard normal at every place.

    Parameters
    ----------
    x, y : any shape, metres
    wavelength : distance of the nodes of the first octave, metres; each further octave halves it
    gain : amplitude of an octave over that of the one before
    """
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    flat = _noise(key, np.ascontiguousarray(x).ravel(), np.ascontiguousarray(y).ravel(), float(wavelength), octaves, gain)
    return flat.reshape(x.shape)


def uniform_noise(key: np.uint64, x: Float64, y: Float64, wavelength: float, octaves: int = 1, gain: float = 0.5) -> Float64:
    """`noise` made uniform in [0, 1] at every place."""
    return ndtr(noise(key, x, y, wavelength, octaves, gain))


@njit(cache=True)
def _node(key: np.uint64, i: int, j: int) -> float:
    """Standard normal deviate of a node, by Box and Muller (1958)."""
    bits = _mix(_mix(_mix(key + np.uint64(i) * _GOLDEN) + np.uint64(j)) + _GOLDEN)
    other = _mix(bits + _GOLDEN)
    first = (float(bits >> _S11) + 1.0) * _TO_UNIT
    return np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * float(other >> _S11) * _TO_UNIT)


@njit(cache=True)
def _noise(key: np.uint64, x: Float64, y: Float64, wavelength: float, octaves: int, gain: float) -> Float64:
    result = np.zeros(x.size)
    amplitude, power = 1.0, 0.0
    for octave in range(octaves):
        power += amplitude * amplitude
        # Each octave is turned, so that the directions of the lattices do not add up to a visible one.
        turn = 0.6 + 1.1 * octave
        cosine, sine = np.cos(turn) / wavelength, np.sin(turn) / wavelength
        own = _mix(key + np.uint64(octave + 1) * _GOLDEN)
        last_i, last_j = -(2**62), -(2**62)
        a = b = c = d = 0.0
        for n in range(x.size):
            u, v = x[n] * cosine + y[n] * sine, y[n] * cosine - x[n] * sine
            i, j = int(np.floor(u)), int(np.floor(v))
            if i != last_i or j != last_j:
                a, b, c, d = _node(own, i, j), _node(own, i + 1, j), _node(own, i, j + 1), _node(own, i + 1, j + 1)
                last_i, last_j = i, j
            u, v = u - i, v - j
            p, q = u * u * u * (u * (u * 6.0 - 15.0) + 10.0), v * v * v * (v * (v * 6.0 - 15.0) + 10.0)
            value = (a * (1.0 - p) + b * p) * (1.0 - q) + (c * (1.0 - p) + d * p) * q
            spread = ((1.0 - p) * (1.0 - p) + p * p) * ((1.0 - q) * (1.0 - q) + q * q)
            result[n] += amplitude * value / np.sqrt(spread)
        amplitude *= gain
        wavelength *= 0.5
    return result / np.sqrt(power)
