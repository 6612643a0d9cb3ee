"""A small column store on disk, written in the real format: forest and fields that four rasters, ALS and GEDI see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pyproj import CRS

from fusion3d.grid import Grid, Window
from fusion3d.io.bands import Band
from fusion3d.io.gedi import FootprintTable
from fusion3d.store import Store
from fusion3d.store.layout import AlsLayout, GediLayout, PointLattice, RasterLayout, StoreAttributes, block_name
from fusion3d.store.writer import StoreWriter

ROWS, COLS, BLOCK = 40, 48, 16
X0, Y0 = 652_000.0, 6_862_400.0
NO_POINTS = (slice(0, 4), slice(0, 4))
"""Columns (rows, cols) without ALS."""
CLOUDED = (slice(20, 24), slice(20, 24))
"""Columns clouded in s2 on the first date."""

DATES = ("2021-01-15", "2021-04-15", "2021-07-15", "2021-10-15", None)


def scene_grid(rows: int = ROWS, cols: int = COLS) -> Grid:
    return Grid(CRS.from_epsg(2154).to_wkt(), X0, Y0, 10.0, 0.5, BLOCK, rows, cols)


def canopy(rows: int = ROWS, cols: int = COLS) -> np.ndarray:
    """[rows, cols] canopy height, metres: smooth, 0 to 30."""
    row, col = np.mgrid[:rows, :cols]
    return 15 + 15 * np.sin(row / 3.1 + 0.2 * col) * np.cos(col / 4.7)


def write_scene(path: Path, sensors: tuple[str, ...] = ("als", "gedi", "ortho", "s2"), rows: int = ROWS, cols: int = COLS) -> str:
    """Write the store and give its path back; there are also the sensors "coarse" (20 m pixels) and "far" (sees nothing)."""
    grid, rng = scene_grid(rows, cols), np.random.default_rng(7)
    writer = StoreWriter(path)
    rasters = {name: layout for name, layout in _layouts(rows, cols).items() if name in sensors}
    als = _write_points(writer, grid, rng) if "als" in sensors else None
    for name, layout in rasters.items():
        _write_raster(writer, name, layout, rows, cols, rng)
    gedi = None
    if "gedi" in sensors:
        table = footprints(rows, cols)
        writer.write_footprints(table)
        gedi = GediLayout(("L2A",), (), len(table))
    writer.write_attributes(StoreAttributes(grid, als, rasters, gedi))
    return str(path)


def open_scene(path: Path, **options: object) -> Store:
    return Store.open(write_scene(path, **options))  # type: ignore[arg-type]


def _write_points(writer: StoreWriter, grid: Grid, rng: np.random.Generator) -> AlsLayout:
    blocks = []
    for block_row, block_col in grid.blocks_in(grid.window):
        window = grid.block_window(block_row, block_col)
        part = slice(window.row, window.row_stop), slice(window.col, window.col_stop)
        counts = np.full((grid.rows, grid.cols), 12)
        counts[NO_POINTS] = 0
        local = counts[part].ravel()
        column = np.repeat(np.arange(window.size), local)
        number = len(column)
        top = canopy(grid.rows, grid.cols)[part].ravel()[column]
        height = np.clip(top * rng.random(number), 0, None).astype(np.float32)
        east, north = rng.random(number) * 10, rng.random(number) * 10
        col, row = column % window.cols + window.col, column // window.cols + window.row
        stored = {
            "x": np.round((grid.x0 + col * 10 + east) * 100).astype(np.int64) - round(grid.x0 * 100),
            "y": np.round((grid.y0 - row * 10 - north) * 100).astype(np.int64) - round(grid.y0 * 100),
            "z": np.round(height * 100).astype(np.int64),
        }
        arrays = {name: values.astype(np.int32) for name, values in stored.items()}
        kind = np.where(height < 0.5, 2, 5).astype(np.uint8)
        kind[::24], kind[1::24] = 7, 18
        height[2::24] = np.nan
        arrays |= {
            "height": height,
            "classification": kind,
            "withheld": (np.arange(number) % 24 == 3).astype(np.uint8),
            "intensity": (200 + 40 * top).astype(np.uint16),
            "return_number": np.ones(number, np.uint8),
            "number_of_returns": np.full(number, 2, np.uint8),
            "scan_angle": np.full(number, -15.0, np.float32),
            "offsets": np.concatenate([[0], np.cumsum(local)]),
        }
        anchor = [round(grid.x0 * 100), round(grid.y0 * 100), 0]
        writer.write_block(
            (block_row, block_col), arrays, {"anchor": anchor, "window": [window.row, window.col, window.rows, window.cols]}
        )
        blocks.append(block_name(block_row, block_col))
    names = ("classification", "withheld", "intensity", "return_number", "number_of_returns", "scan_angle")
    return AlsLayout(
        PointLattice((0.0, 0.0, 0.0), (0.01, 0.01, 0.01)), names, {}, tuple(blocks), 12 * grid.rows * grid.cols, {}, 1000.0
    )


def _layouts(rows: int, cols: int) -> dict[str, RasterLayout]:
    rgb = (Band("R", 660.0, 60.0), Band("G", 560.0, 60.0), Band("B", 480.0, 60.0))
    s2 = (*rgb, Band("N", 830.0, 100.0))

    def layout(
        bands: tuple[Band, ...], dates: tuple[str | None, ...], pixel: float, fine: int, coarse: int, row: int, col: int
    ) -> RasterLayout:
        height = rows * fine if fine else -(-(rows - row) // coarse)
        width = cols * fine if fine else -(-(cols - col) // coarse)
        number = len(bands)
        return RasterLayout(
            bands,
            dates,
            "reflectance",
            "float32",
            pixel,
            fine,
            coarse,
            row,
            col,
            height,
            width,
            "mean",
            (15.0,) * number,
            (10.0,) * number,
            1.0,
        )

    return {
        "ortho": layout(rgb, (None,), 2.5, 4, 0, 0, 0),
        "s2": layout(s2, DATES, 10.0, 1, 0, 0, 0),
        "coarse": layout((Band("T", 11_000.0),), ("2021-07-15",), 20.0, 0, 2, -1, -1),
        "far": layout(rgb, (None,), 10.0, 1, 0, 0, 0),
    }


def _write_raster(writer: StoreWriter, name: str, layout: RasterLayout, rows: int, cols: int, rng: np.random.Generator) -> None:
    writer.create_raster(name, layout)
    if name == "far":
        return
    truth = canopy(rows, cols)
    pixels = Window(0, 0, layout.height, layout.width)
    if layout.pixels_per_column:
        field = truth.repeat(layout.pixels_per_column, 0).repeat(layout.pixels_per_column, 1)
    else:
        field = np.add.outer(np.arange(layout.height) * 10.0, np.arange(layout.width) * 1.0)
    for step in range(len(layout.dates)):
        values = np.stack(
            [
                field * (1 + 0.1 * band) + step + rng.normal(0, 1, field.shape) * (name != "coarse")
                for band in range(len(layout.bands))
            ]
        )
        valid = np.ones(values.shape, bool)
        if name == "s2" and step == 0:
            valid[(slice(None), *CLOUDED)] = False
        writer.write_raster(name, step, pixels, values.astype(np.float32), valid)


def footprints(rows: int = ROWS, cols: int = COLS) -> FootprintTable:
    """Shots every 30 m on two tracks, centre in the middle of a column; one is degraded."""
    where = np.array([(row, col) for col in (10, 30) if col < cols for row in range(1, rows, 3)])
    number = len(where)
    height = canopy(rows, cols)[where[:, 0], where[:, 1]]
    samples = 20
    profile = (np.linspace(0, 1, samples)[None] * height[:, None]).astype(np.float32)
    degrade = np.zeros(number, np.int16)
    degrade[0] = 1
    return FootprintTable(
        product="L2A",
        release=2,
        shot_number=np.arange(number, dtype=np.uint64),
        beam=np.full(number, 5, np.uint8),
        power_beam=np.ones(number, bool),
        x=X0 + (where[:, 1] + 0.5) * 10,
        y=Y0 - (where[:, 0] + 0.5) * 10,
        longitude=np.zeros(number),
        latitude=np.zeros(number),
        time=np.full(number, 18_800.25),
        ground_elevation=np.zeros(number, np.float32),
        sensitivity=np.full(number, 0.97, np.float32),
        solar_elevation=np.full(number, 45.0, np.float32),
        quality_flag=np.ones(number, np.int8),
        degrade_flag=degrade,
        heights=profile.ravel(),
        energy=np.full(number * samples, 1 / samples, np.float32),
        row_splits=np.arange(0, number * samples + 1, samples),
        attributes={},
    )
