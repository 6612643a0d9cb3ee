"""A checkpoint as it is read: weights and plain data, never Python objects, whose making could run the code of who wrote it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fusion3d.encoders.cell_statistics import QUANTILES
from fusion3d.encoders.registry import ENCODERS, Scalar, kind_of
from fusion3d.errors import InputError, one_line

REMEDY = "give the .ckpt or the run folder of `fusion3d pretrain`"
REMEDY_OF_VERSIONS = f"{REMEDY}; train one of another version again"


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint of `fusion3d pretrain` holds, its tensors mapped from the file.

    Raises
    ------
    InputError
        It is missing, is no such checkpoint, is damaged, or holds more than tensors and plain data.
    """
    if not path.is_file():
        raise InputError(path, "no checkpoint there", REMEDY)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        missing = {"state_dict", "global_step", "hyper_parameters"} - set(held)
        instantiator = held.get("hyper_parameters", {}).get("_instantiator")
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)|class (\S+)", str(error))
        what = f" ({named[1] or named[2]})" if named else ""
        raise InputError(path, f"holds Python objects{what}, which could run code, and is not opened", REMEDY) from None
    except Exception as error:  # damaged files raise anything
        reason = one_line(error)
        raise InputError(path, f"not a checkpoint of `fusion3d pretrain` ({type(error).__name__}: {reason})", REMEDY) from None
    if missing:
        raise InputError(path, f"not a checkpoint of `fusion3d pretrain` (without {', '.join(sorted(missing))})", REMEDY)
    if instantiator is not None:
        raise InputError(path, f"names a function to be called ({str(instantiator)[:80]}), and is not opened", REMEDY)
    return dict(held)


def encoders_of(path: Path, held: Mapping[str, Any]) -> dict[str, dict[str, Scalar]]:
    """Hyperparameters of the encoders of a checkpoint by sensor, as they were trained: presets may have changed since.

    Parameters
    ----------
    path, held : as `read_checkpoint` read it

    Raises
    ------
    InputError
        The weights are not those of such encoders.
    """
    sensor = None
    try:
        found = {}
        for sensor in sorted({name.split(".")[1] for name in held["state_dict"] if name.startswith("encoders.")}):
            found[sensor] = _hyperparameters(sensor, held)
            _compare(sensor, found[sensor], held["state_dict"])
        return found
    except Exception as error:  # what another version, or somebody else, has written raises anything
        what = "it" if sensor is None else f"its {one_line(sensor, 40)} encoder"
        raise InputError(path, f"{what} does not fit this version of fusion3d ({one_line(error)})", REMEDY_OF_VERSIONS) from None


def _hyperparameters(sensor: str, held: Mapping[str, Any]) -> dict[str, Scalar]:
    if sensor in held.get("encoders", {}):
        return dict(held["encoders"][sensor])
    # written before they were recorded: the preset, but for what presets have changed since
    trained, weights = held["hyper_parameters"], held["state_dict"]
    options = {**ENCODERS[kind_of(sensor)].presets[trained["preset"]], **(trained.get("encoder_options") or {}).get(sensor, {})}
    if sensor == "als":
        without_statistics = 2 * weights["encoders.als.score.weight"].shape[1] + 1 + len(QUANTILES)
        options["statistics"] = weights["encoders.als.head.enter.weight"].shape[1] > without_statistics
    return options


def _compare(sensor: str, hyperparameters: Mapping[str, Scalar], weights: Mapping[str, torch.Tensor]) -> None:
    """Raise what tells that the weights are not those of an encoder, before memory is taken for it."""
    with torch.device("meta"):
        expected = ENCODERS[kind_of(sensor)](**hyperparameters).state_dict()  # type: ignore[arg-type]
    start = f"encoders.{sensor}."
    held = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    for name in sorted(expected.keys() ^ held.keys()):
        raise ValueError(f"{name} is {'missing' if name in expected else 'not known'}")
    for name, value in expected.items():
        if held[name].shape != value.shape:
            raise ValueError(f"{name} is {list(held[name].shape)}, not {list(value.shape)}")
