"""A 3D picture of one square of points: coloured by height, and by the embedding of their column."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fusion3d.errors import StoreError
from fusion3d.grid import Window
from fusion3d.mapping.picture import scale_bar
from fusion3d.report import open3d_view
from fusion3d.report.drawing import INK, Picture, render, sheet, style
from fusion3d.report.embedding import map_place, principal_colours
from fusion3d.report.markup import figure, missing, sentence
from fusion3d.report.raster_view import facts, place_of
from fusion3d.report.splatting import Camera, Frame, Image, splat
from fusion3d.report.store_view import StoreView, trusted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE = 100.0
"""Metres of the square, where the store is that large: wide enough for trees and a house, narrow enough to see each."""
_MOST_POINTS = 60_000
_PIXELS = 800
_NOT_EMBEDDED = (170, 170, 170)


@dataclass(frozen=True)
class Square:
    """Points of a square: east, north, up [N, 3] metres from its south-west corner and lowest point; height above ground and
    column of each."""

    window: Window
    position: npt.NDArray[np.float64]
    height: npt.NDArray[np.float32]
    column: npt.NDArray[np.int64]
    in_all: int


def choose_window(view: StoreView) -> Window:
    """The square, inside of one block, in which canopy height varies most and all columns have points.

    Raises
    ------
    StoreError
        No column has points.
    """
    grid = view.store.grid
    canopy, place = view.canopy if view.canopy is not None else (np.zeros((0, 0)), None)
    if place is None or not np.isfinite(canopy).any():
        raise StoreError(view.store.path, "no column holds a point of known height", "prepare it with ALS")
    shrink = round(place.pixel / grid.cell)
    side = max(1, min(round(_SIDE / grid.column), grid.block))
    best: tuple[float, Window] = (-math.inf, view.window)
    for block in grid.blocks_in(view.window):
        inside = grid.block_window(*block).intersection(view.window)
        rows, cols = min(side, inside.rows), min(side, inside.cols)
        step = max(1, side // 2)
        for row in _starts(inside.row, inside.row_stop - rows, step):
            for col in _starts(inside.col, inside.col_stop - cols, step):
                first = (row - view.window.row) // shrink, (col - view.window.col) // shrink
                patch = canopy[first[0] : first[0] + -(-rows // shrink), first[1] : first[1] + -(-cols // shrink)]
                known = np.isfinite(patch)
                if not known.any():
                    continue
                # A small square at the edge varies as much as a whole one, but shows less.
                value = float(np.std(patch[known])) * known.mean() ** 2 * math.sqrt(rows * cols / side**2)
                if value > best[0]:
                    best = value, Window(row, col, rows, cols)
    return best[1]


def _starts(first: int, last: int, step: int) -> list[int]:
    return [*range(first, last, step), last]


def read_square(view: StoreView, window: Window) -> Square:
    """At most `_MOST_POINTS` of its points, chosen at random with a fixed seed."""
    grid = view.store.grid
    points = view.store.points(window, view.point_attributes)
    chosen = np.flatnonzero(trusted(points))
    in_all = len(chosen)
    if in_all > _MOST_POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, _MOST_POINTS, replace=False))
    column = np.repeat(np.arange(window.size), np.diff(points.row_splits))[chosen]
    east = column % window.cols * grid.column + points.offset[chosen, 0]
    north = (window.rows - column // window.cols) * grid.column - points.offset[chosen, 1]
    elevation = points.elevation[chosen]
    up = elevation - elevation.min() if len(elevation) else elevation
    return Square(window, np.stack([east, north, up], axis=1), points.height[chosen], column, in_all)


def scene_section(view: StoreView, embedding: Path | None) -> str:
    if "als" not in view.store.sensors:
        return sentence("The store has no ALS, so there are no points to draw.", "note")
    square = read_square(view, choose_window(view))
    pictures = [("height above ground", height_colours(square.height))]
    if embedding is not None:
        pictures.append(("embedding of its column, principal components", embedding_colours(view, square, embedding)))
    camera = Camera()
    projected = camera.project(square.position)
    frame = Frame.around(projected, _PIXELS)
    images = open3d_view.draw(projected, [colours for _, colours in pictures], frame)
    by = "Open3D" if images is not None else "fusion3d"
    if images is None:
        spacing = math.sqrt(max(np.prod(np.ptp(square.position[:, :2], axis=0)), 1.0) / len(square.position))
        images = [splat(projected, colours, frame, 0.75 * spacing) for _, colours in pictures]
    grid, window = view.store.grid, square.window
    xmin, ymin, _, _ = grid.bounds(window)
    shown = f"{len(square.position):,} of {square.in_all:,} points".replace(",", " ")
    caption = (
        f"Points of {window.cols * grid.column:g} m × {window.rows * grid.column:g} m, south-west corner at x {xmin:.0f}, y "
        f"{ymin:.0f}: {shown}, seen from the south-south-west, {camera.elevation:g}° above the horizon, heights not exaggerated. "
        f"The square is where canopy height varies most. Drawn by {by}."
    )
    if embedding is not None:
        caption += " Grey: the column has no embedding. The colours on the right are those of the embedding map."
    body = figure(draw_scene(list(zip([name for name, _ in pictures], images, strict=True)), square, frame, camera), caption,
                  "Point cloud seen obliquely, coloured by height and by embedding")  # fmt: skip
    if embedding is None:
        body += missing("There is no embedding to colour the points by", "fusion3d embed RUN STORE --out RUN/embedding.tif")
    return body


def height_colours(height: npt.NDArray[np.float32]) -> Image:
    """[N, 3] by height above ground, from 0 to `_top`."""
    from matplotlib import colormaps

    return np.rint(255 * colormaps["viridis"](np.clip(height / _top(height), 0, 1))[:, :3]).astype(np.uint8)


def _top(height: npt.NDArray[np.float32]) -> float:
    return max(1.0, float(np.percentile(height, 99.5)))


def embedding_colours(view: StoreView, square: Square, cog: Path) -> Image:
    """[N, 3] by the principal components of each column's embedding, in the colours of the map."""
    grid, window = view.store.grid, square.window
    header = facts(cog, 1 << 30)
    shrink = header.place.pixel * header.place.unit / grid.column
    here, whole = place_of(grid, window, min(1.0, shrink)), map_place(cog, view)
    if whole.pixel > here.pixel * (1 + 1e-6):
        _, colours = principal_colours(cog, whole, here)
        assert colours is not None
    else:
        here, (colours, _) = whole, principal_colours(cog, whole)
    xmin, ymin, _, _ = grid.bounds(window)
    row, col = here.at(xmin + square.position[:, 0] / grid.unit, ymin + square.position[:, 1] / grid.unit)
    found = colours[row, col]
    return np.where(found[:, 3:] > 0, found[:, :3], np.uint8(_NOT_EMBEDDED)).astype(np.uint8)


