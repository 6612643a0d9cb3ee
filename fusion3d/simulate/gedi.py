"""GEDI over a simulated scene: levels 1B, 2A and 4A of a few passes, with the true positions kept apart.

What is seen is the land under the true position; the files state another one (`fusion3d.simulate.footprints`). Level 4A is the
mission's own way to biomass: a linear model of relative heights, fitted over the scene's own good footprints against what a field
crew would note there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from fusion3d.io.gedi_products import BEAMS
from fusion3d.simulate import gedi_biomass as biomass
from fusion3d.simulate.footprint_truth import Footprint, FootprintTruth, look_under, write_truth
from fusion3d.simulate.footprints import Pass, Shots, passes_over, shots_in
from fusion3d.simulate.gedi_files import Granule, Ground, Prediction, Shot, write_granule
from fusion3d.simulate.gedi_heights import FILL, relative_heights
from fusion3d.simulate.keyed import generator, normal, stream
from fusion3d.simulate.model import GEOID, LeafVoxels, Site, Surface, Tile, leaf_share
from fusion3d.simulate.sun import Sun, sun_at
from fusion3d.simulate.waveform import Instrument, Waveform, empty_waveform, receive, waveform

L4A_SENSITIVITY = 0.95
"""Below it L4A's quality flag is 0 (L4A user guide, version 2; outside of the tropics)."""
FIELD_ERROR = 0.15
"""Relative standard error of the biomass that a crew notes in a footprint."""
STRATA = {1: "ENT_Eu", 4: "DBT_Eu", 6: "GSW_Eu"}
_MAX_WATER, _MAX_URBAN = 10.0, 50.0
_DEGRADED = 10
"""Degrade flag: a tens digit tells of bad pointing."""
_DEM_ERROR = 1.0
_DEM_CANOPY = 0.4
"""An elevation model of X-band radar lies about this share of the canopy's height above the ground."""
_LEAF_OFF = 0.5


@dataclass(frozen=True)
class _Seen:
    """A simulated shot: what the files say of it and what is so."""

    orbit: int
    shot: Shot
    truth: FootprintTruth


class GediWriter:
    """Writes ``gedi/GEDI01_B_*.h5``, ``GEDI02_A_*.h5`` and ``GEDI04_A_*.h5``, one each a pass, and ``truth/gedi_positions.gpkg``.

    Parameters
    ----------
    site : the scene
    folder : of the scene
    passes : how many times GEDI flies over

    Raises
    ------
    ConfigError
        The number of passes is not positive.
    """

    margin = 20.0
    """Metres that a tile needs around its core: the radius of a footprint and the cells that it cuts."""

    def __init__(self, site: Site, folder: str | Path, *, passes: int = 4) -> None:
        self.site = site
        self.folder = Path(folder)
        self.passes = passes_over(site, passes)
        self._seen: list[_Seen] = []
        self._to_degrees = Transformer.from_crs(site.crs, 4326, always_xy=True)

    def __enter__(self) -> Self:
        return self

    def add(self, tile: Tile) -> None:
        """Simulate the shots whose light falls into the tile's core."""
        for one in self.passes:
            shots = shots_in(self.site, one, tile.core)
            if len(shots):
                surface, leaves = tile.surface(1.0, self.margin), tile.leaf_voxels(one.day_of_year, self.margin)
                self._seen.extend(self._see(tile, one, shots, row, surface, leaves) for row in range(len(shots)))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        seen, self._seen = sorted(self._seen, key=lambda each: each.shot.number), []
        if kind is not None:
            return
        written: list[Path] = []
        try:
            for path in self._write(seen):
                written.append(path)
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise

    def _write(self, seen: list[_Seen]) -> Iterable[Path]:
        model = self._calibrate(seen)
        for one in self.passes:
            shots = [each.shot for each in seen if each.orbit == one.orbit]
            if not shots:
                continue
            granule = Granule(one.start, one.orbit, one.granule, one.track)
            predictions = _predictions(model, shots)
            for product, rows in (("L1B", shots), ("L2A", shots), ("L4A", predictions)):
                path = self.folder / "gedi" / granule.name(product)
                write_granule(path, product, rows, granule, _model_table(model) if product == "L4A" else None)
                yield path
        path = self.folder / "truth" / "gedi_positions.gpkg"
        write_truth(path, [each.truth for each in seen], self.site.crs, self.site.day(1))
        yield path

    def _see(self, tile: Tile, one: Pass, shots: Shots, row: int, surface: Surface, leaves: LeafVoxels) -> _Seen:
        number = int(shots.number[row])
        beam = BEAMS[int(shots.beam[row])]
        under = look_under(tile, surface, leaves, float(shots.x[row]), float(shots.y[row]))
        wave = empty_waveform(under.ground) if shots.cloudy[row] else waveform(under.returns)
        random = generator(self.site.seed, "gedi shot", number)
        wave = Waveform(wave.top + GEOID, wave.energy)
        received = receive(wave, Instrument.of(beam, one.night, one.transmission), random)
        longitude, latitude = self._to_degrees.transform(shots.x_stated[row], shots.y_stated[row])
        sun = self._sun(one)
        shot = Shot(
            number=number,
            beam=beam,
            seconds=float(shots.seconds[row]),
            longitude=float(longitude),
            latitude=float(latitude),
            received=received,
            heights=relative_heights(received),
            dem=under.ground + GEOID + _DEM_CANOPY * under.mean_canopy + _DEM_ERROR * float(random.normal()),
            geoid=GEOID,
            sun_elevation=sun.elevation,
            sun_azimuth=sun.azimuth,
            degrade=_DEGRADED if shots.degraded[row] else 0,
            ground=_land_cover(under, one, random),
        )
        truth = under.truth(
            number, beam, one.start, (float(shots.x[row]), float(shots.y[row])),
            (float(shots.x_stated[row]), float(shots.y_stated[row])), shot.quality, bool(shots.cloudy[row]),
        )  # fmt: skip
        return _Seen(one.orbit, shot, truth)

    def _sun(self, one: Pass) -> Sun:
        start = one.start
        return sun_at(one.day_of_year, start.hour + start.minute / 60 + start.second / 3600)

    def _calibrate(self, seen: list[_Seen]) -> biomass.BiomassModel | None:
        """The model of the scene: good shots of sound orbits, buildings left out, as no crew measures trees in them."""
        good = [each for each in seen if _fit_for_biomass(each.shot) and not each.shot.degrade and each.truth.building < 0.05]
        if not good:
            return None
        numbers = np.array([each.shot.number for each in good], np.uint64)
        truth = np.array([each.truth.agb for each in good])
        observed = truth * np.maximum(0.0, 1.0 + FIELD_ERROR * normal(stream(self.site.seed, "gedi field error"), numbers))
        return biomass.fit(np.stack([each.shot.heights.rh for each in good]), observed)


