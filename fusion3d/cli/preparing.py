"""Verbs for what goes in: simulate, prepare, info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion3d.cli.application import app, err, listed, name_and_path, out
from fusion3d.errors import ConfigError, Fusion3DError
from fusion3d.workers import DEFAULT

simulator = typer.Typer(no_args_is_help=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(simulator, name="simulate")

_SHORT_RASTERS = ("ortho", "hsi", "s2", "s1")


@simulator.callback(invoke_without_command=True)
def simulate(
    context: typer.Context,
    target: Annotated[Path | None, typer.Option("--out", help="Folder of the scene.")] = None,
    size: Annotated[int, typer.Option(help="Side of the scene, metres; a multiple of 50.")] = 1000,
    seed: Annotated[int, typer.Option(help="Scenes of other seeds have nothing in common.")] = 0,
    year: Annotated[int, typer.Option(help="1, or 2: the same place five years later, with a change map.")] = 1,
    density: Annotated[float, typer.Option(help="Pulses of the aerial LiDAR, per m2.")] = 8.0,
    passes: Annotated[int, typer.Option(help="Passes of GEDI over the scene.")] = 4,
    plots: Annotated[int, typer.Option(help="Field plots, per km2.")] = 60,
    ortho_pixel: Annotated[float, typer.Option(help="Of the orthoimage, metres: 0.1, 0.2 or 0.4.")] = 0.2,
    sensors: Annotated[str | None, typer.Option(help="Of als,ortho,hsi,s2,s1,gedi [default: all].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a simulated scene that is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """A scene with known truth, in the real formats: it proves mechanisms, not usefulness."""
    if context.invoked_subcommand is not None:
        return
    if target is None:
        raise ConfigError("say where to write the scene: fusion3d simulate --out DIR")
    from fusion3d.simulate.model import Site
    from fusion3d.simulate.scene import SENSORS, SceneOptions
    from fusion3d.simulate.scene import simulate as run

    options = SceneOptions(density, passes, plots, ortho_pixel, tuple(listed(sensors) or SENSORS))
    out.print(str(run(Site(size, seed, year), target, options, overwrite=overwrite, quiet=quiet)), markup=False)


@simulator.command("gedi")
def simulate_gedi(
    source: Annotated[list[str], typer.Option("--from", help="LAS, LAZ or COPC tiles.")],
    target: Annotated[Path, typer.Option("--out", help="Folder for the L1B and L2A files.")],
    more: Annotated[list[str] | None, typer.Argument(help="More tiles, as `--from als/*.laz` gives them.")] = None,
    spacing: Annotated[float, typer.Option(help="Metres between the footprints of a regular grid.")] = 60.0,
    positions: Annotated[
        Path | None, typer.Option(help="Footprint centres instead of a grid: CSV with x,y or lon,lat, or a vector layer.")
    ] = None,
    beam: Annotated[str, typer.Option(help="Beam whose power and noise to simulate.")] = "BEAM0101",
    weighting: Annotated[str, typer.Option(help="Weight of a return: fraction of its pulse, count or intensity.")] = "fraction",
    geoid: Annotated[float, typer.Option(help="Metres to add to the tiles' heights to make them ellipsoidal.")] = 0.0,
    crs: Annotated[str | None, typer.Option(help="CRS of tiles that state none.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """GEDI footprints simulated over your own aerial LiDAR (Hancock et al. 2019)."""
    from fusion3d.io.las_layout import POINT_SUFFIXES
    from fusion3d.prepare.scene import expand
    from fusion3d.simulate.gedi_from_als import simulate_over_als

    tiles = expand([*source, *(more or [])], POINT_SUFFIXES)
    result = simulate_over_als(
        tiles, target, spacing=spacing, positions=positions, seed=seed, beam=beam, weighting=weighting, geoid=geoid, crs=crs,
        quiet=quiet,
    )  # fmt: skip
    out.print(str(result), markup=False)


@app.command()
def prepare(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="A scene file (.yaml), an index (.gpkg, .vpc), or LAS/LAZ tiles, folders, patterns or URLs."),
    ] = None,
    store: Annotated[
        str, typer.Option("--out", help="The store to make, for instance scene.zarr or s3://bucket/scene.zarr.")
    ] = ...,  # type: ignore[assignment]
    ortho: Annotated[list[str] | None, typer.Option(help="Orthoimage.")] = None,
    hsi: Annotated[list[str] | None, typer.Option(help="Hyperspectral image.")] = None,
    s2: Annotated[list[str] | None, typer.Option(help="Sentinel-2: folder or pattern of dated images, or one image.")] = None,
    s1: Annotated[list[str] | None, typer.Option(help="Sentinel-1: folder or pattern of dated images, or one image.")] = None,
    raster: Annotated[
        list[str] | None,
        typer.Option(
            help="Any other raster sensor, NAME=PATH (NAME:KIND=PATH; kind reflectance, backscatter, continuous or classes)."
        ),
    ] = None,
    gedi: Annotated[list[str] | None, typer.Option(help="GEDI L1B, L2A, L2B or L4A file.")] = None,
    crs: Annotated[
        str | None, typer.Option(help="CRS of the grid; others are reprojected to it, files without one are taken to be in it.")
    ] = None,
    bands: Annotated[list[str] | None, typer.Option(help="Sidecar YAML with a raster sensor's wavelengths, NAME=FILE.")] = None,
    column: Annotated[float | None, typer.Option(help="Column size, metres [default: 10].")] = None,
    voxel: Annotated[float | None, typer.Option(help="Voxel size, metres [default: 0.5].")] = None,
    block: Annotated[int | None, typer.Option(help="Block side, columns [default: 64].")] = None,
    bounds: Annotated[
        tuple[float, float, float, float] | None, typer.Option(help="xmin ymin xmax ymax in the grid's CRS.")
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(help="Polygons (GeoPackage, GeoJSON, ...) to cover instead of --bounds; other tiles are not read."),
    ] = None,
    normalized: Annotated[bool, typer.Option("--normalized", help="Heights in the files are above ground already.")] = False,
    attribute: Annotated[list[str] | None, typer.Option(help="Extra point dimension to keep, such as gps_time or red.")] = None,
    max_ratio: Annotated[
        float | None, typer.Option(help="Bytes that a byte of LAZ may become; more is taken for a bomb [default: 200].")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes of a local Dask cluster, started when there is work for it.")] = DEFAULT,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of your own Dask scheduler instead, for instance tcp://10.0.0.1:8786.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that was made from other inputs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Raw files to a column store: one decode and one pass per tile, resumable, bad files set aside."""
    from dataclasses import replace

    from fusion3d.prepare.folders import sort_inputs
    from fusion3d.prepare.run import prepare as run
    from fusion3d.prepare.scene import AlsSource, GediInput, RasterInput, Scene, read_scene
    from fusion3d.prepare.selection import named_tiles, read_area
    from fusion3d.prepare.summary import summary_lines

    inputs = inputs or []
    named = {name: tuple(files) for name, files in zip(_SHORT_RASTERS, (ortho, hsi, s2, s1), strict=True) if files}
    kinds = {"s1": "backscatter"}
    for text in raster or []:
        name, kind, path = _raster_option(text)
        named[name] = (*named.get(name, ()), path)
        kinds[name] = kind
    sidecars = dict(name_and_path(text, "--bands") for text in bands or [])
    unknown = set(sidecars) - set(named)
    if unknown:
        raise ConfigError(f"--bands names {', '.join(sorted(unknown))}, but there is no such raster sensor")
    options = {
        key: value
        for key, value in (
            ("crs", crs),
            ("column", column),
            ("voxel", voxel),
            ("block", block),
            ("bounds", bounds),
            ("within", within),
        )
        if value is not None
    }
    notes: list[str] = []
    scenes = [item for item in inputs if item.lower().endswith((".yaml", ".yml"))]
    if scenes:
        if len(inputs) > 1 or named or gedi or normalized or attribute or max_ratio is not None:
            raise ConfigError("a scene file names every source: put the other files into it")
        scene = replace(read_scene(scenes[0]), **options)
    else:
        if max_ratio is not None and not max_ratio > 0:
            raise ConfigError(f"--max-ratio {max_ratio:g} must be above 0")
        cap = {} if max_ratio is None else {"max_ratio": max_ratio}
        area = within or bounds
        chosen = None if area is None else read_area(area, None if within else crs)
        found = sort_inputs(named_tiles(inputs, chosen, margin=column or Scene.column))
        footprints, tiles = [*(gedi or []), *found.footprints], found.tiles
        als = AlsSource(tuple(tiles), normalized=normalized, attributes=tuple(attribute or ()), **cap) if tiles else None
        rasters = {
            name: RasterInput(files, kind=kinds.get(name, "reflectance"), bands=sidecars.get(name))
            for name, files in named.items()
        }
        scene = Scene(als, rasters, GediInput(tuple(footprints)) if footprints else None, **options)
        notes = found.notes
    summary = run(scene, store, overwrite=overwrite, workers=workers, scheduler=scheduler, quiet=quiet)
    summary.notes += notes
    for line in summary_lines(summary):
        out.print(line, markup=False)
    if summary.set_aside:
        raise typer.Exit(1)


def _raster_option(text: str) -> tuple[str, str, str]:
    label, path = name_and_path(text, "--raster")
    name, _, kind = label.partition(":")
    return name, kind or "reflectance", path


@app.command()
def info(paths: Annotated[list[str], typer.Argument(help="Stores, LAS/LAZ/COPC, rasters or GEDI files.")]) -> None:
    """What a store, a point cloud, a raster or a GEDI file holds."""
    from fusion3d.prepare.summary import describe_store
    from fusion3d.store.reader import is_store

    failed = False
    for path in paths:
        try:
            if is_store(path):
                text = describe_store(path)
            else:
                from fusion3d.io.description import describe

                text = describe(path)
            out.print(text, markup=False)
        except Fusion3DError as error:
            err.print(f"fusion3d: {error}", markup=False)
            failed = True
    if failed:
        raise typer.Exit(1)
