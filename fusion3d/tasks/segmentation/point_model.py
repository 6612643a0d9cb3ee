"""A fitted classifier of points as files: what it is in `model.json`, all weights, the encoder's too, in `model.safetensors`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fusion3d import __version__
from fusion3d.encoders.als import AlsEncoder
from fusion3d.errors import InputError
from fusion3d.io.json_file import parsing
from fusion3d.tasks.classes.calibration import tempered
from fusion3d.tasks.classes.legend import Legend
from fusion3d.tasks.model_file import REFIT, read_arrays, read_plain, write_files
from fusion3d.tasks.segmentation.network import PointClassifier
from fusion3d.tasks.segmentation.pieces import EXTRAS, Piece
from fusion3d.tasks.segmentation.training import probabilities

FORMAT, _VERSION = "fusion3d point class model", 1
_ENCODER, _HEAD = "unet.", "head."


@dataclass(frozen=True)
class PointModel:
    """Classes of points, from their positions and attributes.

    Attributes
    ----------
    legend : of the classes
    network : encoder and head
    temperature : that calibrates its probabilities
    brightest : intensity that counts as 1: the 95th percentile of the store that was learned from
    trained_on : store, checkpoint and points, by name
    version : of fusion3d
    """

    legend: Legend
    network: PointClassifier
    temperature: float
    brightest: float
    trained_on: dict[str, str] = field(default_factory=dict)
    version: str = __version__

    @property
    def voxel(self) -> float:
        """Metres."""
        return self.network.voxel

    def classify(self, piece: Piece) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
        """Code of the likeliest class, and its calibrated probability, of the points of a square."""
        found = tempered(probabilities(self.network, piece).T.astype(np.float64), self.temperature)
        return np.array(self.legend.codes, np.uint8)[found.argmax(axis=0)], found.max(axis=0)


def write_point_model(model: PointModel, path: str | Path) -> tuple[Path, Path]:
    """Write the JSON and the weights beside it, each whole or not at all; returns the two paths."""
    encoder, legend = model.network.encoder, model.legend
    classes = [
        {"code": code, "name": name, "colour": colour}
        for code, name, colour in zip(legend.codes, legend.names, legend.colours, strict=True)
    ]
    parts = {_ENCODER: encoder.unet.state_dict(), _HEAD: model.network.head.state_dict()}
    arrays = {prefix + name: value.cpu().numpy() for prefix, part in parts.items() for name, value in part.items()}
    plain = {
        "classes": classes, "encoder": encoder.hyperparameters, "extras": list(EXTRAS), "voxel": model.voxel,
        "temperature": model.temperature, "brightest": model.brightest, "trained_on": dict(model.trained_on),
        "version": model.version,
    }  # fmt: skip
    return write_files(path, {"format": FORMAT, "format_version": _VERSION}, plain, arrays)


def read_point_model(path: str | Path) -> PointModel:
    """A model from its JSON, or from the folder that holds it.

    Raises
    ------
    InputError
        It is missing, is no such model, is of a newer version, or is damaged.
    """
    path, plain = read_plain(path, (FORMAT,))
    if plain.get("format_version") != _VERSION or plain.get("extras") != list(EXTRAS):
        raise InputError(path, "is a model of another version of fusion3d", "fit it again, or update fusion3d")
    with parsing(path, "is damaged", REFIT):
        arrays = read_arrays(path, plain)
        rows = [(int(found["code"]), str(found["name"]), str(found["colour"])) for found in plain["classes"]]
        legend = Legend(*(tuple(column) for column in zip(*rows, strict=True)))
        numbers = {name: float(plain[name]) for name in ("voxel", "temperature", "brightest")}
        if not all(math.isfinite(value) and value > 0 for value in numbers.values()):
            raise ValueError("voxel, temperature and brightest must be positive numbers")
        network = PointClassifier(AlsEncoder(**plain["encoder"]), len(legend), numbers["voxel"])
        for prefix, part in ((_ENCODER, network.encoder.unet), (_HEAD, network.head)):
            named = {
                name.removeprefix(prefix): torch.from_numpy(v.copy()) for name, v in arrays.items() if name.startswith(prefix)
            }
            part.load_state_dict(named)
        trained_on = {str(name): str(value) for name, value in plain["trained_on"].items()}
    return PointModel(
        legend, network.eval(), numbers["temperature"], numbers["brightest"], trained_on, str(plain.get("version", ""))
    )
