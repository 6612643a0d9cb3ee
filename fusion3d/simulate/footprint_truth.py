"""What lies under a footprint of a simulated scene: the light that comes back, and what is so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import CRS

from fusion3d.io.geopackage import write_geopackage
from fusion3d.simulate.model import SPECIES, Cover, LeafVoxels, Surface, Tile
from fusion3d.simulate.waveform import (
    FOOTPRINT_RADIUS,
    LEAF_REFLECTANCE,
    NEEDLE_REFLECTANCE,
    Returns,
    column_returns,
    footprint_weight,
)

Float64 = npt.NDArray[np.float64]

GROUND_REFLECTANCE = {
    Cover.WATER: 0.03,
    Cover.BUILDING: 0.30,
    Cover.ROAD: 0.18,
    Cover.GRASS: 0.45,
    Cover.WINTER_CROP: 0.40,
    Cover.SUMMER_CROP: 0.36,
    Cover.FOREST: 0.40,
    Cover.CLEARCUT: 0.34,
}
"""At 1064 nm, typical of spectral libraries; the forest's own floor has the scene's field `litter_1064`."""
_REFLECTANCE = np.array([GROUND_REFLECTANCE.get(Cover(code), 0.0) if code else 0.0 for code in range(max(Cover) + 1)])
_EVERGREEN = np.array([species.evergreen for species in SPECIES])
_TREE_HEIGHT = 5.0
_KG_A_M2_TO_MG_A_HA = 10.0


@dataclass(frozen=True)
class FootprintTruth:
    """What is so of a shot, and what is said.

    Attributes
    ----------
    shot_number, shot_id : the same number as text and as integer
    x, y, x_stated, y_stated : true position and that of the files, metres in the scene's CRS
    ground : weighted mean of the terrain, metres above sea level; slope : degrees, of the plane through it
    agb : Mg/ha, stems weighted as the light is
    canopy_height : 98th percentile of the crowns' height above ground; canopy_max : greatest; metres
    canopy_cover, building, water : shares
    understorey, litter_1064 : of the scene's fields, NaN outside of the forest
    quality : L2A's quality flag; cloudy : nothing returned because of a cloud
    """

    shot_number: str
    shot_id: int
    beam: str
    time: str
    x: float
    y: float
    x_stated: float
    y_stated: float
    ground: float
    slope: float
    agb: float
    canopy_height: float
    canopy_max: float
    canopy_cover: float
    building: float
    water: float
    understorey: float
    litter_1064: float
    quality: int
    cloudy: bool


@dataclass(frozen=True)
class Footprint:
    """The columns of 1 m under a footprint, [C] each, and the trees in it; `weight` sums to 1."""

    weight: Float64
    dx: Float64
    dy: Float64
    elevation: Float64
    cover: npt.NDArray[np.uint8]
    roof: Float64
    canopy: Float64
    needles: npt.NDArray[np.bool_]
    understorey_field: Float64
    litter_field: Float64
    leaves: npt.NDArray[np.float32]
    step: float
    agb: float

    @cached_property
    def returns(self) -> Returns:
        """Light that comes back."""
        floor = np.where(np.isfinite(self.litter_field), self.litter_field, _REFLECTANCE[self.cover])
        floor = np.where(self.roof > 0, _REFLECTANCE[Cover.BUILDING], floor)
        leaf = np.where(self.needles, NEEDLE_REFLECTANCE, LEAF_REFLECTANCE)
        return column_returns(self.weight, self.elevation, self.leaves, self.step, leaf, floor, self.roof)

    @property
    def ground(self) -> float:
        return float(self.weight @ self.elevation)

    @property
    def mean_canopy(self) -> float:
        return float(self.weight @ self.canopy)

    @property
    def canopy_cover(self) -> float:
        return float(self.weight[self.canopy >= _TREE_HEIGHT].sum())

    @property
    def building(self) -> float:
        return float(self.weight[self.roof > 0].sum())

    @property
    def water(self) -> float:
        return float(self.weight[self.cover == Cover.WATER].sum())

    @property
    def evergreen(self) -> float:
        """Share of evergreen trees in the crowns."""
        crowns = self.weight[self.canopy > 0].sum()
        return float(self.weight[self.needles].sum() / crowns) if crowns > 0 else 0.0

    @property
    def slope(self) -> float:
        """Degrees."""
        design = np.column_stack([np.ones(len(self.dx)), self.dx, self.dy]) * np.sqrt(self.weight)[:, None]
        _, east, north = np.linalg.lstsq(design, self.elevation * np.sqrt(self.weight), rcond=None)[0]
        return float(np.degrees(np.arctan(np.hypot(east, north))))

    def truth(
        self,
        number: int,
        beam: str,
        time: datetime,
        true: tuple[float, float],
        stated: tuple[float, float],
        quality: int,
        cloudy: bool,
    ) -> FootprintTruth:
        """The record of a shot."""
        order = np.argsort(self.canopy, kind="stable")
        reached = np.cumsum(self.weight[order])
        percentile = self.canopy[order][min(int(np.searchsorted(reached, 0.98)), len(order) - 1)]
        return FootprintTruth(
            shot_number=str(number),
            shot_id=number,
            beam=beam,
            time=time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            x=true[0],
            y=true[1],
            x_stated=stated[0],
            y_stated=stated[1],
            ground=self.ground,
            slope=self.slope,
            agb=self.agb,
            canopy_height=float(percentile),
            canopy_max=float(self.canopy.max()),
            canopy_cover=self.canopy_cover,
            building=self.building,
            water=self.water,
            understorey=_weighted_mean(self.understorey_field, self.weight),
            litter_1064=_weighted_mean(self.litter_field, self.weight),
            quality=quality,
            cloudy=cloudy,
        )


def look_under(tile: Tile, surface: Surface, leaves: LeafVoxels, x: float, y: float) -> Footprint:
    """The columns within the footprint's radius of a place.

    Parameters
    ----------
    surface, leaves : of the same window of `tile`, cells of 1 m
    x, y : metres in the scene's CRS; the radius must lie within the window
    """
    first_col, stop_col = (
        int(np.floor((x + r - surface.box.xmin) / surface.cell)) for r in (-FOOTPRINT_RADIUS, FOOTPRINT_RADIUS)
    )
    first_row, stop_row = (
        int(np.floor((surface.box.ymax - y + r) / surface.cell)) for r in (-FOOTPRINT_RADIUS, FOOTPRINT_RADIUS)
    )
    rows, cols = np.mgrid[first_row : stop_row + 1, first_col : stop_col + 1]
    dx = surface.box.xmin + (cols + 0.5) * surface.cell - x
    dy = surface.box.ymax - (rows + 0.5) * surface.cell - y
    inside = dx * dx + dy * dy <= FOOTPRINT_RADIUS**2
    rows, cols, dx, dy = rows[inside], cols[inside], dx[inside], dy[inside]
    weight = footprint_weight(dx, dy)
    crown = surface.crown[rows, cols]
    species = tile.trees.species
    needles = np.zeros(len(rows), bool)
    needles[crown >= 0] = _EVERGREEN[species[crown[crown >= 0]]]
    return Footprint(
        weight=weight / weight.sum(),
        dx=dx,
        dy=dy,
        elevation=surface.ground[rows, cols].astype(np.float64),
        cover=surface.cover[rows, cols],
        roof=surface.building[rows, cols].astype(np.float64),
        canopy=surface.canopy[rows, cols].astype(np.float64),
        needles=needles,
        understorey_field=tile.land.field("understorey", x + dx, y + dy),
        litter_field=tile.land.field("litter_1064", x + dx, y + dy),
        leaves=leaves.density[:, rows, cols],
        step=leaves.step,
        agb=_biomass(tile, x, y),
    )


def _biomass(tile: Tile, x: float, y: float) -> float:
    """Mg/ha: each tree's biomass times the share of light a m2 at its stem."""
    trees = tile.trees
    return float((trees.agb * footprint_weight(trees.x - x, trees.y - y)).sum() * _KG_A_M2_TO_MG_A_HA)


