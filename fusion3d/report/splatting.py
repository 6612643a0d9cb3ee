"""Points seen obliquely from above, drawn as small discs, the nearest in front, with shaded depth.

An orthographic view: horizontal lengths across the picture are true to scale. Depth is shaded as in eye-dome lighting
(C. Boucheny 2009, Interactive scientific visualization of large datasets, PhD thesis, Grenoble): a pixel is darkened by how much
nearer its neighbours are than it, so that crowns and roofs stand out with no normals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]

_SUPERSAMPLING = 2
_STRENGTH = 0.22
"""Darkening per metre that the neighbours are nearer."""
_DARKEST = 0.35
_MOST_WRITES = 8_000_000
_LARGEST = 9.0
"""Pixels of the supersampled picture: radius of a disc."""


@dataclass(frozen=True)
class Camera:
    """An orthographic camera.

    Parameters
    ----------
    azimuth : direction it looks in, degrees clockwise from north
    elevation : above the horizon, degrees
    """

    azimuth: float = 30.0
    elevation: float = 32.0

    def axes(self) -> Float64:
        """[3, 3] unit vectors right, up and towards the camera, in east, north, up."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        forward = np.array([math.sin(a) * math.cos(e), math.cos(a) * math.cos(e), -math.sin(e)])
        right = np.array([math.cos(a), -math.sin(a), 0.0])
        return np.stack([right, np.cross(right, forward), -forward])

    def project(self, points: Float64) -> Float64:
        """[N, 3] metres right, up and towards the camera of points in east, north, up."""
        return points @ self.axes().T


@dataclass(frozen=True)
class Frame:
    """The rectangle of the projection that a picture shows: left, bottom and metres per pixel; width and height, pixels."""

    left: float
    bottom: float
    metres: float
    width: int
    height: int

    @classmethod
    def around(cls, projected: Float64, width: int, margin: float = 0.03) -> Frame:
        low, high = projected[:, :2].min(axis=0), projected[:, :2].max(axis=0)
        span = np.maximum(high - low, 1e-6)
        low, span = low - margin * span, span * (1 + 2 * margin)
        metres = span[0] / width
        return cls(float(low[0]), float(low[1]), float(metres), width, max(1, math.ceil(span[1] / metres)))


def splat(projected: Float64, colours: npt.NDArray[np.uint8], frame: Frame, radius: float) -> Image:
    """RGB picture [H, W, 3], white where there is no point.

    Parameters
    ----------
    projected : [N, 3] of `Camera.project`
    colours : [N, 3]
    radius : of a point, metres
    """
    fine = _SUPERSAMPLING
    height, width, metres = frame.height * fine, frame.width * fine, frame.metres / fine
    col = (projected[:, 0] - frame.left) / metres
    row = height - (projected[:, 1] - frame.bottom) / metres
    # of sparse points, larger discs would cost time without showing more
    reach = min(max(1.0, radius / metres), math.sqrt(_MOST_WRITES / (math.pi * max(1, len(projected)))), _LARGEST)
    steps = np.arange(-math.ceil(reach), math.ceil(reach) + 1)
    down, across = (offset.ravel() for offset in np.meshgrid(steps, steps, indexing="ij"))
    disc = down**2 + across**2 <= reach**2
    # Far to near, so that of the points in a pixel the nearest is written last and stays.
    order = np.argsort(projected[:, 2], kind="stable")
    at_row = np.floor(row[order]).astype(np.int32)[:, None] + down[disc].astype(np.int32)
    at_col = np.floor(col[order]).astype(np.int32)[:, None] + across[disc].astype(np.int32)
    inside = (at_row >= 0) & (at_row < height) & (at_col >= 0) & (at_col < width)
    owner = np.full((height, width), -1, np.int32)
    point = np.broadcast_to(np.arange(len(order), dtype=np.int32)[:, None], inside.shape)
    owner[at_row[inside], at_col[inside]] = point[inside]
    seen = owner >= 0
    depth = np.where(seen, projected[order, 2][owner] if len(order) else 0.0, -np.inf)
    image = np.full((height, width, 3), 255.0)
    image[seen] = colours[order][owner[seen]] * _shading(depth)[seen][:, None]
    image = image.reshape(frame.height, fine, frame.width, fine, 3).mean(axis=(1, 3))
    return np.rint(image).astype(np.uint8)


def _shading(depth: Float64) -> Float64:
    """Factor of brightness of each pixel."""
    total = np.zeros_like(depth)
    reach = 2
    padded = np.pad(depth, reach, constant_values=-np.inf)
    for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
        first_row, first_col = reach + reach * down, reach + reach * across
        beside = padded[first_row : first_row + depth.shape[0], first_col : first_col + depth.shape[1]]
        with np.errstate(invalid="ignore"):
            difference = beside - depth
        total += np.clip(np.where(np.isfinite(difference), difference, 0.0), 0.0, 10.0)
    return np.maximum(_DARKEST, np.exp(-_STRENGTH * total / 8))
