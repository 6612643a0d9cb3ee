"""Lines and areas of a scene as volunteers map them: shifted a little, and not all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely

from fusion3d.simulate.keyed import stream, uniform
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.parcels import Use, identity

_OMITTED = 0.15
_SHIFT = 2.0
_LANDUSE = {
    Use.FOREST: "forest", Use.WINTER_CROP: "farmland", Use.SUMMER_CROP: "farmland", Use.GRASS: "meadow",
    Use.SETTLEMENT: "residential",
}  # fmt: skip
_AREA, _BUILDING, _WATER, _ROAD = range(4)

Feature = tuple[shapely.Geometry, dict[str, Any]]


def mapped_features(land: Landscape) -> Iterator[Feature]:
    """Features of a scene in its CRS, with the tags of OpenStreetMap: land use, water, roads, buildings.

    15 % of the features are missing, and each is shifted by 2 m in a direction of its own. Cut parcels are forest still.
    """
    key = stream(land.site.seed, "open map")
    box = land.site.box
    frame = shapely.box(box.xmin, box.ymin, box.xmax, box.ymax)
    for kind, number, geometry, tags in _features(land):
        if uniform(key, kind, number, 0) < _OMITTED:
            continue
        turn = 2.0 * math.pi * float(uniform(key, kind, number, 1))
        shift = np.array([_SHIFT * math.cos(turn), _SHIFT * math.sin(turn)])
        moved = shapely.transform(geometry, lambda points, shift=shift: points + shift)
        clipped = shapely.intersection(shapely.make_valid(moved), frame)
        for part in shapely.get_parts(clipped):
            if part.geom_type == geometry.geom_type and not part.is_empty:
                yield part, tags


def _features(land: Landscape) -> Iterator[tuple[int, int, shapely.Geometry, dict[str, Any]]]:
    """Kind, number (the same for the same thing in scenes of any size), geometry, tags."""
    box = land.site.box.grow(20.0)
    i, j = land.parcels.within(box)
    for (pi, pj), use, area in zip(zip(i, j), land.parcels.use(i, j), land.parcels.outlines(i, j)):
        yield _AREA, int(identity(pi, pj)), area, {"landuse": _LANDUSE[Use(use)]}
    river = land.terrain.river_outline(box)
    yield _WATER, 0, shapely.Polygon(river), {"natural": "water", "water": "river"}
    for road in land.roads.passing(box):
        yield _ROAD, int(road.key >> np.uint64(1)), shapely.LineString(road.line(box)), {"highway": "tertiary"}
    buildings = land.buildings(box)
    for bi, bj, corners in zip(buildings.i, buildings.j, buildings.corners()):
        number = int(identity(bi, bj))
        yield _BUILDING, number, shapely.Polygon(corners), {"building": "yes"}
