"""A store in lines that a person reads: after `prepare`, and for `fusion3d info`."""

from __future__ import annotations

from pathlib import Path

from fusion3d.io.description import CLASS_NAMES
from fusion3d.prepare.run import Summary
from fusion3d.store.layout import StoreAttributes
from fusion3d.store.reader import Store

_MANY, _SHOWN = 5, 50


def summary_lines(summary: Summary) -> list[str]:
    """What a run did, the last line says where the result is."""
    lines = content_lines(summary.attributes)
    lines += [f"note: {note}" for note in summary.notes]
    lines += set_aside_lines(summary.set_aside)
    if summary.already_done:
        return [*lines, f"nothing to do: {summary.out} was made from the same inputs"]
    if summary.attributes.als is not None:
        als = summary.attributes.als
        outside = als.points_read - als.points
        where = f" and {outside:,} outside of the grid" if outside else ""
        lines.append(f"points in = points out, per class: {als.points_read:,} read, {als.points:,} stored{where}")
    return [*lines, f"store: {summary.out}"]


def set_aside_lines(set_aside: list[tuple[str, str]]) -> list[str]:
    """A line for each file that was set aside with its reason, and one for those of the same reason where they are many."""
    alike: dict[str, list[str]] = {}
    for path, reason in set_aside:
        # a reason begins with the path, or with more of it
        before, found, after = reason.partition(f"{Path(path).name}: ")
        alike.setdefault(after if found else reason, []).append(f"{before}{found}".removesuffix(": "))
    lines = []
    for reason, names in alike.items():
        if len(names) < _MANY:
            lines += [f"set aside: {name}: {reason}" if name else f"set aside: {reason}" for name in names]
        else:
            lines.append(f"set aside: {len(names)} files: {reason}")
            shown = ", ".join(Path(name).name for name in names[:_SHOWN])
            lines.append(f"           {shown}{', ...' if len(names) > _SHOWN else ''}")
    return lines


def describe_store(path: str | Path) -> str:
    """The content of a store."""
    attributes = Store.open(path).attributes
    aside = set_aside_lines([(item["path"], item["reason"]) for item in attributes.set_aside])
    return "\n".join([f"{path}: fusion3d column store", *content_lines(attributes), *aside])


def content_lines(attributes: StoreAttributes) -> list[str]:
    """Grid and sensors of a store, one line each and one per class or band where that helps."""
    grid = attributes.grid
    xmin, ymin, xmax, ymax = grid.bounds(grid.window)
    lines = [
        f"grid     {grid.pyproj_crs.name}, {grid.rows} x {grid.cols} columns of {grid.column:g} m, voxels of {grid.voxel:g} m, "
        f"blocks of {grid.block} columns",
        f"         x {xmin:.2f} to {xmax:.2f}, y {ymin:.2f} to {ymax:.2f}",
    ]
    if attributes.simulated:
        lines.insert(0, "simulated data: figures from it show that a mechanism works, not how useful it is on real ground")
    als = attributes.als
    if als is not None:
        density = als.points / (grid.rows * grid.cols * grid.column**2)
        lines.append(
            f"als      {als.points:,} points in {len(als.blocks)} blocks, {density:.1f} per m2 of the grid; heights: "
            f"{als.ground['method']}"
        )
        lines += [
            f"         class {code:>3} {CLASS_NAMES.get(int(code), ''):<18} {count:>14,}" for code, count in als.classes.items()
        ]
    for name, layout in sorted(attributes.rasters.items()):
        dates = [date for date in layout.dates if date]
        when = f"{len(layout.dates)} dates {min(dates)} to {max(dates)}" if dates else "no date"
        lines.append(
            f"{name:<8} {len(layout.bands)} bands, {layout.pixel:g} m pixels, {when}, {layout.kind}, resampling: "
            f"{layout.resampling}, {layout.valid_fraction:.0%} valid"
        )
        known = [band.wavelength for band in layout.bands if band.wavelength is not None]
        if known:
            lines.append(
                f"         wavelengths {min(known):.0f} to {max(known):.0f} nm ({len(known)} of {len(layout.bands)} bands)"
            )
    if attributes.gedi is not None:
        lines.append(f"gedi     {attributes.gedi.footprints:,} footprints, products {', '.join(attributes.gedi.products)}")
    return lines