def _land_cover(under: Footprint, one: Pass, random: np.random.Generator) -> Ground:
    """Ancillary land cover of a shot, as from images of 30 m: with an error."""
    trees = float(np.clip(100 * under.canopy_cover + 8 * random.normal(), 0, 100)) if under.canopy_cover > 0.02 else 0.0
    pft = 6 if trees < 10 else 1 if under.evergreen >= 0.5 else 4
    bare = bool(leaf_share(one.day_of_year, False) < _LEAF_OFF)
    return Ground(round(trees), round(100 * under.building), round(100 * under.water), pft, bare and pft != 1)


def _fit_for_biomass(shot: Shot) -> bool:
    ground = shot.ground
    return (
        shot.quality == 1
        and shot.heights.sensitivity > L4A_SENSITIVITY
        and ground is not None
        and not ground.leaf_off
        and ground.water < _MAX_WATER
        and ground.urban < _MAX_URBAN
    )


def _predictions(model: biomass.BiomassModel | None, shots: list[Shot]) -> list[Prediction]:
    return [_prediction(model, shot) for shot in shots]


def _prediction(model: biomass.BiomassModel | None, shot: Shot) -> Prediction:
    stratum = STRATA[shot.ground.pft] if shot.ground is not None else ""
    if model is None or not shot.heights.detected:
        return Prediction(shot, FILL, FILL, FILL, FILL, FILL, FILL, (FILL, FILL), stratum, 0, 0, 255, 255)
    said = biomass.predict(model, shot.heights.rh[None])
    density = float(said.density[0])
    return Prediction(
        shot=shot,
        density=density,
        error=float(said.error[0]),
        lower=float(said.lower[0]),
        upper=float(said.upper[0]),
        root=float(said.root[0]),
        root_error=float(said.root_error[0]),
        heights=(float(said.heights[0, 0]), float(said.heights[0, 1])),
        stratum=stratum,
        run=1,
        quality=int(_fit_for_biomass(shot)),
        outside_heights=2 if (said.heights[0] > model.largest).any() else 0,
        outside_response=2 if density > model.largest_response else 0,
    )


def _model_table(model: biomass.BiomassModel | None) -> npt.NDArray[np.void] | None:
    """`ANCILLARY/model_data`: the same model for every stratum."""
    if model is None:
        return None
    layout = [
        ("predict_stratum", "S16"), ("model_name", "S32"), ("x_transform", "S8"), ("y_transform", "S8"),
        ("bias_correction_name", "S16"), ("rh_index", "u1", 8), ("par", "f8", 5), ("vcov", "f8", (5, 5)), ("rse", "f4"),
        ("dof", "u4"), ("predictor_max_value", "f4", 8), ("response_max_value", "f4"),
        ("bias_correction_value", "f4"), ("npar", "u1"),
    ]  # fmt: skip
    table = np.zeros(len(STRATA), layout)
    count = len(model.coefficients)
    for row, stratum in zip(table, STRATA.values(), strict=True):
        row["predict_stratum"], row["model_name"], row["bias_correction_name"] = stratum.encode(), b"simulated_scene", b"Snowdon"
        row["x_transform"] = row["y_transform"] = b"sqrt"
        row["rh_index"][: len(biomass.RH_INDICES)] = biomass.RH_INDICES
        row["par"][:count], row["vcov"][:count, :count] = model.coefficients, model.covariance
        row["rse"], row["dof"], row["npar"] = model.residual_error, model.freedom, count
        row["predictor_max_value"][: len(model.largest)] = model.largest
        row["response_max_value"], row["bias_correction_value"] = model.largest_response, model.ratio
    return table
