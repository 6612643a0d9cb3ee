"""GEDI's estimates of biomass as plots: footprints of product L4A, from its files or from a column store.

A footprint is a disc of 25 m that weighs the ground by a Gaussian: four of its sigmas are the disc's diameter, and not knowing
where it fell blurs it further, as `fusion3d.ops.footprint_pool` has it. Its value is `agbd`, with the standard error `agbd_se`
(Duncanson et al. 2022, Remote Sensing of Environment 270). Shots that the quality flags reject are left out: `l4_quality_flag`
alone keeps shots of degraded orbits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyproj import CRS, Transformer

from fusion3d.errors import ConfigError, InputError
from fusion3d.evaluation.discs import discs
from fusion3d.evaluation.footprint_weights import Gaussian
from fusion3d.evaluation.label_units import agreed_unit
from fusion3d.evaluation.plots import PlotTable
from fusion3d.grid import map_crs
from fusion3d.io.gedi import open_gedi, read_footprints, stated_unit
from fusion3d.io.gedi_hdf5 import HDF5_ENDINGS
from fusion3d.io.gedi_products import FootprintFilter, FootprintTable
from fusion3d.ops.footprint_pool import FOOTPRINT_SIGMA
from fusion3d.store import Store

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Bounds = tuple[float, float, float, float]

TARGET, UNIT = "agbd", "Mg/ha"
_ERROR, _FLAG, _PRODUCT = "agbd_se", "l4_quality_flag", "L4A"


def read_l4a(
    files: Sequence[str | Path], target: str, crs: CRS, bounds: Bounds, *, unit: str | None = None, sensitivity: float = 0.9,
    geolocation: float = 10.0,
) -> PlotTable:  # fmt: skip
    """Footprints of GEDI L4A files that pass the quality filter.

    Parameters
    ----------
    files : paths; of a folder, its files of L4A
    target : agbd
    crs, bounds : of the result; xmin, ymin, xmax, ymax of the place that is wanted, edges included
    unit : Mg/ha, or left away
    sensitivity : least beam sensitivity, 0 to 1; 0 asks for none
    geolocation : standard deviation of the footprints' position, metres

    Raises
    ------
    InputError
        A file cannot be read, is no L4A, states another unit, or no footprint is left.
    ConfigError
        An option is out of range, or the target is not agbd.
    """
    _check(target, sensitivity, geolocation)
    notes: list[str] = []
    chosen = _l4a_files(files, notes)
    tables, shots = [], 0
    for path in chosen:
        stated = stated_unit(path, TARGET)
        agreed_unit(path, stated, UNIT)
        agreed_unit(path, stated or UNIT, unit)
        about = open_gedi(path)
        shots += about.shot_count - about.unlocated
        if about.unlocated:
            notes.append(f"{_count(about.unlocated)} left out: without a location in {path.name}")
        # those that the CRS has no place for are not in the table
        tables.append(read_footprints(path, crs, bounds))
    table = FootprintTable.concatenate(tables)
    outside = shots - len(table)
    first = np.unique(table.shot_number, return_index=True)[1]
    if len(first) < len(table):
        notes.append(f"{_count(len(table) - len(first))} left out: in several files")
    name = str(chosen[0]) if len(chosen) == 1 else f"{chosen[0]} and {len(chosen) - 1} more"
    return _plots(name, table.select(np.sort(first)), crs, outside, sensitivity, geolocation, notes)


def read_store_l4a(
    path: str | Path, target: str, crs: CRS, bounds: Bounds, *, unit: str | None = None, sensitivity: float = 0.9,
    geolocation: float = 10.0,
) -> PlotTable:  # fmt: skip
    """The same from a column store that was prepared with L4A; other arguments as for `read_l4a`.

    Raises
    ------
    StoreError
        The store cannot be read or holds no GEDI.
    InputError, ConfigError
        As for `read_l4a`.
    """
    _check(target, sensitivity, geolocation)
    agreed_unit(path, UNIT, unit)
    store = Store.open(path)
    anything = FootprintFilter(quality=False, degrade=False, min_sensitivity=0.0)
    table = store.footprints(store.grid.window, anything)
    if TARGET not in table.attributes:
        raise InputError(
            path, f"its footprints are of {table.product}, without {TARGET}", "prepare the store with GEDI04_A files"
        )
    to_crs = Transformer.from_crs(map_crs(store.grid.pyproj_crs), map_crs(crs), always_xy=True)
    x, y = (np.asarray(axis, np.float64) for axis in to_crs.transform(table.x, table.y))
    west, south, east, north = bounds
    inside = (x >= west) & (x <= east) & (y >= south) & (y <= north)
    placed = replace(table, x=x, y=y).select(inside)
    return _plots(str(path), placed, crs, int((~inside).sum()), sensitivity, geolocation, [])


def l4a_in(folder: Path) -> list[Path]:
    """GEDI files of a folder, of any product, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in HDF5_ENDINGS)


