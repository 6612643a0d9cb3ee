"""The command line: one verb per step from raw files to maps. Heavy modules are imported by the verb that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fusion3d import __version__
from fusion3d.errors import ConfigError, Fusion3DError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One embedding for every column of ground, from whatever sensors saw it, LiDAR first.",
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_SHORT_RASTERS = ("ortho", "hsi", "s2", "s1")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        out.print(f"fusion3d {__version__}")
        raise typer.Exit


simulator = typer.Typer(no_args_is_help=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(simulator, name="simulate")


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

    options = SceneOptions(density, passes, plots, ortho_pixel, tuple(_names(sensors) or SENSORS))
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
    from fusion3d.prepare.scene import POINT_SUFFIXES, expand
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
        list[str] | None, typer.Argument(help="A scene file (.yaml), or LAS/LAZ tiles, folders or patterns.")
    ] = None,
    store: Annotated[Path, typer.Option("--out", help="The store to make, for instance scene.zarr.")] = ...,  # type: ignore[assignment]
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
    normalized: Annotated[bool, typer.Option("--normalized", help="Heights in the files are above ground already.")] = False,
    attribute: Annotated[list[str] | None, typer.Option(help="Extra point dimension to keep, such as gps_time or red.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a store that was made from other inputs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Raw files to a column store: one decode and one pass per tile, resumable, bad files set aside."""
    from dataclasses import replace

    from fusion3d.prepare.run import prepare as run
    from fusion3d.prepare.scene import AlsSource, GediInput, RasterInput, Scene, read_scene
    from fusion3d.prepare.summary import summary_lines

    inputs = inputs or []
    named = {name: tuple(files) for name, files in zip(_SHORT_RASTERS, (ortho, hsi, s2, s1), strict=True) if files}
    kinds = {"s1": "backscatter"}
    for text in raster or []:
        name, kind, path = _raster_option(text)
        named[name] = (*named.get(name, ()), path)
        kinds[name] = kind
    sidecars = dict(_name_and_path(text, "--bands") for text in bands or [])
    unknown = set(sidecars) - set(named)
    if unknown:
        raise ConfigError(f"--bands names {', '.join(sorted(unknown))}, but there is no such raster sensor")
    options = {
        key: value
        for key, value in (("crs", crs), ("column", column), ("voxel", voxel), ("block", block), ("bounds", bounds))
        if value is not None
    }
    scenes = [item for item in inputs if item.lower().endswith((".yaml", ".yml"))]
    if scenes:
        if len(inputs) > 1 or named or gedi or normalized or attribute:
            raise ConfigError("a scene file names every source: put the other files into it")
        scene = replace(read_scene(scenes[0]), **options)
    else:
        footprints = [*(gedi or []), *(item for item in inputs if item.lower().endswith((".h5", ".hdf5")))]
        tiles = [item for item in inputs if item not in footprints]
        stray = [item for item in tiles if item.lower().endswith((".tif", ".tiff", ".jp2", ".vrt"))]
        if stray:
            raise ConfigError(
                f"{stray[0]} is a raster: say of which sensor with --ortho, --s2, --s1, --hsi or --raster NAME=PATH"
            )
        als = AlsSource(tuple(tiles), normalized=normalized, attributes=tuple(attribute or ())) if tiles else None
        rasters = {
            name: RasterInput(files, kind=kinds.get(name, "reflectance"), bands=sidecars.get(name))
            for name, files in named.items()
        }
        scene = Scene(als, rasters, GediInput(tuple(footprints)) if footprints else None, **options)
    summary = run(scene, store, overwrite=overwrite, jobs=jobs, quiet=quiet)
    for line in summary_lines(summary):
        out.print(line, markup=False)
    if summary.set_aside:
        raise typer.Exit(1)


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


