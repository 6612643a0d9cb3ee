"""Delaunay triangulation of ground points and linear interpolation inside its triangles, compiled.

Points are inserted one by one, edges flipped until every circle is empty (Lawson 1977), in the order of a Hilbert curve that is
walked in rounds, each twice as dense as the one before (Amenta, Choi and Rote 2003, "Incremental constructions con BRIO"), so
that each point is found a few triangles from the last one. Coordinates are snapped to integers for the topology: on which side of
an edge a point lies is then decided without rounding, wherever the origin is. Three corners far outside hold the whole.

::

    corners[t]     three vertices, counterclockwise          adjacent[t, k]   the triangle across the edge opposite to corner k
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

_FINEST = 4096.0
"""Integer steps in a metre, where the extent allows it."""
_EXTENT = float(1 << 22)
"""Steps across all points at most: products of differences to the far corners stay below 2^63."""
_FAR = 1 << 26
_ROUNDS = 12
_CURVE = 14
"""Bits of the Hilbert curve on a side."""


class Triangulation:
    """Triangles between points, in which values are interpolated.

    Parameters
    ----------
    points : [G, 3] x, y and value, finite; of points that coincide (to a fraction of a millimetre) the first one counts
    """

    def __init__(self, points: Float64) -> None:
        self.points = np.ascontiguousarray(points, np.float64)
        self._low = self.points[:, :2].min(axis=0) if len(points) else np.zeros(2)
        extent = float((self.points[:, :2] - self._low).max(initial=0.0))
        # a power of two, so that snapping commutes with moving the origin by whole metres
        self._steps = min(_FINEST, 2.0 ** math.floor(math.log2(_EXTENT / extent))) if extent > 0 else _FINEST
        self._origin = np.floor(self._low)
        places = np.rint((self.points[:, :2] - self._origin) * self._steps).astype(np.int32)
        far = np.array([[-3 * _FAR, -3 * _FAR], [3 * _FAR, -3 * _FAR], [0, 3 * _FAR]], np.int32)
        self._places = np.concatenate([places, far])
        self._corners, self._adjacent = _triangulate(self._places, _insertion_order(places))

    def __call__(self, x: Float64, y: Float64) -> Float64:
        """Values [N] at places; NaN outside of the hull, and on the hairline triangles along it."""
        return np.asarray(
            _interpolate(
                self._places, self.points, self._corners, self._adjacent, x, y, self._origin[0], self._origin[1], self._steps
            )
        )


def _insertion_order(places: Int32) -> Int64:
    """[G] rounds from sparse to dense, each along a Hilbert curve."""
    span = int(places.max(initial=0)) + 1
    shift = max(0, span.bit_length() - _CURVE)
    return np.argsort(_insertion_keys(places, shift), kind="stable")


@njit(cache=True)
def _insertion_keys(places: Int32, shift: int) -> Int64:  # pragma: no cover - compiled
    keys = np.empty(len(places), np.int64)
    for number in range(len(places)):
        x, y = np.int64(places[number, 0]) >> shift, np.int64(places[number, 1]) >> shift
        # splitmix64 of the place: its trailing zeros draw the round, half of the points in the last one
        mixed = np.uint64(places[number, 0]) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(places[number, 1])
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
        rounds = 0
        while rounds < _ROUNDS and not (mixed >> np.uint64(rounds)) & np.uint64(1):
            rounds += 1
        index, side = 0, 1 << (_CURVE - 1)
        while side:
            right, upper = int((x & side) > 0), int((y & side) > 0)
            index += side * side * ((3 * right) ^ upper)
            if not upper:
                if right:
                    x, y = (2 * side - 1) & ~x, (2 * side - 1) & ~y
                x, y = y, x
            side >>= 1
        keys[number] = ((_ROUNDS - rounds) << (2 * _CURVE)) | index
    return keys


@njit(inline="always")
def _side(places, a, b, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Twice the area of a, b, (x, y): positive where the place is on the left of the way from a to b."""
    ax, ay = np.int64(places[a, 0]), np.int64(places[a, 1])
    return (places[b, 0] - ax) * (y - ay) - (places[b, 1] - ay) * (x - ax)