def _l4a_files(files: Sequence[str | Path], notes: list[str]) -> list[Path]:
    chosen, others = [], 0
    for path in map(Path, files):
        if not path.is_dir():
            product = open_gedi(path).product
            if product != _PRODUCT:
                raise InputError(path, f"GEDI {product} holds no estimates of biomass", "give files of GEDI04_A")
            chosen.append(path)
            continue
        products = {each: open_gedi(each).product for each in l4a_in(path)}
        found = [each for each, product in products.items() if product == _PRODUCT]
        if not found:
            raise InputError(
                path, f"holds no file of GEDI L4A among {len(products)} of HDF5", "give GEDI04_A files or their folder"
            )
        others += len(products) - len(found)
        chosen += found
    if others:
        notes.append(f"{others} file{'s' if others > 1 else ''} of other GEDI products not used")
    return list(dict.fromkeys(chosen))


def _check(target: str, sensitivity: float, geolocation: float) -> None:
    if target != TARGET:
        raise ConfigError(f"--target {target!r}: GEDI L4A estimates {TARGET}, above-ground biomass density")
    if not 0 <= sensitivity <= 1:
        raise ConfigError(f"--sensitivity {sensitivity:g} must lie between 0 and 1, such as 0.95")
    if not (math.isfinite(geolocation) and geolocation >= 0):
        raise ConfigError(f"--geolocation {geolocation:g} must be a number of metres, 0 or more")


def _plots(
    path: str, table: FootprintTable, crs: CRS, outside: int, sensitivity: float, geolocation: float, notes: list[str]
) -> PlotTable:
    """Footprints in their final CRS as plots; `notes` so far are added to."""
    values = table.attributes[TARGET].astype(np.float64)
    flag = table.attributes.get(_FLAG, np.full(len(table), np.nan))
    reasons = {
        f"{TARGET} is missing (-9999)": ~np.isfinite(values),
        f"{TARGET} is negative": values < 0,
        f"{_FLAG} is not 1": flag != 1,
        "degrade_flag is not 0": ~FootprintFilter(quality=False, min_sensitivity=0.0).keep(table),
        f"sensitivity below {sensitivity:g}": ~FootprintFilter(False, False, sensitivity).keep(table),
    }
    kept = np.ones(len(table), np.bool_)
    if outside:
        notes.append(f"{_count(outside)} left out: outside the map")
    for problem, which in reasons.items():
        if (kept & which).any():
            notes.append(f"{_count(int((kept & which).sum()))} left out: {problem}")
        kept &= ~which
    if not kept.any():
        raise InputError(path, f"holds no footprint that can be used ({'; '.join(notes)})",
                         "give files of the map's place, or a lower --sensitivity")  # fmt: skip
    used = table.select(kept)
    # four sigmas across: the radius is two
    radius = 2 * FOOTPRINT_SIGMA
    sigma = math.hypot(FOOTPRINT_SIGMA, geolocation)
    notes.append(
        f"{_count(len(used))} of GEDI L4A: features are Gaussian means of sigma {sigma:.3g} m "
        f"(footprint {FOOTPRINT_SIGMA:g} m, geolocation {geolocation:g} m)"
    )
    noise = _standard_errors(used, notes)
    return PlotTable(
        path=path,
        target=TARGET,
        unit=UNIT,
        geometry=discs(used.x, used.y, np.full(len(used), radius), crs),
        values=values[kept],
        ids=tuple(map(str, used.shot_number.tolist())),
        crs=crs,
        notes=tuple(notes),
        noise=noise,
        gaussian=Gaussian(sigma, radius),
    )


def _standard_errors(table: FootprintTable, notes: list[str]) -> Float64 | None:
    """[P] positive, the median where there is none; None where there is none at all."""
    found = table.attributes.get(_ERROR, np.full(len(table), np.nan, np.float32)).astype(np.float64)
    known = np.isfinite(found) & (found > 0)
    if not known.any():
        notes.append(f"no {_ERROR}: all footprints weigh the same")
        return None
    if not known.all():
        notes.append(f"{_ERROR} is missing for {_count(int((~known).sum()))}: taken as the median of the others")
    return np.where(known, found, np.median(found[known]))


def _count(number: int) -> str:
    return f"{number} footprint" if number == 1 else f"{number} footprints"
