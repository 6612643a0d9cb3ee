from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fusion3d.encoders import build, load_encoder, save_encoder
from fusion3d.errors import InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_encoder(build("gedi", "tiny"), tmp_path_factory.mktemp("encoder") / "gedi.safetensors")


def refused(path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_encoder(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def rewritten(saved, path, **changes: object):
    """The file with other entries in its description; None takes one out."""
    with safe_open(str(saved), framework="pt") as file:
        description = json.loads(file.metadata()["fusion3d.encoder"]) | changes
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    kept = {key: value for key, value in description.items() if value is not None}
    save_file(weights, path, metadata={"fusion3d.encoder": json.dumps(kept)})
    return path


def test_missing_file_is_refused(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file; .*pretrain")
    refused(tmp_path, "no such file")


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html><body>404</body></html>\n", b"\x00" * 64, b"\xff" * 4096])
def test_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(content)
    refused(path, "not an encoder of fusion3d, or damaged")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_truncated_file_is_refused(saved, tmp_path, share):
    path = tmp_path / "encoder.safetensors"
    content = saved.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, "not an encoder of fusion3d, or damaged")


def test_weights_without_description_are_refused(tmp_path):
    path = tmp_path / "encoder.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    refused(path, "not an encoder of fusion3d")


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "sonar"},
        {"kind": "raster"},
        {"kind": None},
        {"kind": ["gedi"]},
        {"hyperparameters": None},
        {"hyperparameters": {}},
        {"hyperparameters": "tiny"},
        {"hyperparameters": [1, 2]},
        {"hyperparameters": {"width": 96, "shared_dim": 64, "point_channels": 64, "heads": 5}},
        {"hyperparameters": {"width": 96, "shared_dim": 64, "point_channels": 128, "heads": 4}},
        {"hyperparameters": {"width": 96, "shared_dim": 64, "point_channels": 0, "heads": 4}},
        {"hyperparameters": {"width": 96, "shared_dim": 64, "point_channels": 64, "heads": 0}},
        {"hyperparameters": {"width": "wide", "shared_dim": 64, "point_channels": 64, "heads": 4}},
        {"hyperparameters": {"width": 96, "shared_dim": 64, "point_channels": 64, "heads": 4, "depth": 2}},
    ],
    ids=str,
)
def test_description_that_does_not_fit_the_weights_is_refused(saved, tmp_path, changes):
    refused(rewritten(saved, tmp_path / "encoder.safetensors", **changes), "not an encoder of fusion3d, or damaged")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"gedi"'])
def test_description_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "encoder.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"fusion3d.encoder": text})
    refused(path, "not an encoder of fusion3d")


def test_folder_that_is_missing_is_refused_on_writing(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        save_encoder(build("gedi", "tiny"), tmp_path / "none" / "encoder.safetensors")


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "encoder.safetensors"
    path.write_text("old")
    encoder = build("gedi", "tiny")
    assert save_encoder(encoder, str(path)) == path
    assert [item.name for item in tmp_path.iterdir()] == ["encoder.safetensors"]
    assert torch.equal(load_encoder(path).head.enter.weight, encoder.head.enter.weight)


def test_failed_writing_leaves_the_file_before(tmp_path, monkeypatch):
    path = save_encoder(build("gedi", "tiny"), tmp_path / "encoder.safetensors")
    before = path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fusion3d.encoders.checkpoint.os.replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        save_encoder(build("gedi", "tiny"), path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["encoder.safetensors"]


def test_file_is_plain_safetensors_with_a_readable_description(saved):
    with safe_open(str(saved), framework="pt") as file:
        description = json.loads(file.metadata()["fusion3d.encoder"])
    assert description["kind"] == "gedi"
    assert description["hyperparameters"] == {"width": 96, "shared_dim": 64, "point_channels": 64, "heads": 4}


def test_precision_of_the_weights_is_kept_as_values(tmp_path):
    encoder = build("gedi", "tiny").double()
    loaded = load_encoder(save_encoder(encoder, tmp_path / "encoder.safetensors"))
    assert torch.allclose(loaded.head.enter.weight.double(), encoder.head.enter.weight, atol=1e-6)