def _weighted_mean(values: Float64, weight: Float64) -> float:
    known = np.isfinite(values)
    return float(values[known] @ weight[known] / weight[known].sum()) if known.any() else float("nan")


def write_truth(path: Path, truths: Sequence[FootprintTruth], crs: CRS, day: date) -> None:
    """GeoPackage of the true positions; `day` is the file's date, so that the same scene gives the same file.

    Raises
    ------
    InputError
        The folder cannot be written, or the disk is full.
    """
    names = FootprintTruth.__dataclass_fields__
    records: dict[str, Any] = {name: [asdict(truth)[name] for truth in truths] for name in names}
    write_points(path, records, np.array(records["x"], np.float64), np.array(records["y"], np.float64), crs, day)


def write_points(path: Path, columns: dict[str, Any], x: Float64, y: Float64, crs: CRS, day: date) -> None:
    """GeoPackage of points with columns; as `write_truth`."""
    import geopandas
    import pyogrio  # type: ignore[import-untyped]

    frame = geopandas.GeoDataFrame(columns, geometry=geopandas.points_from_xy(x, y), crs=crs)
    if "shot_id" in frame:
        frame["shot_id"] = frame["shot_id"].astype("int64")
    date_before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{day.isoformat()}T00:00:00.000Z"})
        write_geopackage(frame, path, path.stem)
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": date_before})
