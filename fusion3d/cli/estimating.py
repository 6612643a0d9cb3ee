"""Verbs from labels to maps and totals: metrics, fit, map, total."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion3d.cli.application import app, listed, options_given, out
from fusion3d.errors import ConfigError, InputError
from fusion3d.workers import DEFAULT


@app.command()
def metrics(
    sources: Annotated[
        list[str], typer.Argument(help="A column store with aerial LiDAR; or LAS, LAZ or COPC tiles, folders or patterns.")
    ],
    target: Annotated[str, typer.Option("--out", help="Map to write, a COG (.tif, or its URL) with a band for each metric.")],
    resolution: Annotated[float, typer.Option(help="Cell size, metres; on a store a multiple of the column.")] = 20.0,
    names: Annotated[
        str | None,
        typer.Option(
            "--metrics",
            help="Of zmax,zq95,pzabove2,rumple,..., comma-separated [default: all predictors; of tiles "
            "zmax,zmean,n,zq5,zq25,zq50,zq75,zq95].",
        ),
    ] = None,
    min_height: Annotated[
        float,
        typer.Option(
            help="Metres: height, L-moment and intensity metrics count returns above it, 0 all of them; cover always counts all."
        ),
    ] = 0.0,
    min_returns: Annotated[
        int | None, typer.Option(help="A metric of fewer returns is nodata [default: 10; of tiles 1].")
    ] = None,
    ground: Annotated[
        bool,
        typer.Option(
            "--ground",
            help="Tiles only: heights above their triangulated ground; else Z as the tiles hold it, as lasR and lidR do.",
        ),
    ] = False,
    crs: Annotated[str | None, typer.Option(help="Tiles only: CRS of those that state none.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Wall-to-wall metrics of aerial LiDAR, by the names that lidR gives them, from a store or straight from tiles.

    Of a store, the plot metrics of the area-based approach: a map for `fusion3d fit`. Of tiles, extremes, mean, number and
    percentiles of Z in one decode; tiles that cannot be used are set aside.
    """
    from fusion3d.mapping.metrics_map import MetricsSummary, metrics_map
    from fusion3d.store.reader import is_store

    if len(sources) == 1 and is_store(sources[0]):
        if ground or crs:
            raise ConfigError("--ground and --crs are for tiles: a store has its heights and its CRS")
        summary = metrics_map(
            sources[0], target, resolution=resolution, names=listed(names), min_height=min_height,
            least=10 if min_returns is None else min_returns, progress=not quiet,
        )  # fmt: skip
        out.print(str(summary), markup=False)
        return
    from fusion3d.mapping.tile_metrics import TileMetricsSummary, height_metrics, tile_metrics

    chosen, least = listed(names), 1 if min_returns is None else min_returns
    found: MetricsSummary | TileMetricsSummary
    if ground:
        found = height_metrics(
            sources, target, resolution=resolution, names=chosen, min_height=min_height, least=least, crs=crs, progress=not quiet
        )
    elif min_height:
        raise ConfigError("--min-height is for heights above ground: give --ground, or a store")
    else:
        found = tile_metrics(sources, target, resolution=resolution, names=chosen, least=least, crs=crs, progress=not quiet)
    for _, reason in found.set_aside:
        out.print(f"set aside: {reason}", markup=False)
    out.print(str(found), markup=False)
    if found.set_aside:
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True})
def fit(
    context: typer.Context,
    embedding: Annotated[
        Path, typer.Argument(help="Map of `fusion3d embed` (.tif); with --finetune and --task segmentation a column store.")
    ],
    target: Annotated[Path, typer.Option("--out", help="Folder for model, scores and held-out predictions.")],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Field plots (GeoPackage, GeoJSON, Shapefile or CSV; discs or polygons); GEDI L4A files (GEDI04_A*.h5, also "
            "several, or their folder) or a column store with L4A, both with --target agbd; or a raster with values on some "
            "pixels (.tif). For classes polygons or a raster of them; for segmentation none."
        ),
    ] = None,
    variable: Annotated[
        str | None,
        typer.Option("--target", help="Column of the plots to predict; of classes also several, as landuse,natural."),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="biomass (a continuous variable, not negative), landcover (classes), crops (classes of fields) or segmentation "
            "(classes of points, from a store and a --checkpoint)."
        ),
    ] = "biomass",
    model: Annotated[
        str | None,
        typer.Option(
            help="ridge (linear), banded (linear, with a weight for the bands of each sensor), forest (random forest), boosting "
            "(boosted trees), mlp (small network), power (power law of a few positive predictors, such as height metrics), or "
            "aba (the area-based approach: random forest on metrics of the returns in the plots; needs --store and a map of "
            "`fusion3d metrics`); of classes linear or forest [default: ridge, or linear]."
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Classes: YAML with the name of each label, `4: grass`; equal names are merged. Of points: codes, as 2,5,6."
        ),
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
    checkpoint: Annotated[
        Path | None, typer.Option(help="Of --finetune and segmentation: run folder or checkpoint of `fusion3d pretrain`.")
    ] = None,
    finetune: Annotated[
        bool, typer.Option("--finetune", help="Train the encoders on the labels too [default: only a model on what they say].")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="Of --finetune, in each fold [default: 100 with plots, 150 of segmentation].")
    ] = None,
    sensors: Annotated[
        str | None, typer.Option(help="Of --finetune with plots, comma-separated [default: all that checkpoint and store have].")
    ] = None,
    device: Annotated[str, typer.Option(help="Of --finetune with plots: cpu, cuda, or auto.")] = "auto",
    points: Annotated[
        int | None, typer.Option(help="Segmentation: points to learn from and to score, more are not read [default: 600000].")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Of --finetune and segmentation: no progress bar.")] = False,
) -> None:
    """A model on frozen embeddings from plots or classes of ground, scored on blocks of ground that it never saw.

    Labels of a continuous variable are field plots, GEDI L4A footprints or a raster of sparse labels. Footprints are described by
    Gaussian means of sigma (6.25 m, --geolocation) combined, those that l4_quality_flag, degrade_flag or --sensitivity reject are
    left out, and each weighs 1 / (agbd_se^2 + residual variance) with ridge, banded, forest and boosting. Each pixel with a value
    of a raster is a plot. Of several targets, one that fails does not stop the others; the exit status is 1 then.
    """
    from fusion3d.tasks.classes import CLASS_TASKS
    from fusion3d.tasks.fit import TASKS

    if task == "segmentation":
        from fusion3d.cli.segmenting import fit_segmentation

        fit_segmentation(context, embedding, target)
        return
    if labels is None:
        raise ConfigError("say what to learn from with --labels FILE")
    files = [*labels, *_further_labels(context.args, labels)]
    if finetune:
        from fusion3d.cli.finetuning import fit_finetuned

        fit_finetuned(context, embedding, files, target)
        return
    if foreign := options_given(context, ("checkpoint", "steps", "sensors", "device", "points", "quiet")):
        raise ConfigError(f"{foreign[0]} is for --finetune and --task segmentation")
    if embedding.is_dir():
        _refuse_store(embedding)
    shared = {
        "radius": radius, "layer": layer, "crs": crs, "stratum": stratum, "scheme": scheme, "block": block, "folds": folds,
        "baseline": baseline, "seed": seed,
    }  # fmt: skip
    if task in CLASS_TASKS:
        from fusion3d.tasks.classes.fit_classes import fit_classes

        foreign = ("unit", "store", "transform", "band", "label_nodata", "sensitivity", "geolocation")
        if given := options_given(context, foreign):
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
        raise ConfigError(f"--task {task!r}: give one of {', '.join((*TASKS, *CLASS_TASKS, 'segmentation'))}")
    if classes is not None or confidence is not None:
        raise ConfigError(f"{'--classes' if classes is not None else '--confidence'} is for --task {' and '.join(CLASS_TASKS)}")
    if variable is None:
        raise ConfigError("say which column of the plots to predict with --target NAME")
    options = {
        "task": task, "model": model or "ridge", "band": band, "label_nodata": label_nodata, "sensitivity": sensitivity,
        "geolocation": geolocation, "transform": transform, "store": store, "level": level, **shared,
    }  # fmt: skip
    variables = listed(variable) or []
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


