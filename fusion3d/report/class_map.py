"""A map of classes in its own colours with a legend, how sure it is, and the truth beside it where that is known."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from fusion3d.errors import Fusion3DError
from fusion3d.evaluation.labels import majority
from fusion3d.mapping.class_map import confidence_path
from fusion3d.report.drawing import Picture, draw_map, map_height, render, sheet, style
from fusion3d.report.markup import damaged, figure, sentence, table
from fusion3d.report.raster_view import Float32, Place, RasterFacts, facts, read_on

_LONGEST = 600
_ANY_SIZE = 2**40
_FINEST = 5
"""Samples on a pixel's side from which the truth's commonest class is taken."""
_TAG = re.compile(r"class_(\d+)")
_OTHER = "#4d4d4d"


@dataclass(frozen=True)
class MapClasses:
    """Classes of a map by code: names and colours ("#rrggbb")."""

    names: dict[int, str]
    colours: dict[int, str]


def is_class_map(path: Path) -> bool:
    """Whether a raster says that it is a map of classes; False for what cannot be read."""
    try:
        return bool(map_classes(path, facts(path, 1)).names)
    except (Fusion3DError, RasterioError, OSError):
        return False


def map_classes(path: Path, header: RasterFacts) -> MapClasses:
    """The classes that a map's tags and palette name."""
    names = {int(found.group(1)): value for tag, value in header.tags.items() if (found := _TAG.fullmatch(tag))}
    with rasterio.open(path) as dataset:
        try:
            table = dataset.colormap(1)
        except ValueError:
            table = {}
    colours = {code: "#{:02x}{:02x}{:02x}".format(*table[code][:3]) if code in table else _OTHER for code in names}
    return MapClasses(dict(sorted(names.items())), colours)


def class_map_section(path: Path, truth: Path | None, variable: str) -> str:
    """The map, its probabilities from the file beside it, and the truth on the same cells.

    Parameters
    ----------
    truth : raster of classes with the same codes, or None
    """
    header = facts(path, _LONGEST)
    place, classes = header.place, map_classes(path, header)
    mapped = read_on(path, place, [1], average=False)[0]
    panels, problem = [(f"{variable}, mapped", mapped)], ""
    real = None
    if truth is not None:
        try:
            real = _majorities(truth, place)
            panels.append(("truth", real))
        except Fusion3DError as error:
            problem = damaged(error)
    beside = confidence_path(path)
    sure = read_on(beside, place, [1])[0] if beside.is_file() else None
    cell = place.pixel * place.unit
    caption = f"{variable}: the likeliest class of cells of {cell:g} m, north up; grey: not mapped."
    caption += " Right: calibrated probability of that class." if sure is not None else ""
    body = figure(draw_classes(panels, sure, classes, place), caption, f"Map of {variable}")
    body += problem
    seen = np.isfinite(mapped)
    shares = {code: float((mapped[seen] == code).mean()) if seen.any() else 0.0 for code in classes.names}
    area = float(seen.sum()) * cell**2 / 1e4
    rows = [[name, f"{100 * shares[code]:.1f}", f"{shares[code] * area:.4g}"] for code, name in classes.names.items()]
    body += table(["class", "% of the mapped cells", "ha"], rows, caption="What is mapped")
    body += sentence(
        "These are areas of the map; where classes are confused with each other they are not areas of the ground.", "note"
    )
    if real is not None:
        both = seen & np.isfinite(real)
        right = f"{100 * float((mapped[both] == real[both]).mean()):.1f} %" if both.any() else "none"
        known = (
            " The map was fitted on this raster: that is no test." if header.tags.get("fitted_on_labels") == str(truth) else ""
        )
        body += sentence(f"Map and truth have the same class in {right} of the {int(both.sum())} cells that both know.{known}")
    elif truth is None:
        body += sentence(
            f"No truth raster was given; name one with --truth {variable}=FILE.tif to see it beside the map.", "note"
        )
    return body


def _majorities(path: Path, place: Place) -> Float32:
    """[rows, cols] commonest code of a raster of classes on each pixel of a place; NaN where less than half is known."""
    fine = int(np.clip(round(place.pixel * place.unit / _metres(path)), 1, _FINEST))
    finer = replace(place, pixel=place.pixel / fine, rows=place.rows * fine, cols=place.cols * fine)
    return majority(read_on(path, finer, [1], average=False)[0].astype(np.float64), fine).astype(np.float32)


def _metres(path: Path) -> float:
    """Side of a raster's own pixel."""
    own = facts(path, _ANY_SIZE).place
    return own.pixel * own.unit


def draw_classes(panels: list[tuple[str, Float32]], sure: Float32 | None, classes: MapClasses, place: Place) -> Picture:
    """Maps of classes in one set of colours, the legend under them, and probabilities."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    count = len(panels) + (sure is not None)
    lines = -(-len(classes.names) // 6)
    with style():
        drawn = sheet(min(7.5, map_height(place, max(count, 2), 1.2)) + 0.28 * lines, 6.0 if count == 1 else 11.0)
        axes = list(drawn.subplots(1, count, squeeze=False).flat)
        for at, (name, values) in enumerate(panels):
            picture = np.zeros((*values.shape, 4))
            picture[np.isfinite(values)] = to_rgba(_OTHER)
            for code, colour in classes.colours.items():
                picture[values == code] = to_rgba(colour)
            draw_map(axes[at], picture, place, name, inner=at > 0)
        if sure is not None:
            image = draw_map(axes[-1], sure, place, "probability of the class", inner=True, cmap="viridis", vmin=0, vmax=1)
            drawn.colorbar(image, ax=axes[-1], shrink=0.8, pad=0.02)
        patches = [Patch(color=classes.colours[code], label=name) for code, name in classes.names.items()]
        drawn.legend(handles=patches, loc="outside lower center", ncols=min(6, len(patches)))
        axes[0].set_xlabel(place.axis_label)
        return render(drawn)
