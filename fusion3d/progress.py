"""A progress bar on the error stream, for what takes longer than a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion3d.workers import Workers

_PERIOD = 600.0
"""Seconds over which the rate is taken: pieces that take minutes still have one."""


@contextmanager
def progress_bar(
    name: str, total: int, shown: bool, *, unit: str = "", done: int = 0, workers: Workers | None = None
) -> Iterator[Callable[[], None]]:
    """Give a function that is to be called after each piece of work: how many of how many, how fast, and how long it still takes.

    Parameters
    ----------
    total : pieces of work
    unit : what they are, for instance tiles
    done : of them, by a run before; they do not count in the rate
    workers : whose dashboard is named as soon as there is one
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g} {unit}".rstrip() + "/s")

    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        *([TextColumn(unit)] if unit else []),
        Rate(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    named = False
    with Progress(*columns, console=console, disable=not shown, speed_estimate_period=_PERIOD) as bar:
        task = bar.add_task(name, total=total, completed=done)

        def advance() -> None:
            nonlocal named
            bar.advance(task)
            if shown and not named and workers is not None and workers.dashboard is not None:
                named = True
                bar.print(f"{name}: what runs where is shown at {workers.dashboard}", markup=False, highlight=False)

        yield advance
