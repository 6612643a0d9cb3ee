"""What people noted on the ground of a scene: field plots, a weak land-cover map, an open map; each with its errors."""

from __future__ import annotations

from dataclasses import fields
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusion3d.errors import ConfigError
from fusion3d.simulate.landscape import Landscape
from fusion3d.simulate.model import Cover, Site, Tile
from fusion3d.simulate.open_map import mapped_features
from fusion3d.simulate.plots import MARGIN, RADIUS, PlotRecord, plot_records, plot_sites
from fusion3d.simulate.raster_set import MapLayer, RasterSet, make_folder
from fusion3d.simulate.vector_files import PointsFile, write_geojson
from fusion3d.simulate.weak_cover import CELL, weak_majority

WEAK = MapLayer("land_cover_weak", CELL, "uint8", "", "most frequent cover of the ground, wrong in one cell of five; "
                + "; ".join(f"{cover.value} {cover.name.lower()}" for cover in Cover))  # fmt: skip


class LabelWriter:
    """Writes ``labels/plots.gpkg``, ``labels/land_cover_weak.tif``, ``labels/osm.geojson`` and ``truth/plots.gpkg``.

    Plots are circles of 15 m. A crew errs by 2 % of a diameter and by 5 % of a height, misses 2 % of the trees, takes the
    species' mean wood density, and notes a position that is off by 1.5 m (1 sigma on each axis). The truth has the same
    `plot_id`.

    Parameters
    ----------
    site : the scene
    folder : of the scene
    plots_per_km2 : how many plots

    Raises
    ------
    ConfigError
        The number of plots is negative.
    """

    margin = MARGIN

    def __init__(self, site: Site, folder: str | Path, *, plots_per_km2: float = 60) -> None:
        if plots_per_km2 < 0:
            raise ConfigError(f"--plots {plots_per_km2:g} must not be negative")
        self.site = site
        self.folder = Path(folder) / "labels"
        self._land = Landscape(site)
        self._sites = plot_sites(self._land, plots_per_km2)
        self._maps = RasterSet(site, self.folder)
        self._records: dict[int, tuple[PlotRecord, PlotRecord]] = {}
        self._truth = Path(folder) / "truth"

    def __enter__(self) -> Self:
        make_folder(self.folder)
        make_folder(self._truth)
        self._maps.open(WEAK)
        return self

    def add(self, tile: Tile) -> None:
        """Measure the plots whose centre lies in the tile's core, and map its cover."""
        self._maps.put(WEAK.name, tile.core, weak_majority(tile))
        for index in np.flatnonzero(tile.core.contains(self._sites.x, self._sites.y)):
            number = int(self._sites.number[index])
            self._records[number] = plot_records(tile, float(self._sites.x[index]), float(self._sites.y[index]), number)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._maps.discard()
            return
        done: list[Path] = []
        try:
            done.append(self._write_plots(self.folder / "plots.gpkg", self._sites.x_stated, self._sites.y_stated, 0))
            done.append(self._write_plots(self._truth / "plots.gpkg", self._sites.x, self._sites.y, 1))
            done.append(write_geojson(self.folder / "osm.geojson", mapped_features(self._land), self.site.crs))
            done += self._maps.close()
        except BaseException:
            self._maps.discard()
            for path in done:
                path.unlink(missing_ok=True)
            raise

    def _write_plots(self, path: Path, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], which: int) -> Path:
        """A GeoPackage of what was noted (0) or of what is so (1)."""
        visited = np.isin(self._sites.number, list(self._records))
        records = [self._records[int(number)][which] for number in self._sites.number[visited]]
        columns: dict[str, npt.NDArray[Any]] = {
            "plot_id": self._sites.number[visited],
            "date": _dates([self.site.day(int(day)) for day in self._sites.day[visited]]),
            "radius": np.full(len(records), RADIUS),
        }
        for each in fields(PlotRecord):
            kind = object if each.name in ("species", "land_cover") else np.float64
            columns[each.name] = np.array([getattr(record, each.name) for record in records], kind)
        file = PointsFile(path, self.site.crs, self.site.day(1))
        try:
            file.append(x[visited], y[visited], columns)
            return file.close()
        finally:
            file.discard()


def _dates(days: list[date]) -> npt.NDArray[np.datetime64]:
    return np.array(days, "datetime64[D]")
