"""Aerial LiDAR of a tile: targets, pulses, points, LAZ.

The pulses are drawn at 1550 nm; `fusion3d.simulate.laser_targets` says what they see. Which aim points a tile needs follows from
its heights, so any division of a scene into tiles gives the same points.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d.errors import InputError
from fusion3d.io.las_writer import write_points
from fusion3d.simulate.flight import (
    FLIGHT_DAY,
    FLYING_HEIGHT,
    HALF_SWATH,
    Flight,
    FlightLine,
    Sweeps,
    plan_flight,
    sweep_start,
    sweeps_over,
)
from fusion3d.simulate.laser_targets import Targets, from_corner, targets_of, whole
from fusion3d.simulate.model import CRS_NAME, Box, Site, Tile
from fusion3d.simulate.pulses import MAX_RETURNS, POINT, Strip, pulse_key, trace_strip

MARGIN = 40.0
"""Metres around a tile: a ray of 20 degrees moves by less while it passes the highest trees on the steepest ground."""
CRS_WITH_HEIGHTS = f"{CRS_NAME}+5720"
"""Lambert-93 with heights above the sea level of NGF-IGN69."""
SCALE = 0.001
_CELL = 0.5
_PULSES_AT_ONCE = 200_000
_CAMPAIGN = 0xA15


@dataclass(frozen=True)
class AlsPoints:
    """Returns in the order in which they were recorded, arrays [N].

    Attributes
    ----------
    x, y, z : metres in the scene's CRS and above sea level, whole millimetres
    gps_time : adjusted standard GPS time, seconds; that of the pulse
    scan_angle : degrees from nadir, negative on the left of the aircraft
    intensity : reflectance times energy, range and incidence, 40 000 for a whole pulse on a white target 1 km below
    classification : ASPRS classes, with the errors of a production line
    point_source_id : number of the flight line
    red, green, blue, nir : 16 bit
    """

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    z: npt.NDArray[np.float64]
    gps_time: npt.NDArray[np.float64]
    scan_angle: npt.NDArray[np.float32]
    intensity: npt.NDArray[np.uint16]
    return_number: npt.NDArray[np.uint8]
    number_of_returns: npt.NDArray[np.uint8]
    classification: npt.NDArray[np.uint8]
    point_source_id: npt.NDArray[np.uint16]
    red: npt.NDArray[np.uint16]
    green: npt.NDArray[np.uint16]
    blue: npt.NDArray[np.uint16]
    nir: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.x)


def simulate_points(tile: Tile, density: float = 8.0) -> AlsPoints:
    """The returns that lie in a tile's core; those of one pulse are the same whichever tile it is traced from.

    Parameters
    ----------
    density : emitted pulses per m2, all flight lines together

    Raises
    ------
    ConfigError
        The tile's margin is less than `MARGIN`, its edges are no whole metres from the scene's corner, the density is unusable.
    """
    flight = plan_flight(tile.site, tile.land, density)
    surface, leaves = tile.surface(_CELL, MARGIN), tile.leaf_voxels(FLIGHT_DAY, MARGIN)
    corner = tile.site.box
    targets = targets_of(corner, surface, leaves, tile.trees.species)
    core = from_corner(tile.core, corner)
    # noise echoes lie over aim points of the reference plane
    low, high = min(float(surface.ground.min()), flight.reference), max(targets.highest, flight.reference)
    campaign = np.uint64(pulse_key(np.uint64(pulse_key(_CAMPAIGN, tile.site.seed)), tile.site.year))
    found = [np.empty(0, POINT)]
    for line in flight.lines:
        share = sweeps_over(flight, line, core.grow(_CELL), low, high)
        if share.count:
            found += _trace_line(targets, flight, line, campaign, share, core)
    return _points(found, corner)


def _trace_line(
    targets: Targets, flight: Flight, line: FlightLine, campaign: np.uint64, share: Sweeps, core: Box
) -> list[npt.NDArray[Any]]:
    """Returns inside the core, some sweeps at a time so that few records wait to be filled."""
    core_mm = tuple(whole(1000.0 * edge, "a tile's edge, in mm,") for edge in (core.xmin, core.ymin, core.xmax, core.ymax))
    pulses = share.stop_pulse - share.first_pulse
    step = min(max(1, _PULSES_AT_ONCE // pulses), share.stop_sweep - share.first_sweep)
    out = np.empty(MAX_RETURNS * step * pulses, POINT)
    starts = range(share.first_sweep, share.stop_sweep, step)
    parts = [replace(share, first_sweep=start, stop_sweep=min(start + step, share.stop_sweep)) for start in starts]
    return [
        out[: trace_strip(targets, _strip(flight, line, campaign, part), core_mm, out)].copy()
        for part in (parts if line.eastward else reversed(parts))
    ]


def _strip(flight: Flight, line: FlightLine, campaign: np.uint64, share: Sweeps) -> Strip:
    start, period = sweep_start(flight, line)
    return Strip(
        key=np.uint64(pulse_key(campaign, line.number)),
        number=line.number,
        y=line.y,
        altitude=flight.altitude,
        height=FLYING_HEIGHT,
        along=flight.along,
        across=flight.across,
        half_swath=HALF_SWATH,
        first_sweep=share.first_sweep,
        stop_sweep=share.stop_sweep,
        first_pulse=share.first_pulse,
        stop_pulse=share.stop_pulse,
        pulses=flight.pulses,
        start=start,
        period=period,
    )


def _points(found: list[np.ndarray], corner: Box) -> AlsPoints:
    def joined(name: str) -> Any:
        return np.concatenate([part[name] for part in found])

    plain = {name: joined(name) for name in AlsPoints.__dataclass_fields__ if name not in "xyz"}
    x, y, z = (joined(name) / 1000.0 for name in "xyz")
    x += corner.xmin
    y += corner.ymin
    return AlsPoints(x, y, z, **plain)


class AlsWriter:
    """LAZ 1.4 files of point format 8, one a tile, in ``folder/als``; they appear together when the context ends without error.

    Parameters
    ----------
    folder : of the scene; must exist
    density : emitted pulses per m2
    """

    margin = MARGIN

    def __init__(self, site: Site, folder: str | Path, density: float = 8.0) -> None:
        self._site, self._density = site, density
        self._final = Path(folder) / "als"
        self._draft = self._final.with_name(f".als.{uuid.uuid4().hex[:8]}.draft")

    def __enter__(self) -> Self:
        if self._final.exists():
            raise InputError(self._final, "exists already", "write to another folder, or remove it")
        try:
            self._draft.mkdir()
        except OSError as error:
            raise InputError(self._final, f"cannot be made ({error.strerror or error})", "check the folder") from None
        return self

    def add(self, tile: Tile) -> None:
        """Simulate and write a tile; one without returns becomes a file without points."""
        points = simulate_points(tile, self._density)
        attributes = {name: getattr(points, name) for name in AlsPoints.__dataclass_fields__ if name not in "xyz"}
        write_points(
            self._draft / tile_name(tile.core),
            points.x,
            points.y,
            points.z,
            attributes,
            crs=CRS_WITH_HEIGHTS,
            scale=SCALE,
            offsets=(float(np.floor(tile.core.xmin)), float(np.floor(tile.core.ymin)), 0.0),
            created=tile.site.day(FLIGHT_DAY),
            adjusted_gps_time=True,
        )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                os.replace(self._draft, self._final)
        except OSError as failure:
            raise InputError(self._final, f"cannot be written ({failure.strerror or failure})", "check the folder") from None
        finally:
            shutil.rmtree(self._draft, ignore_errors=True)


def tile_name(core: Box) -> str:
    """Name of a tile's file, after its north-western corner in metres."""
    return f"als_{core.xmin:07.0f}_{core.ymax:07.0f}.laz"