@njit(inline="always")
def _in_circle(places, a, b, c, d):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Whether d lies inside of the circle through a, b, c (counterclockwise)."""
    dx, dy = float(places[d, 0]), float(places[d, 1])
    ax, ay = places[a, 0] - dx, places[a, 1] - dy
    bx, by = places[b, 0] - dx, places[b, 1] - dy
    cx, cy = places[c, 0] - dx, places[c, 1] - dy
    aa, bb, cc = ax * ax + ay * ay, bx * bx + by * by, cx * cx + cy * cy
    return ax * (by * cc - bb * cy) - ay * (bx * cc - bb * cx) + aa * (bx * cy - by * cx) > 0.0


@njit(inline="always")
def _find(places, corners, adjacent, start, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """The triangle that holds a place, from `start` on across edges that see it on their other side; -1 if it is not found."""
    at, came = start, -1
    for _ in range(len(corners) + 3):
        onward = -1
        for k in range(3):
            other = adjacent[at, k]
            if other != came and _side(places, corners[at, (k + 1) % 3], corners[at, (k + 2) % 3], x, y) < 0:
                onward = other
                break
        if onward < 0:
            return at
        at, came = onward, at
    return -1


@njit(inline="always")
def _relink(adjacent, triangle, old, new):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    if triangle >= 0:
        for k in range(3):
            if adjacent[triangle, k] == old:
                adjacent[triangle, k] = new


@njit(inline="always")
def _put(table, row, first, second, third):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    table[row, 0], table[row, 1], table[row, 2] = first, second, third


@njit(cache=True)
def _triangulate(places: Int32, order: Int64) -> tuple[Int32, Int32]:  # pragma: no cover - compiled
    """Corners and neighbours of all triangles, those at the three far corners included."""
    count = len(order)
    corners = np.empty((2 * count + 1, 3), np.int32)
    adjacent = np.full((2 * count + 1, 3), -1, np.int32)
    _put(corners, 0, count, count + 1, count + 2)
    used, last = 1, 0
    suspects = np.empty(3 * count + 16, np.int32)
    for index in range(count):
        new = order[index]
        x, y = np.int64(places[new, 0]), np.int64(places[new, 1])
        t = _find(places, corners, adjacent, last, x, y)
        if t < 0:
            continue
        a, b, c = corners[t]
        if (
            (places[a, 0] == x and places[a, 1] == y)
            or (places[b, 0] == x and places[b, 1] == y)
            or (places[c, 0] == x and places[c, 1] == y)
        ):
            continue
        # t becomes three; one of them is flat when the place is on an edge, and the first flip across that edge mends it
        na, nb, nc = adjacent[t]
        u, v = used, used + 1
        used += 2
        _put(corners, t, new, b, c)
        _put(adjacent, t, na, u, v)
        _put(corners, u, new, c, a)
        _put(adjacent, u, nb, v, t)
        _put(corners, v, new, a, b)
        _put(adjacent, v, nc, t, u)
        _relink(adjacent, nb, t, u)
        _relink(adjacent, nc, t, v)
        suspects[0], suspects[1], suspects[2] = t, u, v
        held = 3
        while held:
            held -= 1
            t = suspects[held]
            # the new point is corner 0 of every suspect, the edge in question is opposite to it
            over = adjacent[t, 0]
            if over < 0:
                continue
            k = 0 if adjacent[over, 0] == t else 1 if adjacent[over, 1] == t else 2
            apex, b, c = corners[over, k], corners[t, 1], corners[t, 2]
            flat = _side(places, b, c, x, y) == 0
            if not flat and not _in_circle(places, new, b, c, apex):
                continue
            beyond_b, beyond_c = adjacent[over, (k + 2) % 3], adjacent[over, (k + 1) % 3]
            beside_b, beside_c = adjacent[t, 1], adjacent[t, 2]
            # corners of over: apex, c, b in turn; the pair (new, b, c), (apex, c, b) becomes (new, b, apex), (new, apex, c)
            _put(corners, t, new, b, apex)
            _put(adjacent, t, beyond_c, over, beside_c)
            _put(corners, over, new, apex, c)
            _put(adjacent, over, beyond_b, beside_b, t)
            _relink(adjacent, beyond_c, over, t)
            _relink(adjacent, beside_b, t, over)
            suspects[held], suspects[held + 1] = t, over
            held += 2
        last = t
    return corners[:used], adjacent[:used]


@njit(cache=True)
def _interpolate(
    places: Int32,
    points: Float64,
    corners: Int32,
    adjacent: Int32,
    x: Float64,
    y: Float64,
    x0: float,
    y0: float,
    steps: float,
) -> Float64:  # pragma: no cover - compiled
    values = np.full(len(x), np.nan)
    real = len(points)
    last, planed = 0, -1
    px = py = pz = slope_x = slope_y = 0.0
    for number in range(len(x)):
        snapped_x, snapped_y = np.int64(np.rint((x[number] - x0) * steps)), np.int64(np.rint((y[number] - y0) * steps))
        if max(abs(snapped_x), abs(snapped_y)) > _FAR:
            continue
        t = _find(places, corners, adjacent, last, snapped_x, snapped_y)
        if t < 0:
            continue
        last = t
        if t != planed:
            a, b, c = corners[t]
            if max(a, b, c) >= real:
                continue
            px, py, pz = points[a]
            bx, by, bz = points[b, 0] - px, points[b, 1] - py, points[b, 2] - pz
            cx, cy, cz = points[c, 0] - px, points[c, 1] - py, points[c, 2] - pz
            area = bx * cy - by * cx
            slope_x, slope_y = (bz * cy - by * cz) / area, (bx * cz - bz * cx) / area
            planed = t
        values[number] = pz + slope_x * (x[number] - px) + slope_y * (y[number] - py)
    return values
