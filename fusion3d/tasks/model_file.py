"""A fitted model as files: `model.json` says what it is in plain types, `model.safetensors` beside it holds its arrays.

Nothing is pickled, so reading a model runs no code of its author. The JSON names the SHA-256 of the arrays: two files that do not
belong together, for instance after a crash between the two, are found out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion3d.errors import InputError, one_line
from fusion3d.io.json_file import file_of, has_format, parsing, read_json, write_json
from fusion3d.io.whole_file import whole_file
from fusion3d.tasks.conformal import Conformal
from fusion3d.tasks.domain import Domain
from fusion3d.tasks.model import TargetModel
from fusion3d.tasks.regressors import FAMILIES
from fusion3d.tasks.regressors.protocol import numbers

MODEL_FILE, ARRAYS_FILE = "model.json", "model.safetensors"
_FORMAT, _VERSION = "fusion3d model", 2
_RIDGE_FORMAT, _RIDGE_VERSION = "fusion3d ridge model", 1
"""Of before there were other models: all numbers in the JSON, no intervals."""
_POINTS = "fusion3d point class model"
_REMEDY = "give the folder or the model.json that `fusion3d fit` wrote"
_PLAIN = ("target", "unit", "transform", "nonnegative", "kind", "level", "version")
REFIT = "fit the model again"

Arrays = dict[str, npt.NDArray[Any]]


def write_model(model: TargetModel, path: str | Path) -> tuple[Path, Path]:
    """Write the JSON and the arrays beside it, each whole or not at all; returns the two paths."""
    parts = FAMILIES[model.kind].pack(model.regressor)
    arrays = {"residuals": model.residuals, **_prefixed("regressor", parts.arrays)}
    plain = {name: getattr(model, name) for name in _PLAIN}
    plain |= {"features": list(model.features), "trained_on": dict(model.trained_on), "settings": parts.settings}
    for name in ("intervals", "domain"):
        found = getattr(model, name)
        values = {} if found is None else {item.name: getattr(found, item.name) for item in fields(found)}
        arrays |= _prefixed(name, {key: value for key, value in values.items() if isinstance(value, np.ndarray)})
        plain[name] = None if found is None else {k: float(v) for k, v in values.items() if not isinstance(v, np.ndarray)}
    return write_files(path, {"format": _FORMAT, "format_version": _VERSION}, plain, arrays)


def write_files(path: str | Path, head: dict[str, Any], plain: dict[str, Any], arrays: Arrays) -> tuple[Path, Path]:
    """Write arrays as safetensors beside the JSON of the rest, which names their SHA-256; each whole or not at all."""
    from safetensors.numpy import save

    path = Path(path)
    beside = path.with_suffix(".safetensors")
    data = save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    with whole_file(beside) as draft:
        draft.write_bytes(data)
    head = head | {"arrays": beside.name, "sha256": hashlib.sha256(data).hexdigest()}
    return write_json(path, head | plain, indent=1), beside


def read_model(path: str | Path) -> TargetModel:
    """A model from its JSON, or from the folder that holds it.

    Raises
    ------
    InputError
        It is missing, is no such model, is of a newer version, or is damaged.
    """
    path, plain = read_plain(path, (_FORMAT, _RIDGE_FORMAT))
    old = plain.pop("format") == _RIDGE_FORMAT
    if plain.pop("format_version", None) != (_RIDGE_VERSION if old else _VERSION):
        raise InputError(path, "is a model of another version of fusion3d", "fit it again, or update fusion3d")
    with parsing(path, "is damaged", REFIT):
        return _old_ridge(plain) if old else _model(plain, read_arrays(path, plain))


def _model(plain: dict[str, Any], arrays: Arrays) -> TargetModel:
    features = tuple(map(str, plain["features"]))
    kind = FAMILIES[plain["kind"]]
    regressor = kind.unpack(plain["settings"], _of("regressor", arrays), len(features))
    about = {name: plain[name] for name in _PLAIN}
    about |= {"nonnegative": bool(plain["nonnegative"]), "level": float(plain["level"])}
    known = plain["intervals"], plain["domain"]
    intervals = None if known[0] is None else Conformal(**_scalars(known[0]), **_numbers("intervals", arrays))
    domain = None if known[1] is None else Domain(**_scalars(known[1]), **_numbers("domain", arrays))
    if domain is not None and not (domain.mean.shape == domain.scale.shape == domain.weights.shape == (len(features),)):
        raise ValueError("the domain is not one of the model's features")
    return TargetModel(
        features=features, regressor=regressor, residuals=numbers(arrays["residuals"], (-1,)), intervals=intervals, domain=domain,
        trained_on={str(name): str(value) for name, value in plain["trained_on"].items()}, **about,
    )  # fmt: skip


def read_plain(path: str | Path, formats: tuple[str, ...]) -> tuple[Path, dict[str, Any]]:
    """The JSON of a model, from its path or from the folder that holds it, and its path.

    Raises
    ------
    InputError
        It is missing, or is none of the formats.
    """
    path = file_of(path, MODEL_FILE, "no model there", _REMEDY)
    if _POINTS not in formats and has_format(path, MODEL_FILE, _POINTS):
        raise InputError(path, "is a model of points, not of maps", "apply it with `fusion3d segment`")
    with parsing(path, "is not a model", _REMEDY):
        return path, read_json(path, *formats)


def read_arrays(path: Path, plain: dict[str, Any]) -> Arrays:
    """The arrays beside the JSON of a model; InputError where they are missing, damaged, or of another model."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    beside = path.with_name(Path(str(plain["arrays"])).name)
    if not beside.is_file():
        raise InputError(beside, f"is missing: {path.name} keeps its numbers there", "copy both files, or fit the model again")
    try:
        data = beside.read_bytes()
        if hashlib.sha256(data).hexdigest() != plain["sha256"]:
            raise InputError(beside, f"is not the one that {path.name} was written with", REFIT)
        return load(data)
    except (OSError, SafetensorError) as error:
        raise InputError(beside, f"cannot be read ({one_line(error)})", REFIT) from None


def _old_ridge(plain: dict[str, Any]) -> TargetModel:
    ridge, features = dict(plain.pop("ridge")), tuple(map(str, plain.pop("features")))
    settings = {name: ridge.pop(name) for name in ("intercept", "penalty")}
    regressor = FAMILIES["ridge"].unpack(settings, ridge, len(features))
    residuals, nonnegative = numbers(plain.pop("residuals"), (-1,)), bool(plain.pop("nonnegative"))
    return TargetModel(features=features, regressor=regressor, residuals=residuals, nonnegative=nonnegative, **plain)


def _prefixed(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    return {f"{name}.{key}": value for key, value in arrays.items()}


def _of(name: str, arrays: Arrays) -> Arrays:
    return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}


def _numbers(name: str, arrays: Arrays) -> dict[str, Any]:
    return {key: numbers(value) for key, value in _of(name, arrays).items()}


def _scalars(plain: dict[str, Any]) -> dict[str, Any]:
    return {str(name): float(value) for name, value in plain.items()}