def _refuse_store(path: Path) -> None:
    from fusion3d.store import Store

    try:
        Store.open(path)
    except InputError:
        return
    remedy = "map it first with `fusion3d embed` or `fusion3d metrics`, or give --finetune --checkpoint RUN"
    raise InputError(path, "is a column store, not a map of embeddings", remedy)


def _further_labels(extra: list[str], labels: list[str]) -> list[str]:
    """What a shell made of --labels GEDI04_A*.h5 beyond the first file; anything else is an argument too many."""
    for text in extra:
        if Path(text).suffix.lower() != Path(labels[-1]).suffix.lower() or text.startswith("-"):
            raise ConfigError(f"unexpected argument {text!r}; the map of embeddings comes first, each option before its value")
    return extra


@app.command("map")
def map_(
    model: Annotated[Path, typer.Argument(help="Folder of `fusion3d fit`.")],
    embedding: Annotated[str, typer.Argument(help="Map of `fusion3d embed` (.tif), file or URL.")],
    target: Annotated[str, typer.Option("--out", help="Map to write, a COG (.tif); file or URL, such as s3://bucket/agb.tif.")],
    level: Annotated[float | None, typer.Option(help="Of the interval, such as 0.9 [default: that of the fit].")] = None,
    estimate_only: Annotated[bool, typer.Option("--estimate-only", help="No bands but the estimate.")] = False,
    uncut: Annotated[
        bool, typer.Option("--uncut", help="Keep estimates below 0: for means of many cells, which cutting would raise.")
    ] = False,
    resolution: Annotated[
        float | None,
        typer.Option(help="Cell size, metres; a multiple of the raster's, such as the plots' size [default: the raster's]."),
    ] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of a raster, or of areas, that state none.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Table of the mapped cells to write as well, a GeoParquet; file or URL.")
    ] = None,
    areas: Annotated[Path | None, typer.Option(help="Polygons to summarise, as `fusion3d total` does; needs --summary.")] = None,
    summary: Annotated[str | None, typer.Option(help="Table of the areas to write: .csv, .gpkg or .json; file or URL.")] = None,
    name: Annotated[str | None, typer.Option(help="Column of the areas' names.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of a file of areas that has several.")] = None,
    block: Annotated[int, typer.Option(help="Side of what is computed at once, cells; changes memory, never the values.")] = 256,
    workers: Annotated[int, typer.Option(help="Threads.")] = DEFAULT,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to run on instead, such as tcp://10.0.0.1:8786.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Wall-to-wall map of a variable: estimate, standard error, interval, and where the model extrapolates.

    Of classes: a map with a palette, and NAME_confidence.tif beside it. A run that was stopped leaves OUT.partial; the same
    command goes on from there.
    """
    from fusion3d.grid import parse_crs
    from fusion3d.tasks.classes.class_model_file import is_class_model
    from fusion3d.tasks.segmentation.point_card import is_point_fit

    if crs is not None:
        parse_crs(crs)
    if is_point_fit(model):
        raise ConfigError(f"{model} is a fit of classes of points: `fusion3d segment` applies it, to LAZ files")
    if (areas is None) != (summary is None):
        raise ConfigError("--areas needs --summary, the table to write, and --summary needs --areas")
    if areas is None and (name is not None or layer is not None):
        raise ConfigError("--name and --layer are of --areas: give that too")
    if is_class_model(model):
        from fusion3d.mapping.class_map import class_map

        numbers = {"--level": level, "--resolution": resolution}
        others = {"--columns": columns, "--areas": areas, "--estimate-only": estimate_only or None, "--uncut": uncut or None}
        if given := [option for option, value in {**numbers, **others}.items() if value is not None]:
            raise ConfigError(f"{given[0]} is for maps of a continuous variable, not of classes")
        classes = class_map(
            model, embedding, target, crs=crs, block=block, workers=workers, scheduler=scheduler, progress=not quiet
        )
        out.print(str(classes), markup=False)
        return
    from fusion3d.io.delivery import delivery
    from fusion3d.mapping.predict import predict

    with delivery([] if summary is None else [summary]) as tables:
        for table in tables:
            from fusion3d.mapping.totals import check_request

            check_request(model, table, embedding, areas, name=name, layer=layer, crs=crs)
        found = predict(
            model, embedding, target, level=level, estimate_only=estimate_only, uncut=uncut, resolution=resolution, crs=crs,
            columns=columns, block=block, workers=workers, scheduler=scheduler, progress=not quiet,
        )  # fmt: skip
        out.print(str(found), markup=False)
        for table in tables:
            from fusion3d.mapping.totals import totals

            summed = totals(target, model, table, areas=areas, name=name, layer=layer, crs=crs, level=level or found.level)
            out.print(f"\n{summed}", markup=False)
    if summary is not None and summed.set_aside:
        raise typer.Exit(1)


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
