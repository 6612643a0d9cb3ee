"""One encoder, one file: weights in safetensors, the kind and plain hyperparameters in its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fusion3d import __version__
from fusion3d.encoders.registry import ENCODERS, Encoder
from fusion3d.errors import ConfigError, InputError, one_line
from fusion3d.io.whole_file import whole_file

_KEY = "fusion3d.encoder"


def save_encoder(encoder: Encoder, path: str | Path, weights: Mapping[str, torch.Tensor] | None = None) -> Path:
    """Write an encoder; nothing half-written stays under `path`.

    Parameters
    ----------
    weights : its state, where the encoder itself holds only a part of it; None takes that of the encoder

    Raises
    ------
    InputError
        The file cannot be written.
    """
    path = Path(path)
    description = {"kind": encoder.kind, "hyperparameters": encoder.hyperparameters, "version": __version__}
    state = encoder.state_dict() if weights is None else weights
    whole = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with whole_file(path, SafetensorError) as draft:
        save_file(whole, draft, metadata={_KEY: json.dumps(description)})
        os.chmod(draft, 0o644)
    return path


def load_encoder(path: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """Read an encoder, in evaluation mode.

    Raises
    ------
    InputError
        No such file, not an encoder, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "`fusion3d pretrain` writes encoders/SENSOR.safetensors into its run folder")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        description = json.loads(metadata[_KEY])
        encoder = ENCODERS[description["kind"]](**description["hyperparameters"])
        encoder.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        reason = one_line(error)
        raise InputError(path, f"not an encoder of fusion3d, or damaged ({reason})", "write it with save_encoder") from None
    return encoder.to(device).eval()
