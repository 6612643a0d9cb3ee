"""Pictures inside of the page: a Matplotlib figure as a PNG data URI, and how a map is drawn, with scale bar and north arrow."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fusion3d.mapping.picture import scale_bar
from fusion3d.report.raster_view import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

WIDTH = 11.0
"""Inches of a figure as wide as the page."""
_DPI = 150
_HEAVY = 1_000_000
"""Bytes from which a picture is reduced to 256 colours, so that noise in a photo cannot make the page too large to send."""
INK = "#1c2733"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#4d4d4d")
"""Told apart by colour-blind readers: Okabe and Ito (2008), without yellow, which is too light on white."""
_NOT_SEEN = "#e3e6ea"


@dataclass(frozen=True)
class Picture:
    """A PNG and its size on the page, CSS pixels."""

    png: bytes
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@contextmanager
def style() -> Iterator[None]:
    """Fonts and lines of every figure. Dollar signs in names are no formulas."""
    from matplotlib import rc_context

    with rc_context(
        {
            "font.family": "sans-serif",
            "font.size": 9.5,
            "axes.titlesize": 10.5,
            "axes.labelsize": 9.5,
            "axes.edgecolor": "#8a94a0",
            "axes.labelcolor": INK,
            "axes.linewidth": 0.8,
            "xtick.color": INK,
            "ytick.color": INK,
            "text.color": INK,
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
            "legend.fontsize": 8.5,
            "legend.frameon": False,
            "axes.grid": False,
            "grid.color": "#e3e6ea",
            "text.parse_math": False,
        }
    ):
        yield


def sheet(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn


def render(drawn: Figure) -> Picture:
    """The figure as PNG."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    png = buffer.getvalue()
    if len(png) > _HEAVY:
        from PIL import Image

        buffer = io.BytesIO()
        Image.open(io.BytesIO(png)).convert("RGB").quantize(256).save(buffer, format="PNG", optimize=True)
        png = min(png, buffer.getvalue(), key=len)
    width, height = drawn.get_size_inches()
    return Picture(png, round(width * 100), round(height * 100))


def draw_map(
    axes: Axes,
    values: npt.NDArray[Any],
    place: Place,
    title: str,
    *,
    view: Place | None = None,
    inner: bool = False,
    interpolation: str = "nearest",
    **colours: Any,
) -> AxesImage:
    """Draw [rows, cols] values or [rows, cols, 3 or 4] colours, row 0 in the north; what is not finite is grey.

    Parameters
    ----------
    view : what to show when it is not all of `place`
    inner : a neighbour on the left already has the northings
    """
    from matplotlib.ticker import FuncFormatter

    left, bottom, right, top = place.bounds
    axes.set_facecolor(_NOT_SEEN)
    image = axes.imshow(values, origin="upper", extent=(left, right, bottom, top), interpolation=interpolation, **colours)
    left, bottom, right, top = (view or place).bounds
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_title(title)
    coordinate = FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " "))
    for axis, low, high in ((axes.xaxis, left, right), (axes.yaxis, bottom, top)):
        # near a corner, the label of one axis would lie on that of the other
        axis.set_ticks(_ticks(low, high, 2 if axis is axes.yaxis else 3))
        axis.set_major_formatter(coordinate)
    axes.tick_params(axis="y", labelrotation=90, length=3, labelleft=not inner)
    axes.tick_params(axis="x", length=3)
    for label in axes.get_yticklabels():
        label.set_verticalalignment("center")
    _scale_bar(axes, view or place)
    _north_arrow(axes)
    return image


def _ticks(low: float, high: float, most: int) -> npt.NDArray[np.float64]:
    """Round values away from both ends, at most that many and evenly spaced; at least one where there is any."""
    from matplotlib.ticker import MaxNLocator

    margin = 0.12 * (high - low)
    for intervals in range(8, 0, -1):
        ticks = np.asarray(MaxNLocator(intervals, steps=[1, 2, 5, 10]).tick_values(low, high))
        ticks = ticks[(ticks >= low + margin) & (ticks <= high - margin)]
        if len(ticks) <= most:
            return ticks
    return ticks[:most]


def _north_arrow(axes: Axes) -> None:
    """An arrow to the north of the map's grid, in the upper right corner."""
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2.2, foreground="white")]
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0, "path_effects": outline}
    axes.annotate("", (0.955, 0.97), (0.955, 0.88), xycoords="axes fraction", arrowprops=arrow)
    axes.annotate(
        "N", (0.955, 0.875), xycoords="axes fraction", ha="center", va="top", fontsize=8, fontweight="bold", path_effects=outline
    )


def _scale_bar(axes: Axes, view: Place) -> None:
    from matplotlib import patheffects

    left, bottom, right, top = view.bounds
    metres = scale_bar((right - left) * view.unit)
    x, y = left + 0.04 * (right - left), bottom + 0.05 * (top - bottom)
    outline = [patheffects.withStroke(linewidth=3.0, foreground="white")]
    wide = [patheffects.withStroke(linewidth=6.0, foreground="white")]
    axes.plot([x, x + metres / view.unit], [y, y], color="black", linewidth=3, solid_capstyle="butt", path_effects=wide, zorder=5)
    label = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    axes.annotate(label, (x, y), (0, 5), textcoords="offset points", path_effects=outline, zorder=5, fontsize=9)


def map_height(place: Place, panels: int, extra: float = 0.0) -> float:
    """Inches of a row of maps with that many panels, at most 7."""
    left, bottom, right, top = place.bounds
    width = (WIDTH - 0.6 - extra) / panels
    return float(np.clip(width * (top - bottom) / (right - left) + 0.75, 1.8, 7.0))
