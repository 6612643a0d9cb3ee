"""The command line: one verb per step from raw files to maps. Heavy modules are imported by the verb that needs them."""

from fusion3d.cli import estimating, learning, preparing, reporting, segmenting
from fusion3d.cli.application import app, main

__all__ = ["app", "estimating", "learning", "main", "preparing", "reporting", "segmenting"]

_ORDER = ("prepare", "info", "pretrain", "embed", "evaluate", "metrics", "fit", "map", "segment", "total", "report", "doctor")
app.registered_commands.sort(key=lambda command: _ORDER.index(command.name or command.callback.__name__))  # type: ignore[union-attr]
