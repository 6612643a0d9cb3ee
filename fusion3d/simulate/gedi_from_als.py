"""GEDI footprints simulated over a user's own aerial LiDAR, as users of the GEDI simulator do (Hancock et al. 2019).

Levels 1B and 2A are written; not 4A, as there is no measured biomass to fit it with. Elevations are those of the files, in
metres: pass `geoid` to lift them onto the ellipsoid. Stated positions are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer
from rich.console import Console
from rich.progress import Progress

from fusion3d.errors import ConfigError, CRSError, InputError
from fusion3d.grid import map_crs, metric_unit, same_map_crs, vertical_unit
from fusion3d.io.crs import resolve_crs
from fusion3d.io.gedi_products import beam_codes
from fusion3d.io.las import PointFile, Points, open_points, query_window, read_chunks
from fusion3d.simulate.als_footprints import WEIGHTINGS, PointCollector, PointsUnder
from fusion3d.simulate.footprint_positions import grid_positions, read_positions
from fusion3d.simulate.footprint_truth import write_points
from fusion3d.simulate.footprints import EPOCH, SHOT_INTERVAL, shot_number
from fusion3d.simulate.gedi_files import Granule, Shot, write_granule
from fusion3d.simulate.gedi_heights import relative_heights
from fusion3d.simulate.keyed import generator
from fusion3d.simulate.waveform import FOOTPRINT_RADIUS, Instrument, Waveform, receive, waveform

Float64 = npt.NDArray[np.float64]

MIN_COVERED = 0.9
"""Share of a footprint's energy that must fall where there are points; otherwise it is left out."""
MIN_PULSES = 1.0
"""Pulses per m2 below which a shot's quality flag is 0; Hancock et al. 2019 ask for about 3 for unbiased heights."""

_DIMENSIONS = ("intensity", "number_of_returns", "classification", "withheld")
_FARTHEST_GEOID = 150.0
_NOISE_CLASSES = (7, 18)
_GROUND_CLASS = 2
_FALLBACK_DAY = date(2019, 4, 18)
"""When GEDI began to measure; for files that do not tell their date."""
_NIGHT_SUN, _DAY_SUN = -30.0, 30.0
_NO_DEM = -999_999.0
_FEW = 0.02
"""Share of a COPC's area up to which its footprints are read one by one."""


@dataclass(frozen=True)
class AlsSimulation:
    """What was written: `good` of the `footprints` have quality flag 1; `left_out` positions have no shot; `notes` say why."""

    files: tuple[Path, ...]
    footprints: int
    good: int
    left_out: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.footprints:,} footprints simulated, {self.good:,} of good quality, {self.left_out:,} positions left out"
        return "\n".join([head, *self.notes, "level 4A is not written: there is no measured biomass to fit it with"])


@dataclass(frozen=True)
class _Source:
    """Opened files, all in one CRS: `unit` and `height_unit` in metres."""

    files: tuple[PointFile, ...]
    crs: CRS
    unit: float
    height_unit: float

    def metres(self, file: PointFile) -> tuple[float, float, float, float]:
        xmin, ymin, xmax, ymax = (bound * self.unit for bound in file.bounds)
        return xmin, ymin, xmax, ymax


def simulate_over_als(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    spacing: float = 60.0,
    positions: str | Path | None = None,
    seed: int = 0,
    day: date | None = None,
    beam: str = "BEAM0101",
    night: bool = True,
    weighting: str = "fraction",
    geoid: float = 0.0,
    crs: CRS | str | None = None,
    quiet: bool = True,
) -> AlsSimulation:
    """Write L1B, L2A and ``footprints.gpkg`` (where, what the points say, and why a position was left out) into a folder.

    Memory holds the points under the footprints of the files that are not read to their end, some 20 bytes a point.

    Parameters
    ----------
    files : LAS, LAZ or COPC, tiles of one CRS
    spacing : metres between the footprints of a regular grid; ignored with `positions`
    positions : table or layer of footprint centres, see `fusion3d.simulate.footprint_positions`
    seed : of the noise
    day : of the simulated overpass; None: that of the newest file
    beam : whose power and noise to simulate
    night : without the sun's light, which adds noise
    weighting : of returns, see `fusion3d.simulate.als_footprints`
    geoid : metres that are added to all elevations
    crs : for files that state none
    quiet : no progress bar

    Raises
    ------
    ConfigError, CRSError, InputError
        An option is impossible; files are damaged, in degrees, or in different CRSs; no position has points.
    """
    if weighting not in WEIGHTINGS:
        raise ConfigError(f"--weighting {weighting}: choose among {', '.join(WEIGHTINGS)}")
    beam_codes([beam])
    if seed < 0:
        raise ConfigError(f"--seed {seed} must not be negative")
    if not (math.isfinite(geoid) and abs(geoid) < _FARTHEST_GEOID):
        raise ConfigError(f"--geoid {geoid:g} must be a number of metres between -{_FARTHEST_GEOID:g} and {_FARTHEST_GEOID:g}")
    source = _open(files, crs)
    if positions is None:
        x, y = grid_positions([source.metres(file) for file in source.files], spacing)
    else:
        x, y = (axis * source.unit for axis in read_positions(positions, source.crs))
    simulator = _Simulator(source, x, y, seed, beam.upper(), night, weighting, geoid, _granule(source, day, seed))
    with Progress(console=Console(stderr=True), disable=quiet) as bars:
        bar = bars.add_task("simulate gedi", total=sum(file.count for file in source.files))
        for read in simulator.run():
            bars.advance(bar, read)
    return simulator.write(Path(out))


