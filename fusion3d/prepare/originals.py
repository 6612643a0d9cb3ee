"""The sources that a store was made from, found again: only files that have not changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from fusion3d import __version__
from fusion3d.errors import Fusion3DError, InputError, StoreError
from fusion3d.grid import Window
from fusion3d.io.binary_file import is_url
from fusion3d.io.pixels import RasterSource
from fusion3d.prepare.rasters import layout_of, open_source
from fusion3d.prepare.run import raster_files
from fusion3d.prepare.scene import AlsSource, GediInput, RasterInput, Scene, configuration_hash, describe_file
from fusion3d.prepare.tiles import Tile, scan_tile, tile_bounds
from fusion3d.store.layout import RasterLayout, StoreAttributes

_REMEDY = "bring back the file as it was, or prepare the scene again"


class Originals:
    """Sources of a store, by its own attributes.

    Parameters
    ----------
    path : of the store, for messages
    attributes : its root attributes: `configuration` names the files, `sources` what they were like

    Raises
    ------
    StoreError
        The attributes hold no configuration that this version understands.
    """

    def __init__(self, path: str, attributes: StoreAttributes) -> None:
        self.attributes = attributes
        self.scene = _scene(path, attributes.configuration)
        self._recorded = {(item["name"], item["size"], item["mtime_ns"]) for item in attributes.sources}
        self._names = [item["name"] for item in attributes.sources]

    def same_version(self) -> bool:
        """Whether this version of fusion3d made the store, with these paths of the sources."""
        paths = self._paths()
        if [Path(path).name for path in paths] != self._names:
            return False
        files = [
            {"path": path, "size": item["size"], "mtime_ns": item["mtime_ns"]}
            for path, item in zip(paths, self.attributes.sources, strict=True)
        ]
        return configuration_hash(self.scene, files, __version__) == self.attributes.configuration_hash

    def _paths(self) -> list[str]:
        als = self.scene.als.files if self.scene.als else ()
        gedi = self.scene.gedi.files if self.scene.gedi else ()
        try:
            return [*als, *gedi, *raster_files(self.scene)]
        except Fusion3DError:
            return []

    def tiles_near(self, window: Window) -> dict[int, Tile]:
        """Tiles that may hold points of a window or ground beside it, by their place among the files: their order in `prepare`.

        Raises
        ------
        Fusion3DError
            One of them is gone or has changed. In a store that does not say where its tiles lie, that may be any tile.
        """
        grid, source = self.attributes.grid, self.scene.als
        assert source is not None
        reach = source.ground_buffer / grid.unit + grid.cell
        xmin, ymin, xmax, ymax = grid.bounds(window)

        def near(bounds: Sequence[float]) -> bool:
            west, south, east, north = bounds
            return west <= xmax + reach and east >= xmin - reach and south <= ymax + reach and north >= ymin - reach

        tiles = {}
        for number, path in enumerate(source.files):
            bounds = self._bounds.get(number)
            if self._set_aside(path) or (bounds is not None and not near(bounds)):
                continue
            tile = self._tile(path)
            if tile.file.count and near(tile_bounds(tile, grid.pyproj_crs)):
                tiles[number] = tile
        return tiles

    @cached_property
    def _bounds(self) -> dict[int, Sequence[float]]:
        """Bounds of the tiles that the store has on record, by their place among the files."""
        files = self.scene.als.files if self.scene.als else ()
        paired = enumerate(zip(files, self.attributes.sources, strict=False))
        return {n: item["bounds"] for n, (path, item) in paired if item["name"] == Path(path).name and "bounds" in item}

    @lru_cache(maxsize=4096)  # noqa: B019 - lives as long as one repair
    def _tile(self, path: str) -> Tile:
        assert self.scene.als is not None
        self.check(path)
        return scan_tile(path, self.scene.als, self.scene.crs)

    def _set_aside(self, path: str) -> bool:
        """`prepare` did not use this tile; files of one name are told apart by the reason, which begins with the path."""
        name = Path(path).name
        reasons = [item["reason"] for item in self.attributes.set_aside if item["path"] == name]
        return bool(reasons) and (self._names.count(name) == 1 or any(reason.startswith(path) for reason in reasons))

    def check(self, path: str) -> None:
        """`StoreError` when a file is gone or is not what it was."""
        try:
            found = describe_file(path)
        except InputError as error:
            where = "" if is_url(path) or Path(path).is_absolute() else " (seen from here; run this where `prepare` was run)"
            raise StoreError(path, f"{error.problem.lower()}{where}", _REMEDY) from None
        if (Path(path).name, found["size"], found["mtime_ns"]) not in self._recorded:
            raise StoreError(path, "has changed since the store was made (its size or its date)", _REMEDY)

    def gedi(self) -> list[str]:
        """The GEDI files, all unchanged."""
        files = list(self.scene.gedi.files) if self.scene.gedi else []
        for path in files:
            self.check(path)
        return files

    def raster(self, name: str) -> RasterSource:
        """The source of a raster sensor, all of its files unchanged.

        Raises
        ------
        Fusion3DError
            A file is gone or has changed, or the sensor is read by a reader of the user's own.
        """
        item, layout, grid = self.scene.rasters[name], self.attributes.rasters[name], self.attributes.grid
        if item.reader is not None:
            # A store may come from anyone: no code is run because a store names it.
            raise StoreError(
                name, f"is read by a program of your own ({item.reader}), which a repair does not run", "prepare the scene again"
            )
        for path in raster_files(replace(self.scene, rasters={name: item})):
            self.check(path)
        source = open_source(name, item, self.scene.crs or grid.crs)
        if not _same_pixels(layout_of(name, item, source, grid), layout):
            raise StoreError(name, "the files give other bands, dates or pixels than the store's", _REMEDY)
        return source


def _same_pixels(one: RasterLayout, other: RasterLayout) -> bool:
    """Two layouts are the same but for their statistics."""
    return replace(one, mean=(), std=(), valid_fraction=0.0) == replace(other, mean=(), std=(), valid_fraction=0.0)


def _scene(path: str, configuration: Mapping[str, Any]) -> Scene:
    plain = _tuples(configuration)
    try:
        als, gedi = plain.get("als"), plain.get("gedi")
        return Scene(
            **{
                **plain,
                "als": als and AlsSource(**_tuples(als)),
                "gedi": gedi and GediInput(**_tuples(gedi)),
                "rasters": {name: RasterInput(**_tuples(item)) for name, item in plain.get("rasters", {}).items()},
            }
        )
    except (TypeError, AttributeError, Fusion3DError):
        raise StoreError(
            path, "does not say what it was made from in a way that this version reads", "prepare the scene again"
        ) from None


def _tuples(items: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in items.items()}
