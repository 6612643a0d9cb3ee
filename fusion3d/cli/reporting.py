"""Verbs that tell what there is: report, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion3d.cli.application import app, name_and_path, out


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

    known = dict(name_and_path(text, "--truth") for text in truth or [])
    out.print(f"report: {write_report(run, target, store=store, fit=fit, map=map, truth=known or None)}", markup=False)


@app.command()
def doctor() -> None:
    """Which operators are compiled, which run on plain torch, whether spconv can be used, why, and what to install."""
    from fusion3d.ops.native import report as operators
    from fusion3d.sparse.backend import report as convolutions

    for lines in (operators, convolutions):
        for line in lines():
            out.print(line, markup=False)
