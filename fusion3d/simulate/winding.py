"""Winding lines across the map: the shape of the river and of the roads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import njit

from fusion3d.simulate.keyed import noise
from fusion3d.simulate.model import Box

Float64 = npt.NDArray[np.float64]

_STEP = 2.0
_CHUNK = 1024


@dataclass(frozen=True)
class Winding:
    """A line that runs in one direction and winds about it: t = offset(s), with s along the direction and t to its left.

    Parameters
    ----------
    key : of its random numbers
    x, y : a point on its axis, metres
    angle : of the direction, radians from east to north
    amplitude : standard deviation of the distance from the axis, metres
    wavelength : of the bends, metres
    """

    key: np.uint64
    x: float
    y: float
    angle: float
    amplitude: float
    wavelength: float

    def along_across(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """s and t of points, metres."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        east, north = x - self.x, y - self.y
        return east * cosine + north * sine, north * cosine - east * sine

    def place(self, s: Float64, t: Float64) -> tuple[Float64, Float64]:
        """x and y of points by s and t."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return self.x + s * cosine - t * sine, self.y + s * sine + t * cosine

    def offset(self, s: Float64) -> Float64:
        """t of the line, linear between nodes 2 m apart."""
        if s.size == 0:
            return np.zeros(s.shape)
        nodes, first = self._nodes(float(s.min()), float(s.max()))
        # The part of a step is taken before the table's start, so that it rounds alike whatever table is at hand.
        below = np.floor(s / _STEP)
        part, index = s / _STEP - below, below.astype(np.int64) - first
        return nodes[index] + part * (nodes[index + 1] - nodes[index])

    def slope(self, s: Float64) -> Float64:
        """dt/ds, over 8 m."""
        return (self.offset(s + 4.0) - self.offset(s - 4.0)) / 8.0

    def distance(self, x: Float64, y: Float64) -> tuple[Float64, Float64]:
        """Distance of points from the line, metres, to first order in its curvature, and their s."""
        if x.size == 0:
            return np.zeros(x.shape), np.zeros(x.shape)
        corners = np.meshgrid([x.min(), x.max()], [y.min(), y.max()])
        s, _ = self.along_across(*corners)
        nodes, first = self._nodes(float(s.min()) - 1.0, float(s.max()) + 1.0)
        frame = (self.x, self.y, math.cos(self.angle), math.sin(self.angle))
        distance, s = _distance(np.ascontiguousarray(x).ravel(), np.ascontiguousarray(y).ravel(), frame, nodes, first)
        return distance.reshape(x.shape), s.reshape(x.shape)

    def _nodes(self, low: float, high: float) -> tuple[Float64, int]:
        """t of the nodes that enclose a stretch, four more on either side, and the number of the first."""
        first, last = math.floor((low / _STEP - 4) / _CHUNK), math.floor((high / _STEP + 5) / _CHUNK)
        return np.concatenate([_offsets(self, chunk) for chunk in range(first, last + 1)]), first * _CHUNK

    def line(self, box: Box, step: float = 10.0) -> Float64:
        """[N, 2] points of the line on the stretch that passes a box; they reach beyond it on both sides."""
        corners_x = np.array([box.xmin, box.xmin, box.xmax, box.xmax])
        corners_y = np.array([box.ymin, box.ymax, box.ymin, box.ymax])
        s, _ = self.along_across(corners_x, corners_y)
        at = np.arange(math.floor(s.min() / step) - 1, math.ceil(s.max() / step) + 2) * step
        return np.stack(self.place(at, self.offset(at)), axis=1)


@lru_cache(maxsize=512)
def _offsets(line: Winding, chunk: int) -> Float64:
    s = _STEP * np.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK, dtype=np.float64)
    return line.amplitude * noise(line.key, s, np.zeros_like(s), line.wavelength, 2, 0.35)


@njit(cache=True)
def _distance(
    x: Float64, y: Float64, frame: tuple[float, float, float, float], nodes: Float64, first: int
) -> tuple[Float64, Float64]:
    distance, along = np.empty(x.size), np.empty(x.size)
    for n in range(x.size):
        east, north = x[n] - frame[0], y[n] - frame[1]
        s, t = east * frame[2] + north * frame[3], north * frame[2] - east * frame[3]
        position = s / _STEP
        k = math.floor(position)
        part = position - k
        k -= first
        centre = nodes[k] + part * (nodes[k + 1] - nodes[k])
        ahead, behind = nodes[k + 2] + part * (nodes[k + 3] - nodes[k + 2]), nodes[k - 2] + part * (nodes[k - 1] - nodes[k - 2])
        slope = (ahead - behind) / (4.0 * _STEP)
        distance[n], along[n] = abs(t - centre) / math.sqrt(1.0 + slope * slope), s
    return distance, along
