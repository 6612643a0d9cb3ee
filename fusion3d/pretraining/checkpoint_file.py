"""A checkpoint as it is read: weights and plain data, never Python objects, whose making could run the code of who wrote it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fusion3d.encoders.cell_statistics import QUANTILES
from fusion3d.encoders.registry import Scalar
from fusion3d.errors import InputError, one_line

REMEDY = "give the .ckpt or the run folder of `fusion3d pretrain`"


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


def encoders_of(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Scalar]]:
    """Options of the encoders of a checkpoint by sensor, which make them as they were trained: presets may have changed since.

    A checkpoint from before all hyperparameters were recorded gets those that presets have changed.
    """
    if "encoders" in checkpoint:
        return {sensor: dict(recorded) for sensor, recorded in checkpoint["encoders"].items()}
    options = {sensor: dict(given) for sensor, given in (checkpoint["hyper_parameters"].get("encoder_options") or {}).items()}
    weights = checkpoint["state_dict"]
    if "encoders.als.score.weight" in weights:
        without_statistics = 2 * weights["encoders.als.score.weight"].shape[1] + 1 + len(QUANTILES)
        statistics = weights["encoders.als.head.enter.weight"].shape[1] > without_statistics
        options["als"] = options.get("als", {}) | {"statistics": statistics}
    return options