def _name_and_path(text: str, option: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not (separator and name and path):
        raise ConfigError(f"{option} wants NAME=PATH, not {text!r}")
    return name, path


def _raster_option(text: str) -> tuple[str, str, str]:
    label, path = _name_and_path(text, "--raster")
    name, _, kind = label.partition(":")
    return name, kind or "reflectance", path


@app.command()
def info(paths: Annotated[list[Path], typer.Argument(help="Stores, LAS/LAZ/COPC, rasters or GEDI files.")]) -> None:
    """What a store, a point cloud, a raster or a GEDI file holds."""
    from fusion3d.prepare.summary import describe_store

    failed = False
    for path in paths:
        try:
            if path.is_dir() and (path / "zarr.json").exists():
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


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def pretrain(context: typer.Context) -> None:
    """Learn the encoders of a store's sensors from location alone (`fusion3d pretrain --help` lists every option)."""
    from fusion3d.pretraining.command import main as run

    raise typer.Exit(run(context.args))


@app.command()
def embed(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of `fusion3d pretrain` (.ckpt), or its run folder.")],
    store: Annotated[Path, typer.Argument(help="Column store.")],
    target: Annotated[
        list[Path], typer.Option("--out", help="Map to write: .tif is a COG, .parquet a GeoParquet; may be given twice.")
    ],
    sensors: Annotated[str | None, typer.Option(help="Sensors to use, comma-separated [default: all that both have].")] = None,
    resolution: Annotated[
        float | None, typer.Option(help="Cell size, metres; a whole multiple or fraction of the column.")
    ] = None,
    tile: Annotated[int | None, typer.Option(help="Tile side, columns; changes memory, never the values.")] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            help="mean, precision or attention [default: precision, or mean where the checkpoint has no trained fusion]."
        ),
    ] = None,
    features: Annotated[
        str, typer.Option(help="shared: what sensors are compared by. all: also fused features with what only one sensor knows.")
    ] = "shared",
    picture: Annotated[Path | None, typer.Option(help="Also draw the first three principal components to this PNG.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Wall-to-wall map of embeddings, one per column, from any subset of the sensors."""
    from fusion3d.mapping.embed import embed as run

    chosen = _names(sensors)
    extra = {} if tile is None else {"tile": tile}
    if picture is not None and not any(path.suffix.lower() in (".tif", ".tiff") for path in target):
        raise ConfigError("--picture is drawn from a COG: give --out a .tif too")
    if picture is not None and not picture.absolute().parent.is_dir():
        raise ConfigError(f"--picture {picture}: there is no folder {picture.parent}")
    summary = run(
        checkpoint, store, target, sensors=chosen, resolution=resolution, fusion=fusion, features=features, device=device,
        progress=not quiet, **extra,
    )  # fmt: skip
    if picture is not None:
        from fusion3d.mapping.picture import picture as draw

        draw(next(path for path in target if path.suffix.lower() in (".tif", ".tiff")), picture)
        out.print(f"picture: {picture}", markup=False)
    out.print(str(summary), markup=False)


@app.command()
def metrics(
    store: Annotated[Path, typer.Argument(help="Column store with aerial LiDAR.")],
    target: Annotated[Path, typer.Option("--out", help="Map to write, a COG (.tif) with a band for each metric.")],
    resolution: Annotated[float, typer.Option(help="Cell size, metres; a multiple of the column.")] = 20.0,
    names: Annotated[
        str | None, typer.Option("--metrics", help="Of zmax,zq95,pzabove2,rumple,..., comma-separated [default: all predictors].")
    ] = None,
    min_height: Annotated[
        float,
        typer.Option(
            help="Metres: height, L-moment and intensity metrics count returns above it, 0 all of them; cover always counts all."
        ),
    ] = 0.0,
    min_returns: Annotated[int, typer.Option(help="A metric of fewer returns is nodata.")] = 10,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Wall-to-wall plot metrics of the area-based approach, by the names that lidR gives them: a map for `fusion3d fit`."""
    from fusion3d.mapping.metrics_map import metrics_map

    summary = metrics_map(
        store, target, resolution=resolution, names=_names(names), min_height=min_height, least=min_returns, progress=not quiet
    )
    out.print(str(summary), markup=False)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of `fusion3d pretrain` (.ckpt), or its run folder.")],
    store: Annotated[Path, typer.Argument(help="Column store.")],
    target: Annotated[
        list[Path] | None, typer.Option("--out", help="File for the figures: .json, or .md for tables; may be given twice.")
    ] = None,
    sensors: Annotated[str | None, typer.Option(help="Sensors to use, comma-separated [default: all that both have].")] = None,
    columns: Annotated[int, typer.Option(help="Retrieval: at most this many columns in the gallery.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the choice of columns, of draws of labels and of intervals.")] = 0,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Retrieval: random weights instead: what training is compared with.")
    ] = False,
    retrieve: Annotated[bool, typer.Option("--retrieval/--no-retrieval", help="Whether to measure retrieval.")] = True,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Probes: what is known of places; may be given several times. A raster in any CRS (each band a variable), field "
            "plots (with --target), or als:classes: vegetation, building and ground shares from the classes of the points."
        ),
    ] = None,
    variable: Annotated[str | None, typer.Option("--target", help="Columns of the plots to predict, comma-separated.")] = None,
    label_kind: Annotated[
        str, typer.Option(help="Labels are values, classes, or auto: integers of few values, and text, are classes.")
    ] = "auto",
    radius: Annotated[float | None, typer.Option(help="Of plots that are points without a `radius` column, metres.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of a file of plots that has several.")] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of labels that state none.")] = None,
    probe: Annotated[list[str] | None, typer.Option(help="linear or knn; may be given several times [default: both].")] = None,
    share: Annotated[
        list[float] | None, typer.Option(help="Labels to learn from, per cent; may be given several times [default: 1 10 100].")
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of each share below 100 %.")] = 5,
    label_columns: Annotated[int, typer.Option(help="At most this many labelled places to learn from, and to test on.")] = 2000,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Also random weights, raw features and training from scratch.")
    ] = True,
    supervised_steps: Annotated[
        int, typer.Option(help="Of the encoders trained from scratch on the labels, for each share; 0 leaves that out.")
    ] = 60,
    alone: Annotated[
        list[str] | None,
        typer.Option(help="SENSOR=RUN, a checkpoint trained on that sensor alone: how much of it the others cost or gave."),
    ] = None,
    robust: Annotated[
        bool,
        typer.Option(
            "--robustness",
            help="Also the fused embedding of every subset of sensors, and with gaps, noise and shifts; see "
            "docs/evaluation.md. Takes many times as long.",
        ),
    ] = False,
    subsets: Annotated[
        int, typer.Option(help="Robustness: at most this many subsets of sensors, drawn if there are more.")
    ] = 127,
    robustness_draws: Annotated[
        int, typer.Option(help="Robustness: draws of gaps and of noise, and directions of shifts (at most 4).")
    ] = 3,
    robustness_columns: Annotated[int, typer.Option(help="Robustness: at most this many columns in a gallery.")] = 1000,
    fusion: Annotated[
        list[str] | None,
        typer.Option(help="Robustness: mean, precision or attention; may be given several times [default: all there are]."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """How good the encoders are on places never trained on: retrieval across sensors and, with --labels, frozen probes.

    Retrieval: R@1, R@5, R@10 for every ordered pair of sensors, with chance. Probes: linear models and nearest neighbours from 1,
    10 and 100 % of the labels of the training part, tested on the held-out part, beside raw features, random weights and the same
    encoders trained from scratch. With --robustness, both for the fused embedding when sensors are missing, have gaps, are noisy
    or misplaced.
    """
    from fusion3d.evaluation.outcome import Evaluation
    from fusion3d.evaluation.retrieval import retrieval

    if not (retrieve or labels or robust):
        raise ConfigError("--no-retrieval without --labels leaves nothing to measure")
    if robust and untrained:
        raise ConfigError("--untrained is for retrieval alone; leave it out, or --robustness")
    for path in target or []:
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"--out {path}: there is no folder {path.parent}")
    chosen, probes, robustness = _names(sensors), None, None
    if robust:
        from fusion3d.evaluation.robustness import RobustnessOptions

        ways = tuple(fusion) if fusion else None
        trial = RobustnessOptions(subsets, robustness_draws, robustness_columns, ways, retrieve, seed)
    pairs = (
        retrieval(checkpoint, store, sensors=chosen, max_columns=columns, seed=seed, untrained=untrained, device=device)
        if retrieve
        else None
    )
    if labels:
        from fusion3d.evaluation.labels import open_labels
        from fusion3d.evaluation.probe_tasks import ProbeOptions
        from fusion3d.evaluation.probing import probe as run
        from fusion3d.store import Store

        opened = Store.open(store)
        options = ProbeOptions(
            tuple(probe or ("linear", "knn")), tuple(part / 100 for part in share or (1, 10, 100)), draws, label_columns,
            baselines, supervised_steps, seed,
        )  # fmt: skip
        known = {"targets": _names(variable) or (), "kind": label_kind, "radius": radius, "layer": layer, "crs": crs}
        sources = [open_labels(text, opened, **known) for text in labels]
        probes = run(
            checkpoint, opened, sources, options, sensors=chosen,
            alone=dict(_name_and_path(text, "--alone") for text in alone or []), device=device, progress=not quiet,
        )  # fmt: skip
    if robust:
        from fusion3d.evaluation.robustness import robustness as try_out

        labelled = {"sources": sources, "label_options": options} if labels else {}
        robustness = try_out(checkpoint, store, options=trial, sensors=chosen, device=device, progress=not quiet, **labelled)
    found = Evaluation(pairs, probes, robustness)
    out.print(found.table(), markup=False)
    for path in target or []:
        found.write(path)
        out.print(f"figures: {path}", markup=False)


@app.command(context_settings={"allow_extra_args": True})
def fit(
    context: typer.Context,
    embedding: Annotated[Path, typer.Argument(help="Map of `fusion3d embed` (.tif).")],
    labels: Annotated[
        list[str],
        typer.Option(
            help="Field plots (GeoPackage, GeoJSON, Shapefile or CSV; discs or polygons); GEDI L4A files (GEDI04_A*.h5, also "
            "several, or their folder) or a column store with L4A, both with --target agbd; or a raster with values on some "
            "pixels (.tif). For classes polygons or a raster of them."
        ),
    ],
    target: Annotated[Path, typer.Option("--out", help="Folder for model, scores and held-out predictions.")],
    variable: Annotated[
        str | None,
        typer.Option("--target", help="Column of the plots to predict; of classes also several, as landuse,natural."),
    ] = None,
    task: Annotated[
        str, typer.Option(help="biomass (a continuous variable, not negative), landcover (classes) or crops (classes of fields).")
    ] = "biomass",
    model: Annotated[
        str | None,
        typer.Option(
            help="ridge (linear), forest (random forest), boosting (boosted trees), mlp (small network), or power (power law "
            "of a few positive predictors, such as height metrics); of classes linear or forest [default: ridge, or linear]."
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Classes: YAML with the name of each label, `4: grass`; equal names are merged.")
    ] = None,
    confidence: Annotated[
        Path | None, typer.Option(help="Classes: YAML with how far labels of a class are trusted, 0 to 1, `forest: 0.8`.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="Unit of the target, such as Mg/ha; of several targets as Mg/ha,m2/ha.")
    ] = None,
    band: Annotated[
        int | None, typer.Option(help="Of a raster of labels, from 1 [default: the one named as the target].")
    ] = None,
    label_nodata: Annotated[
        float | None, typer.Option(help="Of a raster of labels: a value that means no label, beside its nodata tag.")
    ] = None,
    sensitivity: Annotated[
        float | None, typer.Option(help="Of GEDI footprints: least beam sensitivity, 0 to 1 [default: 0.9].")
    ] = None,
    geolocation: Annotated[
        float | None, typer.Option(help="Of GEDI footprints: standard deviation of their position, metres [default: 10].")
    ] = None,
    radius: Annotated[float | None, typer.Option(help="Of plots that are points without a `radius` column, metres.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of a file that has several.")] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of a CSV's coordinates.")] = None,
    stratum: Annotated[str | None, typer.Option(help="Column of the plots to score separately by.")] = None,
    transform: Annotated[str, typer.Option(help="none, sqrt or log1p; what comes back is corrected for bias.")] = "none",
    scheme: Annotated[
        str, typer.Option(help="What is held out: blocks of ground, each of the strata in turn, or random plots (too hopeful).")
    ] = "blocks",
    block: Annotated[float | None, typer.Option(help="Side of the blocks, metres [default: from the plots].")] = None,
    folds: Annotated[int, typer.Option(help="Shares that are held out in turn.")] = 5,
    baseline: Annotated[Path | None, typer.Option(help="Raster to compare with, such as canopy height.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Column store with LiDAR: the area-based approach on its points is scored beside.")
    ] = None,
    level: Annotated[float, typer.Option(help="Share of measured values that intervals of predictions shall cover.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Of the blocks, the bootstrap, and models that draw lots.")] = 0,
) -> None:
    """A model on frozen embeddings from plots or classes of ground, scored on blocks of ground that it never saw.

    Labels of a continuous variable are field plots, GEDI L4A footprints or a raster of sparse labels. Footprints are described by
    Gaussian means of sigma (6.25 m, --geolocation) combined, those that l4_quality_flag, degrade_flag or --sensitivity reject are
    left out, and each weighs 1 / (agbd_se^2 + residual variance) with ridge, forest and boosting. Each pixel with a value of a
    raster is a plot. Of several targets, one that fails does not stop the others; the exit status is 1 then.
    """
    from fusion3d.tasks.classes import CLASS_TASKS
    from fusion3d.tasks.fit import TASKS

    files = [*labels, *_further_labels(context.args, labels)]
    shared = {
        "radius": radius, "layer": layer, "crs": crs, "stratum": stratum, "scheme": scheme, "block": block, "folds": folds,
        "baseline": baseline, "seed": seed,
    }  # fmt: skip
    if task in CLASS_TASKS:
        from fusion3d.tasks.classes.fit_classes import fit_classes

        foreign = {"--unit": unit, "--store": store, "--transform": None if transform == "none" else transform, "--band": band}
        foreign |= {"--label-nodata": label_nodata, "--sensitivity": sensitivity, "--geolocation": geolocation}
        if given := [name for name, value in foreign.items() if value is not None]:
            raise ConfigError(f"{given[0]} is for --task biomass")
        if len(files) > 1:
            raise ConfigError(f"--task {task} takes one file of labels, not {len(files)}")
        classified = fit_classes(
            embedding, files[0], variable, target, task=task, model=model or "linear", classes=classes, confidence=confidence,
            **shared,  # type: ignore[arg-type]
        )  # fmt: skip
        out.print(str(classified), markup=False)
        return
    if task not in TASKS:
        raise ConfigError(f"--task {task!r}: give one of {', '.join((*TASKS, *CLASS_TASKS))}")
    if classes is not None or confidence is not None:
        raise ConfigError(f"{'--classes' if classes is not None else '--confidence'} is for --task {' and '.join(CLASS_TASKS)}")
    if variable is None:
        raise ConfigError("say which column of the plots to predict with --target NAME")
    options = {
        "task": task, "model": model or "ridge", "band": band, "label_nodata": label_nodata, "sensitivity": sensitivity,
        "geolocation": geolocation, "transform": transform, "store": store, "level": level, **shared,
    }  # fmt: skip
    variables = _names(variable) or []
    if len(variables) == 1:
        from fusion3d.tasks.fit import fit as run

        out.print(str(run(embedding, files, variables[0], target, unit=unit, **options)), markup=False)  # type: ignore[arg-type]
        return
    from fusion3d.tasks.fit_targets import fit_targets

    units = None if unit is None else [part.strip() for part in unit.split(",")]
    found = fit_targets(embedding, files, variables, target, units=units, **options)
    out.print(str(found), markup=False)
    if found.failed:
        raise typer.Exit(1)


def _further_labels(extra: list[str], labels: list[str]) -> list[str]:
    """What a shell made of --labels GEDI04_A*.h5 beyond the first file; anything else is an argument too many."""
    for text in extra:
        if Path(text).suffix.lower() != Path(labels[-1]).suffix.lower() or text.startswith("-"):
            raise ConfigError(f"unexpected argument {text!r}; the map of embeddings comes first, each option before its value")
    return extra


@app.command("map")
def map_(
    model: Annotated[Path, typer.Argument(help="Folder of `fusion3d fit`.")],
    embedding: Annotated[Path, typer.Argument(help="Map of `fusion3d embed` (.tif).")],
    target: Annotated[Path, typer.Option("--out", help="Map to write, a COG (.tif).")],
    level: Annotated[float | None, typer.Option(help="Of the interval, such as 0.9 [default: that of the fit].")] = None,
    estimate_only: Annotated[bool, typer.Option("--estimate-only", help="No bands but the estimate.")] = False,
    block: Annotated[int, typer.Option(help="Side of what is computed at once, cells; changes memory, never the values.")] = 256,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Wall-to-wall map of a variable: estimate, standard error, interval, and where the model extrapolates.

    Of classes: a map with a palette, and NAME_confidence.tif beside it.
    """
    from fusion3d.tasks.classes.class_model_file import is_class_model

    if is_class_model(model):
        from fusion3d.mapping.class_map import class_map

        if level is not None or estimate_only:
            raise ConfigError("--level and --estimate-only are for maps of a continuous variable, not of classes")
        out.print(str(class_map(model, embedding, target, block=block, progress=not quiet)), markup=False)
        return
    from fusion3d.mapping.predict import predict

    found = predict(model, embedding, target, level=level, estimate_only=estimate_only, block=block, progress=not quiet)
    out.print(str(found), markup=False)


@app.command()
def total(
    surface: Annotated[Path, typer.Argument(help="Map of `fusion3d map` (.tif); its first band is the estimate.")],
    model: Annotated[Path, typer.Option(help="Folder of `fusion3d fit` that made it, with its held-out plots.")],
    target: Annotated[Path, typer.Option("--out", help="Table to write: .csv, .gpkg or .json.")],
    areas: Annotated[Path | None, typer.Option(help="Polygons of the areas [default: the whole map].")] = None,
    name: Annotated[str | None, typer.Option(help="Column of the areas' names.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of a file of areas that has several.")] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of areas that state none.")] = None,
    design: Annotated[
        str,
        typer.Option(
            help="How plots were chosen: random, stratified (at random in each stratum), or none: no probability sample."
        ),
    ] = "none",
    strata: Annotated[
        Path | None, typer.Option(help="Polygons of the strata, named as the plots' are; for --design stratified.")
    ] = None,
    stratum: Annotated[str | None, typer.Option(help="Column of names in --strata.")] = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Mean and total of areas with standard errors: model-assisted where plots are a random sample, else model-dependent."""
    from fusion3d.mapping.totals import totals

    found = totals(
        surface, model, target, areas=areas, name=name, layer=layer, crs=crs, design=design, strata=strata, stratum=stratum,
        level=level, seed=seed,
    )  # fmt: skip
    out.print(str(found), markup=False)
    if found.set_aside:
        raise typer.Exit(1)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder of `fusion3d pretrain`.")],
    target: Annotated[Path | None, typer.Option("--out", help="HTML file [default: report.html in the run folder].")] = None,
    store: Annotated[Path | None, typer.Option(help="Column store [default: the one of the run].")] = None,
    fit: Annotated[
        Path | None, typer.Option(help="Folder of `fusion3d fit` [default: biomass in the run folder; also landcover and crops].")
    ] = None,
    map: Annotated[
        Path | None,
        typer.Option(help="Map of `fusion3d map` [default: agb.tif in the run folder; also landcover.tif, crops.tif]."),
    ] = None,
    truth: Annotated[list[str] | None, typer.Option(help="Raster of what is known, NAME=PATH, such as agb=truth.tif.")] = None,
) -> None:
    """One HTML file of a run: what went in, embedding, retrieval, losses, biomass map, a 3D picture and the configuration."""
    from fusion3d.report.page import write_report

    known = dict(_name_and_path(text, "--truth") for text in truth or [])
    out.print(f"report: {write_report(run, target, store=store, fit=fit, map=map, truth=known or None)}", markup=False)


@app.command()
def doctor() -> None:
    """Which operators are compiled, which run on plain torch, whether spconv can be used, why, and what to install."""
    from fusion3d.ops.native import report as operators
    from fusion3d.sparse.backend import report as convolutions

    for lines in (operators, convolutions):
        for line in lines():
            out.print(line, markup=False)


def main() -> None:
    """Entry point: errors that a user can act on are one line and exit status 2."""
    try:
        app()
    except Fusion3DError as error:
        err.print(f"fusion3d: {error}", markup=False)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        err.print(
            f"fusion3d: {where}{error.strerror or error}; check the path, its rights and the free space",
            markup=False,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
