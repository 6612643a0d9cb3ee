"""Verbs of the encoders: pretrain, embed, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion3d.cli.application import app, listed, name_and_path, out
from fusion3d.errors import ConfigError


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def pretrain(context: typer.Context) -> None:
    """Learn the encoders of a store's sensors from location alone (`fusion3d pretrain --help` lists every option)."""
    from fusion3d.pretraining.command import main as run

    raise typer.Exit(run(context.args))


@app.command()
def embed(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of `fusion3d pretrain` (.ckpt), or its run folder.")],
    store: Annotated[str, typer.Argument(help="Column store: folder or URL, such as s3://bucket/scene.zarr.")],
    target: Annotated[
        list[str],
        typer.Option("--out", help="Map to write, file or URL: .tif is a COG, .parquet a GeoParquet; may be given twice."),
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
        str | None,
        typer.Option(
            help="shared: what sensors are compared by. all: also fused features with what only one sensor knows. sensors: also "
            "the features of each sensor, in bands of its own. answer: what fine-tuned encoders answer [default: shared, or "
            "answer for a run of `fit --finetune`]."
        ),
    ] = None,
    picture: Annotated[str | None, typer.Option(help="Also draw the first three principal components to this PNG.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes, with one thread each; 1: this one, with all threads [default: 2, on a GPU 1].")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to run on, such as tcp://10.0.0.1:8786.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Wall-to-wall map of embeddings, one per column, from any subset of the sensors.

    A run that was stopped leaves OUT.partial beside the first file; the same command goes on from there.
    """
    from fusion3d.io.binary_file import is_url
    from fusion3d.io.delivery import delivery
    from fusion3d.io.geotiff import is_tif
    from fusion3d.mapping.embed import default_workers
    from fusion3d.mapping.embed import embed as run

    chosen = listed(sensors)
    extra = {} if tile is None else {"tile": tile}
    if picture is not None and not any(map(is_tif, target)):
        raise ConfigError("--picture is drawn from a COG: give --out a .tif too")
    if picture is not None and not is_url(picture) and not Path(picture).absolute().parent.is_dir():
        raise ConfigError(f"--picture {picture}: there is no folder {Path(picture).parent}")
    with delivery([] if picture is None else [picture]) as drawings:
        summary = run(
            checkpoint, store, target, sensors=chosen, resolution=resolution, fusion=fusion, features=features, device=device,
            workers=default_workers(device) if workers is None else workers, scheduler=scheduler, progress=not quiet, **extra,
        )  # fmt: skip
        for drawing in drawings:
            from fusion3d.mapping.picture import picture as draw

            draw(next(filter(is_tif, target)), drawing)
    if picture is not None:
        out.print(f"picture: {picture}", markup=False)
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
    chosen, probes, robustness = listed(sensors), None, None
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
        known = {"targets": listed(variable) or (), "kind": label_kind, "radius": radius, "layer": layer, "crs": crs}
        sources = [open_labels(text, opened, **known) for text in labels]
        probes = run(
            checkpoint, opened, sources, options, sensors=chosen,
            alone=dict(name_and_path(text, "--alone") for text in alone or []), device=device, progress=not quiet,
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
