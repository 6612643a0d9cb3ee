"""What went in: sensors with bands and dates, footprints and points, and where each sensor saw the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from fusion3d.report.drawing import COLOURS, WIDTH, Picture, draw_map, map_height, render, sheet, style
from fusion3d.report.markup import figure, number, sentence, table
from fusion3d.report.raster_view import place_of
from fusion3d.report.store_view import Coverage, StoreView
from fusion3d.store.layout import RasterLayout
from fusion3d.store.reader import Store

_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class SensorFacts:
    """One line of the table of sensors, and its dates."""

    name: str
    content: str
    bands: str
    resolution: str
    dates: tuple[date, ...]
    undated: int


def sensor_facts(store: Store) -> list[SensorFacts]:
    """What the store says of each of its sensors."""
    found = []
    for name in store.sensors:
        if name == "als":
            found.append(_als_facts(store))
        elif name == "gedi":
            found.append(_gedi_facts(store))
        else:
            found.append(_raster_facts(name, store.raster_info(name)))
    return found


def _als_facts(store: Store) -> SensorFacts:
    als, grid = store.attributes.als, store.grid
    assert als is not None
    density = als.points / max(1.0, grid.rows * grid.cols * grid.column**2)
    dates = _dates(als.dates)
    method = als.ground.get("method")
    bands = f"heights above ground: {method}" if method else "points with heights above ground"
    return SensorFacts("als", f"{_count(als.points)} points", bands, f"{density:.1f} per m²", dates, 0 if dates else 1)


def _gedi_facts(store: Store) -> SensorFacts:
    gedi = store.attributes.gedi
    assert gedi is not None
    table = store.footprints(store.grid.window)
    days = np.unique(np.floor(table.time[np.isfinite(table.time)]).astype(int))
    dates = tuple(_EPOCH + timedelta(days=int(day)) for day in days)
    return SensorFacts(
        "gedi",
        f"{_count(len(table))} footprints of good quality, of {_count(gedi.footprints)}",
        f"products {', '.join(gedi.products)}",
        "25 m footprints",
        dates,
        0 if dates else 1,
    )


def _raster_facts(name: str, info: RasterLayout) -> SensorFacts:
    dates = _dates(tuple(item for item in info.dates if item))
    known = [band.wavelength for band in info.bands if band.wavelength is not None]
    if len(info.bands) <= 6:
        bands = ", ".join(
            band.name + (f" ({band.wavelength:.0f}\u00a0nm)" if band.wavelength and band.wavelength < 10_000 else "")
            for band in info.bands
        )
    else:
        span = f", {min(known):.0f} to {max(known):.0f} nm" if known else ""
        bands = f"{len(info.bands)} bands{span}"
    images = len(info.dates)
    content = f"{images} image{'s' if images != 1 else ''}, {100 * info.valid_fraction:.0f} % of the pixels valid, {info.kind}"
    return SensorFacts(name, content, bands, f"{info.pixel:g} m pixels", dates, images - len(dates))


def _dates(texts: tuple[str, ...]) -> tuple[date, ...]:
    found = []
    for text in texts:
        try:
            found.append(date.fromisoformat(text[:10]))
        except ValueError:
            continue
    return tuple(sorted(found))


def _count(value: int) -> str:
    return f"{value:,}".replace(",", " ")


def when(facts: SensorFacts) -> str:
    """The dates of a sensor in words."""
    if not facts.dates:
        return "no\u00a0date"
    first, last = min(facts.dates), max(facts.dates)
    span = f"{first}" if first == last else f"{first} to {last}"
    days = len(set(facts.dates))
    return span if days <= 1 else f"{days} days, {span}"


def inputs_section(view: StoreView) -> str:
    store = view.store
    grid = store.grid
    xmin, ymin, xmax, ymax = grid.bounds(grid.window)
    across, down = ((high - low) * grid.unit for low, high in ((xmin, xmax), (ymin, ymax)))
    body = sentence(
        f"{_count(grid.rows)} × {_count(grid.cols)} columns of {grid.column:g} m, {number(across)} m × {number(down)} m "
        f"of ground in {grid.pyproj_crs.name}: x {xmin:.0f} to {xmax:.0f}, y {ymin:.0f} to {ymax:.0f}."
    )
    facts = sensor_facts(store)
    covers = {item.name: view.coverage(item.name) for item in facts}
    rows = [
        [item.name, item.content, item.bands, when(item), item.resolution, f"{covers[item.name].seen:.1%}".replace("%", " %")]
        for item in facts
    ]
    header = ["sensor", "what there is", "bands", "dates", "resolution", "columns seen"]
    body += table(header, rows, left=3, caption="Sensors of the store")
    if any(item.dates for item in facts):
        undated = [item.name for item in facts if item.undated]
        caption = "One mark for each day with an observation." + (f" Without a date: {', '.join(undated)}." if undated else "")
        body += figure(draw_timeline(facts), caption, "Dates of the observations of each sensor")
    else:
        body += sentence("No sensor has dates, so there is no timeline.", "note")
    sampled = any(cover.sampled for cover in covers.values())
    caption = (
        "Share of the columns that each sensor saw: a point, a valid pixel on at least one date, or the centre of a GEDI "
        "footprint. Dark: all; light: none. North is up."
        + (" Sampled: each square stands for the block in its corner." if sampled else "")
    )
    body += figure(draw_coverage(view, covers), caption, "Maps of the columns that each sensor saw")
    for item in store.attributes.set_aside:
        body += sentence(f"Set aside by prepare: {item.get('reason', item)}", "note")
    return body


def draw_timeline(facts: list[SensorFacts]) -> Picture:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    dated = [item for item in facts if item.dates]
    with style():
        drawn = sheet(0.75 + 0.34 * len(dated))
        axes = drawn.add_subplot()
        for row, item in enumerate(reversed(dated)):
            colour = COLOURS[facts.index(item) % len(COLOURS)]
            axes.axhline(row, color="#e3e6ea", linewidth=1, zorder=0)
            days = sorted(set(item.dates))
            axes.plot(days, [row] * len(days), "|", color=colour, markersize=15, markeredgewidth=2)
        axes.set_yticks(range(len(dated)), [item.name for item in reversed(dated)])
        axes.set_ylim(-0.6, len(dated) - 0.4)
        everything = [day for item in dated for day in item.dates]
        margin = max(timedelta(days=10), (max(everything) - min(everything)) * 0.02)
        axes.set_xlim(min(everything) - margin, max(everything) + margin)
        locator = AutoDateLocator(minticks=3, maxticks=10)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        return render(drawn)


def draw_coverage(view: StoreView, covers: dict[str, Coverage]) -> Picture:
    grid = view.store.grid
    whole = place_of(grid, grid.window)
    across = min(4, max(2, len(covers)))
    down = math.ceil(len(covers) / across)
    with style():
        drawn = sheet(down * map_height(whole, across), WIDTH)
        axes = drawn.subplots(down, across, squeeze=False)
        for at, (name, cover) in enumerate(covers.items()):
            share = np.where(np.isfinite(cover.share), cover.share, 0.0)
            title = f"{name}: {cover.seen:.0%}".replace("%", " %")
            draw_map(axes.flat[at], share, cover.place, title, view=whole, inner=at % across > 0, cmap="Blues", vmin=0, vmax=1.2)
        for spare in axes.flat[len(covers) :]:
            spare.set_visible(False)
        return render(drawn)