def _open(files: Sequence[str | Path], crs: CRS | str | None) -> _Source:
    if not files:
        raise ConfigError("no LAS, LAZ or COPC files to simulate footprints over")
    opened = [open_points(path) for path in files]
    systems = [resolve_crs(file.crs, crs, file.path) for file in opened]
    try:
        unit, height_unit = metric_unit(systems[0]), vertical_unit(systems[0])
    except CRSError as error:
        raise CRSError(
            opened[0].path, error.problem, "reproject the points to a CRS in metres first, for instance with PDAL"
        ) from None
    for file, system in zip(opened, systems, strict=True):
        if not same_map_crs(system, systems[0]) or vertical_unit(system) != height_unit:
            problem = f"is in {system.name}, {opened[0].path} in {systems[0].name}"
            raise CRSError(file.path, problem, "reproject the files to one CRS first")
    known = [file for file in opened if file.count]
    if not known:
        raise InputError(opened[0].path, "has no points, nor has any other file", "give files with points")
    # from north to south, so that footprints are complete soon
    known.sort(key=lambda file: (-file.bounds[3], file.bounds[0], file.path))
    return _Source(tuple(known), systems[0], unit, height_unit)


def _granule(source: _Source, day: date | None, seed: int) -> Granule:
    chosen = day or max((file.date for file in source.files if file.date is not None), default=_FALLBACK_DAY)
    return Granule(datetime(chosen.year, chosen.month, chosen.day, tzinfo=UTC), 1 + seed % 99_999, 1, 1)


