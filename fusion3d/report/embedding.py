"""The embedding map as colours, beside what a person sees there: an image and the canopy's height."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusion3d.mapping.picture import composite
from fusion3d.report.drawing import Picture, draw_map, map_height, render, sheet, style
from fusion3d.report.markup import figure, sentence
from fusion3d.report.raster_view import Place, facts, place_of, read_on
from fusion3d.report.store_view import StoreView

_MOST_VALUES = 16_000_000
"""Values of an embedding map held at once; a map of more is drawn from every so manieth cell."""
Colours = npt.NDArray[np.uint8]


def principal_colours(cog: Path, view: Place, window: Place | None = None) -> tuple[Colours, Colours | None]:
    """First three principal components of an embedding map as RGBA, 0 to 255, on one place or on two with the same colours.

    Parameters
    ----------
    window : a second place, for instance a part at full resolution
    """
    first = read_on(cog, view, average=False)
    bands = len(first)
    second = np.zeros((bands, 0, 0), np.float32) if window is None else read_on(cog, window, average=False)
    both = np.concatenate([first.reshape(bands, 1, -1), second.reshape(bands, 1, -1)], axis=2)
    rgba = composite(both)[0]
    size = view.rows * view.cols
    whole = rgba[:size].reshape(view.rows, view.cols, 4)
    return whole, None if window is None else rgba[size:].reshape(window.rows, window.cols, 4)


def map_place(cog: Path, view: StoreView) -> Place:
    """Cells of an embedding map over the view of a store, coarser when they are many."""
    header = facts(cog, 1 << 30)
    columns = view.window
    shrink = header.place.pixel * header.place.unit / view.store.grid.column
    cells = columns.size / shrink**2
    shrink *= max(1, math.ceil(math.sqrt(cells * header.count / _MOST_VALUES)))
    return place_of(view.store.grid, columns, shrink)


def embedding_section(cog: Path, view: StoreView) -> str:
    place = map_place(cog, view)
    colours, _ = principal_colours(cog, place)
    header = facts(cog, 1 << 30)
    sensors = header.tags.get("sensors", "")
    by = f", fused from {sensors.replace(',', ', ')}" if sensors else ""
    caption = (
        f"Left: each cell of {place.pixel * place.unit:g} m has an embedding of {header.count} numbers{by}; their first three "
        f"principal components are shown as red, green and blue (no unit; like colours mean like embeddings). "
    )
    photo, canopy = view.photo, view.canopy
    if photo is not None:
        when = f" of {photo.date}" if photo.date else ""
        caption += f"Then: {photo.sensor}{when} in natural colours. "
    if canopy is not None:
        caption += "Right: highest point above ground in each column, metres. "
    caption += "Grey: not seen. All with the same extent, north up."
    notes = ""
    if photo is None:
        notes += sentence("The store has no image with red, green and blue, so there is none beside the embedding.", "note")
    if canopy is None:
        notes += sentence("The store has no ALS, so there is no canopy height.", "note")
    if not view.whole:
        notes += sentence("The store is larger than a picture can show: this is its middle.", "note")
    picture = draw_embedding(colours, place, view)
    return figure(picture, caption, "Embedding, image and canopy height of the same place") + notes


def draw_embedding(colours: Colours, place: Place, view: StoreView) -> Picture:
    photo, canopy = view.photo, view.canopy
    panels = 1 + (photo is not None) + (canopy is not None)
    with style():
        drawn = sheet(map_height(view.place, panels, 0.6 if canopy is not None else 0.0))
        axes = list(drawn.subplots(1, panels, squeeze=False).flat)
        draw_map(axes[0], colours, place, "embedding, principal components", view=view.place)
        axes[0].set_xlabel(view.place.axis_label)
        if photo is not None:
            draw_map(axes[1], photo.rgba, photo.place, photo.sensor, view=view.place, inner=True)
        if canopy is not None:
            values, where = canopy
            known = values[np.isfinite(values)]
            top = max(1.0, float(np.percentile(known, 99.5))) if known.size else 1.0
            image = draw_map(
                axes[-1], values, where, "canopy height", view=view.place, inner=True, cmap="viridis", vmin=0, vmax=top
            )
            drawn.colorbar(image, ax=axes[-1], label="m above ground", extend="max", shrink=0.8, pad=0.02)
        return render(drawn)
