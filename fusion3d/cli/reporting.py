"""Verbs that tell what there is: report, doctor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fusion3d.cli.application import app, err, name_and_path, out
from fusion3d.errors import ConfigError


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
def doctor(
    store: Annotated[
        str | None, typer.Argument(help="A column store to verify: folder or URL [default: none, look at the installation].")
    ] = None,
    mend: Annotated[
        bool, typer.Option("--repair", help="Make again what is damaged, block by block, from the sources of the store.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Is the installation sound: compiled operators, spconv. With a store: is it whole, and mend it."""
    if store is not None:
        if not _doctor_store(store, mend, quiet):
            raise typer.Exit(1)
        return
    if mend:
        raise ConfigError("say which store to repair: fusion3d doctor STORE --repair")
    from fusion3d.ops.native import report as operators
    from fusion3d.sparse.backend import report as convolutions

    for lines in (operators, convolutions):
        for line in lines():
            out.print(line, markup=False)


def _doctor_store(path: str, mend: bool, quiet: bool) -> bool:
    """Verify, with `mend` repair and verify again; whether the store is whole in the end."""
    from fusion3d.prepare.repair import repair
    from fusion3d.store.verification import Verification, verdict, verify

    path = path.rstrip("/") or path

    def say(text: object) -> None:
        out.print(str(text), markup=False)

    def look(title: str) -> Verification:
        with _progress(title, quiet) as progress:
            return verify(path, say, progress)

    verification = look("verify")
    if mend and verification.attributes is not None and verification.findings:
        with _progress("repair", quiet) as progress:
            done = repair(path, verification, lambda: look("verify again"), progress)
        for unit, reason in done.outcomes.items():
            say(f"not mended: {unit}: {reason}" if reason else f"made again: {unit}")
        for note in done.notes:
            say(f"note: {note}")
        verification = done.verification
    for line in verdict(path, verification, mended=mend):
        say(line)
    return not verification.findings


@contextmanager
def _progress(title: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=quiet) as bars:
        bar = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