def draw_scene(images: list[tuple[str, Image]], square: Square, frame: Frame, camera: Camera) -> Picture:
    """Pictures side by side with a scale bar, an arrow to the north and the colours of height."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    across = len(images)
    with style():
        width = 11.0 if across > 1 else 8.0
        drawn = sheet(min(7.0, width / across * frame.height / frame.width + 1.25), width)
        axes = list(drawn.subplots(1, across, squeeze=False).flat)
        for at, (name, image) in enumerate(images):
            axes[at].imshow(image, interpolation="antialiased")
            axes[at].set_title(name)
            # with the axis off altogether, the layout would leave no room for the title
            axes[at].set(xticks=[], yticks=[])
            axes[at].spines[:].set_visible(False)
        _scale(axes[0], frame)
        _north(axes[-1], frame, camera)
        colours = ScalarMappable(Normalize(0, _top(square.height)), "viridis")
        bar = drawn.colorbar(colours, ax=axes[0], location="bottom", extend="max", shrink=0.6, aspect=30, pad=0.02)
        bar.set_label("m above ground")
        if across > 1:
            # A second, empty bar keeps both pictures of one size.
            spare = drawn.colorbar(colours, ax=axes[1], location="bottom", extend="max", shrink=0.6, aspect=30, pad=0.02)
            spare.set_label(" ")
            spare.ax.set_visible(False)
        return render(drawn)


def _scale(axes: Axes, frame: Frame) -> None:
    metres = scale_bar(frame.width * frame.metres)
    x, y = 0.02 * frame.width, 0.97 * frame.height
    axes.plot([x, x + metres / frame.metres], [y, y], color="black", linewidth=3, solid_capstyle="butt")
    axes.annotate(f"{metres:g} m", (x, y), (0, 5), textcoords="offset points", fontsize=9)


def _north(axes: Axes, frame: Frame, camera: Camera) -> None:
    right, up, _ = camera.project(np.array([[0.0, 1.0, 0.0]]))[0]
    length = 0.08 * frame.width
    start = np.array([0.93 * frame.width, 0.96 * frame.height])
    end = start + np.array([right, -up]) * length
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=arrow)
    axes.annotate("N", end, (0, 3), textcoords="offset points", ha="center", fontsize=9.5)
