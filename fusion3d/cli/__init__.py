"""The command line: one verb per step from raw files to maps. Heavy modules are imported by the verb that needs them."""

from fusion3d.cli import estimating, indexing, learning, preparing, reporting, segmenting
from fusion3d.cli.application import app, main

__all__ = ["app", "estimating", "indexing", "learning", "main", "preparing", "reporting", "segmenting"]

_ORDER = (
    "index", "prepare", "info", "pretrain", "embed", "evaluate", "metrics", "fit", "map", "segment", "total", "report", "doctor",
)  # fmt: skip
app.registered_commands.sort(key=lambda command: _ORDER.index(command.name or command.callback.__name__))  # type: ignore[union-attr]
