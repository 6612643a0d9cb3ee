"""Encoders trained further on plots: `fusion3d fit --finetune`."""

from __future__ import annotations

from pathlib import Path

import typer

from fusion3d.cli.application import listed, options_given, out
from fusion3d.errors import ConfigError

_SHARED = ("unit", "radius", "layer", "crs", "stratum", "scheme", "block", "folds", "level", "seed")
_OPTIONS = ("embedding", "target", "labels", "variable", "task", "checkpoint", "finetune", "steps", "sensors", "device", "quiet")


def fit_finetuned(context: typer.Context, store: Path, labels: list[str], target: Path) -> None:
    """`fusion3d fit --finetune` with the options of its context."""
    from fusion3d.tasks.finetune import STEPS, finetune

    options = context.params
    if foreign := options_given(context, [name for name in options if name not in (*_SHARED, *_OPTIONS)]):
        raise ConfigError(f"{foreign[0]} has no place with --finetune")
    if options["task"] != "biomass":
        raise ConfigError(f"--finetune is for --task biomass and segmentation, not {options['task']}")
    if options["checkpoint"] is None:
        raise ConfigError("--finetune needs the encoders: give the run of `fusion3d pretrain` with --checkpoint RUN")
    variables = listed(options["variable"]) or []
    if len(variables) != 1:
        raise ConfigError("--finetune takes one column of the plots to predict: --target NAME")
    found = finetune(
        options["checkpoint"], store, labels, variables[0], target, sensors=listed(options["sensors"]),
        steps=STEPS if options["steps"] is None else options["steps"], device=options["device"], progress=not options["quiet"],
        **{name: options[name] for name in _SHARED},
    )  # fmt: skip
    out.print(str(found), markup=False)
