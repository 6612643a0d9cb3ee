"""A picture of an embedding map: its first three principal components as red, green and blue, north up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import RasterioError

from fusion3d.errors import InputError, one_line
from fusion3d.grid import metric_unit, parse_crs
from fusion3d.io.s3 import point_gdal_to_s3
from fusion3d.io.whole_file import whole_file

_LONGEST = 2048
"""Pixels on the longer side of the drawn map; a larger map is read from its overviews."""
_SAMPLE = 200_000
_STRETCH = (2.0, 98.0)


def picture(cog: str | Path, out: str | Path, title: str | None = None) -> Path:
    """Draw a map of embeddings to a PNG with a scale bar; nodata is transparent.

    Parameters
    ----------
    cog : map of any number of bands
    title : above the map; the map's name and sensors when None

    Raises
    ------
    InputError
        The map cannot be read or holds no data, or the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    out = Path(out)
    if not out.parent.is_dir():
        raise InputError(out, "cannot be written: its folder does not exist", "create the folder first")
    values, pixel, tags = _read(str(cog))
    rgba = composite(values)
    height, width = rgba.shape[:2]
    across, down = width * pixel, height * pixel
    side = 8.0
    scale = side / max(across, down)
    figure = Figure(figsize=(max(across * scale, 2.5) + 0.4, max(down * scale, 1.0) + 1.0), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(rgba, origin="upper", extent=(0.0, across, 0.0, down), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    sensors = f" ({tags['sensors']})" if "sensors" in tags else ""
    axes.set_title(title if title is not None else f"{Path(cog).stem}{sensors}", fontsize=10)
    length = scale_bar(across)
    axes.plot([0, length], [-0.03 * down] * 2, color="black", linewidth=3, solid_capstyle="butt", clip_on=False)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.text(length, -0.03 * down, f"  {text}, north up; principal components 1-3 as RGB", va="center", fontsize=8)
    axes.set_xlim(0, across)
    axes.set_ylim(-0.06 * down, down)
    for spine in axes.spines.values():
        spine.set_visible(False)
    with whole_file(out) as draft:
        canvas.print_figure(draft, format="png")
    return out


def _read(path: str) -> tuple[npt.NDArray[np.float32], float, dict[str, str]]:
    """Bands [C, H, W] with NaN for nodata, side of a drawn pixel in metres, tags."""
    point_gdal_to_s3(path)
    try:
        with rasterio.open(path) as dataset:
            shrink = max(1.0, max(dataset.width, dataset.height) / _LONGEST)
            shape = (dataset.count, max(1, round(dataset.height / shrink)), max(1, round(dataset.width / shrink)))
            values = dataset.read(out_shape=shape, masked=True, resampling=rasterio.enums.Resampling.nearest)
            unit = 1.0 if dataset.crs is None else metric_unit(parse_crs(dataset.crs.to_wkt()))
            pixel = abs(dataset.transform.a) * unit * dataset.width / shape[2]
            return values.astype(np.float32).filled(np.nan), pixel, dataset.tags()
    except (RasterioError, OSError) as error:
        reason = one_line(error)
        raise InputError(path, f"cannot be read as a map ({reason})", "give a GeoTIFF that `fusion3d embed` wrote") from None


def composite(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """RGBA [H, W, 4] of the first three principal components of [C, H, W], each stretched between its 2nd and 98th percentile.

    The sign of a component is chosen so that its largest loading is positive: two runs over neighbouring places agree. Pixels
    with a band that is not finite are transparent.

    Raises
    ------
    InputError
        No pixel has data.
    """
    bands, height, width = values.shape
    pixels = values.reshape(bands, -1).T.astype(np.float64)
    seen = np.isfinite(pixels).all(axis=1)
    if not seen.any():
        raise InputError(None, "the map holds no data: there is nothing to draw", "choose sensors that saw something")
    known = pixels[seen]
    sample = known[:: max(1, len(known) // _SAMPLE)]
    centre = sample.mean(axis=0)
    loadings = principal_axes(sample - centre, 3)
    scores = (known - centre) @ loadings.T
    low, high = np.percentile(scores, _STRETCH, axis=0)
    spread = high - low
    flat = spread <= 1e-12 * max(1.0, float(np.abs(scores).max()))
    stretched = np.where(flat, 0.5, (scores - low) / np.where(flat, 1.0, spread))
    rgba = np.zeros((height * width, 4), np.uint8)
    rgba[seen, :3] = np.rint(np.clip(stretched, 0, 1) * 255).astype(np.uint8)
    rgba[seen, 3] = 255
    return rgba.reshape(height, width, 4)


def principal_axes(centred: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """First `count` principal axes [count, C] of centred rows [N, C], largest loading positive; then zeros."""
    _, vectors = np.linalg.eigh(centred.T @ centred / max(1, len(centred)))
    axes = vectors.T[::-1][:count]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    return np.concatenate([axes, np.zeros((count - len(axes), centred.shape[1]))])


def scale_bar(across: float) -> float:
    """A round length (1, 2 or 5 times a power of ten) of at most a quarter of `across`, metres."""
    power = 10.0 ** np.floor(np.log10(across / 4))
    return float(max(step * power for step in (1.0, 2.0, 5.0) if step * power <= across / 4 * (1 + 1e-9)))
