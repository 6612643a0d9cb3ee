"""Models as files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load, save

from fusion3d import __version__
from fusion3d.errors import InputError
from fusion3d.evaluation.blocks import Folds
from fusion3d.evaluation.ridge import Ridge
from fusion3d.tasks.conformal import Conformal
from fusion3d.tasks.domain import Domain
from fusion3d.tasks.model import TargetModel
from fusion3d.tasks.model_file import read_model, write_model
from fusion3d.tasks.regressors import FAMILIES, Fitted

OLD = {
    "format": "fusion3d ridge model", "format_version": 1, "target": "agb", "unit": "Mg/ha", "features": ["a", "b"],
    "ridge": {"mean": [1.0, 10.0], "scale": [4.0, 6.0], "coefficients": [2.0, -3.0], "intercept": 5.0, "penalty": 0.7},
    "transform": "none", "residuals": [-2.0, 1.0, 1.0], "nonnegative": True, "trained_on": {"checkpoint": "x.ckpt"},
    "version": "0.1.0",
}  # fmt: skip
"""As written before there were other models: z = 5 + 2 (a - 1) / 4 - 3 (b - 10) / 6."""


def model(kind: str = "ridge", **changes: object) -> TargetModel:
    rng = np.random.default_rng(0)
    features = rng.uniform(1, 9, (12, 2))
    target = features[:, 0] ** 2 + features[:, 1]
    if kind == "ridge":
        ridge = Ridge(np.array([1.0, 10.0]), np.array([4.0, 6.0]), np.array([2.0, -3.0]), 5.0, 0.7)
        fitted = Fitted(ridge, np.array([1.0, -2.0, 1.0]))
    else:
        fitted = FAMILIES[kind].fit(features, target, groups=np.arange(12) // 3, seed=0)
    split = Folds("blocks", np.arange(12) % 3, np.arange(12), 10.0, np.zeros((2, 0), np.int64), 0.0, 0)
    about = {"target": "agb", "unit": "Mg/ha", "features": ("a", "b"), "transform": "none", "nonnegative": True, "kind": kind}
    about |= {
        "trained_on": {"checkpoint": "x.ckpt"},
        "level": 0.8,
        "intervals": Conformal.of(target, target + rng.normal(size=12)),
    }
    about |= {"domain": Domain.of(features, fitted.regressor, split), **changes}
    return TargetModel.of(fitted, **about)


@pytest.mark.parametrize("kind", ["ridge", "forest", "power"])
def test_files_bring_back_every_number(tmp_path, kind):
    original = model(kind)
    path, _ = write_model(original, tmp_path / "model.json")
    cells = np.random.default_rng(1).uniform(-2, 12, (2, 50)).astype(np.float32)
    for given in (path, tmp_path):
        again = read_model(given)
        np.testing.assert_array_equal(again.predict_bands(cells), original.predict_bands(cells))
        np.testing.assert_array_equal(again.residuals, original.residuals)
        np.testing.assert_array_equal(again.domain.dissimilarity(cells), original.domain.dissimilarity(cells))
        assert again.domain.threshold == original.domain.threshold
        values = again.predict_bands(cells)
        for ours, theirs in zip(again.intervals.bounds(values, 0.8, True), original.intervals.bounds(values, 0.8, True)):
            np.testing.assert_array_equal(ours, theirs)
        for name in ("target", "unit", "features", "transform", "nonnegative", "kind", "level", "trained_on"):
            assert getattr(again, name) == getattr(original, name)
        assert again.version == __version__
    assert {item.name for item in tmp_path.iterdir()} == {"model.json", "model.safetensors"}


def test_model_without_intervals_and_domain_comes_back_without(tmp_path):
    write_model(model(intervals=None, domain=None, transform="log1p"), tmp_path / "model.json")
    again = read_model(tmp_path)
    assert (again.intervals, again.domain, again.transform) == (None, None, "log1p")


def test_ridge_of_an_older_version_is_read(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(OLD))
    found = read_model(tmp_path)
    features = np.array([[1.0, 10.0], [5.0, 16.0], [1.0, 30.0]])
    assert found.predict(features).tolist() == [5.0, 4.0, 0.0]
    assert (found.kind, found.intervals, found.domain, found.trained_on) == ("ridge", None, None, {"checkpoint": "x.ckpt"})


def refused(path, message):
    with pytest.raises(InputError, match=message) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain: plain.update(format="other"), "is not a model"),
        (lambda plain: plain.update(format_version=99), "another version"),
        (lambda plain: plain.update(surprise=1), "damaged"),
        (lambda plain: plain.pop("transform"), "damaged"),
        (lambda plain: plain.update(transform="cube"), "damaged"),
        (lambda plain: plain.update(features=["a"]), "damaged"),
        (lambda plain: plain.update(residuals=[]), "damaged"),
        (lambda plain: plain["ridge"].update(scale=[0.0, 1.0]), "damaged"),
        (lambda plain: plain["ridge"].update(coefficients=[float("nan"), 1.0]), "damaged"),
        (lambda plain: plain["ridge"].update(mean=[[1.0, 2.0]]), "damaged"),
    ],
)
def test_damaged_file_of_an_older_version_is_refused_in_one_line(tmp_path, change, message):
    plain = json.loads(json.dumps(OLD))
    change(plain)
    (tmp_path / "model.json").write_text(json.dumps(plain))
    refused(tmp_path, message)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "svm"}, {"features": ["a"]}, {"features": 3}, {"settings": {}}, {"level": 2.0}, {"level": "high"},
        {"intervals": {}, "domain": {}}, {"domain": 4}, {"trained_on": []}, {"arrays": None}, {"transform": "cube"},
    ],
)  # fmt: skip
def test_damaged_json_is_refused_in_one_line(tmp_path, change):
    path, _ = write_model(model(), tmp_path / "model.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(path, "damaged|missing")


def test_arrays_that_are_missing_foreign_or_cut_are_refused_in_one_line(tmp_path):
    path, beside = write_model(model("forest"), tmp_path / "model.json")
    whole = beside.read_bytes()
    for wrong in (whole[:-8], b"", b"\xff" * 100, save({"residuals": np.ones(3)})):
        beside.write_bytes(wrong)
        refused(path, r"model\.safetensors: is not the one that model\.json was written with")
    beside.unlink()
    refused(path, r"model\.safetensors: is missing")


@pytest.mark.parametrize("name", ["regressor.left", "regressor.feature", "regressor.value", "residuals", "intervals.error",
                                  "domain.plots", "domain.weights"])  # fmt: skip
def test_arrays_that_belong_but_make_no_sense_are_refused_in_one_line(tmp_path, name):
    """The digest is right, as someone who made the file by hand would have it."""
    import hashlib

    path, beside = write_model(model("forest"), tmp_path / "model.json")
    arrays = load(beside.read_bytes())
    arrays[name] = np.full_like(arrays[name], 9 if arrays[name].dtype.kind == "i" else np.nan)
    data = save(arrays)
    beside.write_bytes(data)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": hashlib.sha256(data).hexdigest()}))
    refused(path, "damaged")


def test_missing_and_unreadable_files_are_refused(tmp_path):
    refused(tmp_path, "no model there")
    for text in ("{", "[1]", "[" * 100_000):
        (tmp_path / "model.json").write_text(text)
        refused(tmp_path, "is not a model")


def test_write_into_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_model(model(), tmp_path / "none" / "model.json")
