"""A fitted classifier as files, in the manner of `fusion3d.tasks.model_file`: plain types in JSON, arrays in safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusion3d.errors import InputError
from fusion3d.io.json_file import has_format, parsing
from fusion3d.tasks.classes import CLASSIFIERS
from fusion3d.tasks.classes.class_model import ClassModel
from fusion3d.tasks.classes.legend import Legend
from fusion3d.tasks.model_file import MODEL_FILE, REFIT, Arrays, read_arrays, read_plain, write_files

FORMAT, _VERSION = "fusion3d class model", 1
_PLAIN = ("task", "target", "kind", "temperature", "version")


def write_class_model(model: ClassModel, path: str | Path) -> tuple[Path, Path]:
    """Write the JSON and the arrays beside it, each whole or not at all; returns the two paths."""
    parts = CLASSIFIERS[model.kind].pack(model.classifier)
    legend = model.legend
    classes = [
        {"code": code, "name": name, "colour": colour}
        for code, name, colour in zip(legend.codes, legend.names, legend.colours, strict=True)
    ]
    plain = {name: getattr(model, name) for name in _PLAIN}
    plain |= {"classes": classes, "features": list(model.features), "trained_on": dict(model.trained_on)}
    return write_files(path, {"format": FORMAT, "format_version": _VERSION}, plain | {"settings": parts.settings}, parts.arrays)


def read_class_model(path: str | Path) -> ClassModel:
    """A model from its JSON, or from the folder that holds it.

    Raises
    ------
    InputError
        It is missing, is no such model, is of a newer version, or is damaged.
    """
    path, plain = read_plain(path, (FORMAT,))
    if plain.get("format_version") != _VERSION:
        raise InputError(path, "is a model of another version of fusion3d", "fit it again, or update fusion3d")
    with parsing(path, "is damaged", REFIT):
        return _model(plain, read_arrays(path, plain))


def is_class_model(path: str | Path) -> bool:
    """Whether a file, or the model of a folder, is one of classes; False for what cannot be read."""
    return has_format(path, MODEL_FILE, FORMAT)


def _model(plain: dict[str, Any], arrays: Arrays) -> ClassModel:
    features = tuple(map(str, plain["features"]))
    rows = [(int(found["code"]), str(found["name"]), str(found["colour"])) for found in plain["classes"]]
    legend = Legend(*(tuple(column) for column in zip(*rows, strict=True)))
    classifier = CLASSIFIERS[plain["kind"]].unpack(plain["settings"], arrays, len(features), len(legend))
    about = {name: plain[name] for name in _PLAIN} | {"temperature": float(plain["temperature"])}
    return ClassModel(
        legend=legend, features=features, classifier=classifier,
        trained_on={str(name): str(value) for name, value in plain["trained_on"].items()}, **about,
    )  # fmt: skip