class _Simulator:
    """Footprints in metres over a source; `run`, then `write`."""

    def __init__(
        self,
        source: _Source,
        x: Float64,
        y: Float64,
        seed: int,
        beam: str,
        night: bool,
        weighting: str,
        geoid: float,
        granule: Granule,
    ) -> None:
        self.source, self.x, self.y, self.seed = source, x, y, seed
        self.beam, self.night, self.weighting, self.geoid, self.granule = beam, night, weighting, geoid, granule
        self.longitude, self.latitude = Transformer.from_crs(map_crs(source.crs), 4326, always_xy=True).transform(
            x / source.unit, y / source.unit
        )
        self.shots: dict[int, Shot] = {}
        self.notes = ["no points"] * len(x)
        self.facts = np.full((len(x), 4), np.nan)
        self.collector = PointCollector(x, y)

    def run(self) -> Iterator[int]:
        """Read every file; yields the number of points read."""
        touching = [self._touching(file) for file in self.source.files]
        left = np.zeros(len(self.x), np.int64)
        for rows in touching:
            left[rows] += 1
        for file, rows in zip(self.source.files, touching, strict=True):
            for points in self._read(file, rows):
                self._collect(points)
                yield len(points)
            left[rows] -= 1
            for row in rows[left[rows] == 0]:
                self._finish(int(row), self.collector.take(int(row)))

    def _touching(self, file: PointFile) -> npt.NDArray[np.int64]:
        xmin, ymin, xmax, ymax = self.source.metres(file)
        dx = np.maximum(0.0, np.maximum(xmin - self.x, self.x - xmax))
        dy = np.maximum(0.0, np.maximum(ymin - self.y, self.y - ymax))
        return np.flatnonzero(dx * dx + dy * dy <= FOOTPRINT_RADIUS**2)

    def _read(self, file: PointFile, rows: npt.NDArray[np.int64]) -> Iterator[Points]:
        names = [name for name in _DIMENSIONS if name in file.dimensions]
        xmin, ymin, xmax, ymax = self.source.metres(file)
        if not len(rows):
            return
        apart = len(rows) * (2 * FOOTPRINT_RADIUS) ** 2 <= _FEW * (xmax - xmin) * (ymax - ymin)
        if not (file.copc and apart and _distinct(self.x[rows], self.y[rows])):
            yield from read_chunks(file, names)
            return
        for row in rows:
            box = (
                self.x[row] - FOOTPRINT_RADIUS,
                self.y[row] - FOOTPRINT_RADIUS,
                self.x[row] + FOOTPRINT_RADIUS,
                self.y[row] + FOOTPRINT_RADIUS,
            )
            yield query_window(file, tuple(edge / self.source.unit for edge in box), names)  # type: ignore[arg-type]

    def _collect(self, points: Points) -> None:
        about = points.attributes
        kept = ~np.isin(about["classification"], _NOISE_CLASSES)
        if "withheld" in about:
            kept &= ~about["withheld"]
        unit = self.source.unit
        fraction = 1.0 / np.maximum(about["number_of_returns"][kept], 1).astype(np.float64)
        self.collector.add(
            points.x[kept] * unit, points.y[kept] * unit, points.z[kept] * self.source.height_unit, fraction,
            about["intensity"][kept], about["classification"][kept] == _GROUND_CLASS,
        )  # fmt: skip

    def _finish(self, row: int, points: PointsUnder) -> None:
        if not len(points):
            return
        covered, pulses, ground = points.covered, points.pulses, points.ground()
        self.facts[row, :3] = covered, pulses, ground
        if covered < MIN_COVERED:
            self.notes[row] = f"points on {100 * covered:.0f} % of it only"
            return
        returns = points.returns(self.weighting)
        if not returns.energy.sum() > 0:
            self.notes[row] = f"no {self.weighting} in its points"
            return
        sparse = pulses < MIN_PULSES
        self.notes[row] = f"{pulses:.1f} pulses per m2: too sparse" if sparse else ""
        if np.isfinite(ground):
            order = np.argsort(returns.elevation, kind="stable")
            share = np.cumsum(returns.energy[order]) / returns.energy.sum()
            self.facts[row, 3] = returns.elevation[order][np.searchsorted(share, 0.98)] - ground
        wave = waveform(returns)
        number = int(shot_number(self.granule.orbit, self.beam, self.granule.granule, row + 1))
        random = generator(self.seed, "gedi over als", row + 1)
        received = receive(Waveform(wave.top + self.geoid, wave.energy), Instrument.of(self.beam, self.night), random)
        self.shots[row] = Shot(
            number=number,
            beam=self.beam,
            seconds=(self.granule.start - EPOCH).total_seconds() + SHOT_INTERVAL * row,
            longitude=float(self.longitude[row]),
            latitude=float(self.latitude[row]),
            received=received,
            heights=relative_heights(received),
            dem=ground + self.geoid if np.isfinite(ground) else _NO_DEM,
            geoid=self.geoid,
            sun_elevation=_NIGHT_SUN if self.night else _DAY_SUN,
            sun_azimuth=180.0,
            trusted=not sparse,
        )

    def write(self, out: Path) -> AlsSimulation:
        """The files; nothing of them is left when one cannot be written."""
        if not self.shots:
            reasons = "; ".join(_tally(self.notes))
            raise InputError(self.source.files[0].path, f"no footprint could be simulated over it ({reasons})",
                             "check the positions and the CRS, or choose a smaller --spacing")  # fmt: skip
        shots = [self.shots[row] for row in sorted(self.shots)]
        written: list[Path] = []
        there = [
            path
            for path in (*(out / self.granule.name(product) for product in ("L1B", "L2A")), out / "footprints.gpkg")
            if path.exists()
        ]
        if there:
            raise InputError(there[0], "exists already", "give another --out, or remove it")
        try:
            for product in ("L1B", "L2A"):
                path = out / self.granule.name(product)
                write_granule(path, product, shots, self.granule)
                written.append(path)
            path = out / "footprints.gpkg"
            columns = self._columns()
            unit = self.source.unit
            write_points(path, columns, self.x / unit, self.y / unit, map_crs(self.source.crs), self.granule.start.date())
            written.append(path)
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        good = sum(shot.quality for shot in shots)
        return AlsSimulation(tuple(written), len(shots), good, len(self.x) - len(shots), tuple(_tally(self.notes)))

    def _columns(self) -> dict[str, object]:
        rows = range(len(self.x))
        shots = [self.shots.get(row) for row in rows]
        return {
            "shot_number": ["" if shot is None else str(shot.number) for shot in shots],
            "shot_id": np.array([0 if shot is None else shot.number for shot in shots], np.int64),
            "quality": np.array([0 if shot is None else shot.quality for shot in shots]),
            "covered": self.facts[:, 0],
            "pulses_per_m2": self.facts[:, 1],
            "als_ground": self.facts[:, 2],
            "als_rh98": self.facts[:, 3],
            "note": self.notes,
        }


def _distinct(x: Float64, y: Float64) -> bool:
    """No two footprints overlap, so that reading each by its own window reads no point twice."""
    if len(x) < 2:
        return True
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(np.column_stack([x, y])).query(np.column_stack([x, y]), k=2, p=np.inf)
    return bool(distance[:, 1].min() > 2 * FOOTPRINT_RADIUS)


def _tally(notes: Sequence[str]) -> list[str]:
    """Reasons with how often they came, the figures in them left out."""
    kinds = {"no points": "without points", "points on": "not fully covered by points", "no ": "without the weights asked for"}
    counts: dict[str, int] = {}
    for note in filter(None, notes):
        kind = next((text for start, text in kinds.items() if note.startswith(start)), "too sparse for good quality")
        counts[kind] = counts.get(kind, 0) + 1
    return [f"{count:,} {kind}" for kind, count in counts.items()]
