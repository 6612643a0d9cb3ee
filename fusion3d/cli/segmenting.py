"""Classes of single points: the verb segment, and the fit that makes its models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion3d.cli.application import app, options_given, out
from fusion3d.errors import ConfigError

_OPTIONS = {
    "embedding", "target", "task", "classes", "block", "folds", "seed", "checkpoint", "finetune", "steps", "points", "quiet",
}  # fmt: skip


def fit_segmentation(context: typer.Context, store: Path, target: Path) -> None:
    """`fusion3d fit --task segmentation` with the options of its context."""
    from fusion3d.tasks.segmentation.fit_points import MOST_POINTS, fit_points

    options = context.params
    if context.args:
        raise ConfigError(f"unexpected argument {context.args[0]!r}; --task segmentation takes one store")
    if foreign := options_given(context, [name for name in options if name not in _OPTIONS]):
        raise ConfigError(f"{foreign[0]} is not for --task segmentation")
    if options["checkpoint"] is None:
        raise ConfigError("--task segmentation needs the encoder: give the run of `fusion3d pretrain` with --checkpoint RUN")
    classes = None if options["classes"] is None else str(options["classes"])
    most = MOST_POINTS if options["points"] is None else options["points"]
    found = fit_points(
        store, options["checkpoint"], target, classes=classes, most_points=most, progress=not options["quiet"],
        **{name: options[name] for name in ("finetune", "steps", "block", "folds", "seed")},
    )  # fmt: skip
    out.print(str(found), markup=False)


@app.command()
def segment(
    model: Annotated[Path, typer.Argument(help="Folder of `fusion3d fit --task segmentation`.")],
    files: Annotated[list[str], typer.Argument(help="LAS, LAZ or COPC files, folders or patterns, of one CRS.")],
    target: Annotated[Path, typer.Option("--out-dir", help="Folder for the LAZ files, named as the given ones.")],
    keep_original: Annotated[
        bool, typer.Option("--keep-original", help="Also write the classes that the file had, as dimension original_class.")
    ] = False,
    crs: Annotated[str | None, typer.Option(help="CRS of files that state none.")] = None,
    square: Annotated[int, typer.Option(help="Side of what is computed at once, voxels; changes memory, never the values.")] = 64,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """The same LAZ files with predicted classes: points in their order, all dimensions kept, and a dimension confidence.

    Give neighbouring tiles together: each is classified with the points of the others around it. Files that cannot be used, or
    that are in --out-dir already, are set aside; the exit status is 1 then.
    """
    from fusion3d.mapping.segment import segment as run

    found = run(model, files, target, keep_original=keep_original, crs=crs, square=square, device=device, progress=not quiet)
    out.print(str(found), markup=False)
    if found.set_aside:
        raise typer.Exit(1)
