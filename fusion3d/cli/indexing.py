"""Verb for archives: index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fusion3d.cli.application import app, out
from fusion3d.errors import ConfigError


@app.command("index")
def index_tiles(
    inputs: Annotated[list[str], typer.Argument(help="Folders (with all below them), patterns, LAS/LAZ/COPC files or URLs.")],
    target: Annotated[
        Path, typer.Option("--out", help="GeoPackage to write; the virtual point cloud (.vpc) goes beside it.")
    ] = Path("index.gpkg"),
    crs: Annotated[str | None, typer.Option(help="CRS of tiles that state none.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Index an archive by its headers: where the tiles lie, and gaps, overlaps, copies, mixtures, damaged files."""
    if target.suffix.lower() != ".gpkg":
        raise ConfigError(f"--out is a GeoPackage, for instance index.gpkg, not {target}")
    from fusion3d.prepare.run_index import index_archive
    from fusion3d.prepare.tile_index_summary import index_lines

    index = index_archive(inputs, target, crs=crs, quiet=quiet)
    for line in index_lines(index.archive, index.findings):
        out.print(line, markup=False)
    out.print(f"virtual point cloud: {index.vpc}", markup=False)
    out.print(f"index: {index.geopackage}", markup=False)
    if index.archive.set_aside:
        raise typer.Exit(1)
