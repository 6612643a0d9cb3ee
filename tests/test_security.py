"""Files made by an attacker are refused in one line, and nothing in them is run."""

from __future__ import annotations

import ast
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fusion3d.cli
from fusion3d.errors import Fusion3DError, InputError
from fusion3d.evaluation.checkpoint import load_pretraining
from tests.data.scene import write_scene


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def hostile_checkpoint(path: Path, marker: Path) -> Path:
    """A checkpoint with all that one needs, and a payload beside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {}, "global_step": 1, "hyper_parameters": {}, "more": Payload(marker)}, path)
    return path


def hostile_run(folder: Path, marker: Path) -> Path:
    hostile_checkpoint(folder / "checkpoints" / "last.ckpt", marker)
    (folder / "config.yaml").write_text("model:\n  preset: tiny\n")
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return write_scene(tmp_path_factory.mktemp("store") / "scene.zarr")


@pytest.fixture
def marker(tmp_path):
    path = tmp_path / "the payload was here"
    yield path
    assert not path.exists()


def test_payload_of_these_tests_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("words", [
    "embed {run} {store} --out {out}.tif",
    "embed {run}/checkpoints/last.ckpt {store} --out {out}.tif",
    "evaluate {run} {store} --out {out}.json",
    "fit {store} --finetune --checkpoint {run} --labels {plots} --target agb --out {out}",
    "pretrain --data.store {store} --out {run} --resume --trainer.accelerator cpu --trainer.max_steps 2",
])  # fmt: skip
def test_checkpoint_with_a_payload_is_refused_by_every_verb(tmp_path, store, marker, words):
    plots = tmp_path / "plots.csv"
    rows = "\n".join(f"{at},{652010 + at},6862000,{100 + at}" for at in range(8))
    plots.write_text(f"plot,x,y,agb\n{rows}\n")
    run = hostile_run(tmp_path / "run", marker)
    filled = words.format(run=run, store=store, out=tmp_path / "out", plots=plots).split()
    with pytest.raises(InputError, match=r"holds Python objects \(posix\.mkdir\), which could run code") as caught:
        fusion3d.cli.app(filled, standalone_mode=False)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value), "advice to lower the guard"
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("save", [
    lambda held, path: torch.save(held, path, _use_new_zipfile_serialization=False),
    lambda held, path: path.write_bytes(pickle.dumps(held)),
    lambda held, path: path.write_bytes(pickle.dumps(held["more"])),
], ids=["of old torch", "pickle", "payload alone"])  # fmt: skip
def test_payload_in_an_older_form_is_refused_too(tmp_path, marker, save):
    path = tmp_path / "last.ckpt"
    save({"state_dict": {}, "global_step": 1, "hyper_parameters": {}, "more": Payload(marker)}, path)
    with pytest.raises(InputError, match=r"last\.ckpt: "):
        load_pretraining(path)


def test_checkpoint_that_names_a_function_to_make_its_model_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {}, "global_step": 1, "hyper_parameters": {"_instantiator": "os.system"}}, path)
    with pytest.raises(InputError, match=r"names a function to be called \(os\.system\)"):
        load_pretraining(path)


@pytest.mark.parametrize("address", ["http://localhost:9/last.ckpt", "https://localhost:9/run", "s3://bucket/last.ckpt"])
def test_checkpoint_of_the_network_is_not_fetched(address):
    with pytest.raises(InputError, match="no checkpoint there"):
        load_pretraining(address)


@pytest.mark.parametrize("verb", ["map", "segment"])
@pytest.mark.parametrize("content", [
    b"\x80\x04payload", b"[" * 100_000, b'{"format": "fusion3d model", "format_version": 2, "arrays": "../../etc/passwd"}',
    b'{"format": "fusion3d model", "format_version": 2, "kind": "os.system", "features": ["a"], "arrays": "model.safetensors"}',
    b'{"format": "fusion3d point class model", "arrays": "/etc/passwd"}',
], ids=["no JSON", "deep", "path", "kind", "points"])  # fmt: skip
def test_model_of_hostile_content_is_refused(tmp_path, verb, content):
    (tmp_path / "model.json").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "cloud.laz").touch()
    out = {"map": ["--out", str(tmp_path / "agb.tif")], "segment": ["--out-dir", str(tmp_path / "out")]}[verb]
    with pytest.raises(Fusion3DError) as caught:
        fusion3d.cli.app([verb, str(tmp_path), str(tmp_path / "cloud.laz"), *out], standalone_mode=False)
    assert "\n" not in str(caught.value)


def test_model_whose_arrays_are_a_pickle_is_refused(tmp_path, marker):
    import hashlib

    from fusion3d.tasks.model_file import read_model

    data = pickle.dumps(Payload(marker))
    (tmp_path / "model.safetensors").write_bytes(data)
    plain = {"format": "fusion3d model", "format_version": 2, "arrays": "model.safetensors",
             "sha256": hashlib.sha256(data).hexdigest()}  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps(plain))
    with pytest.raises(InputError, match="cannot be read"):
        read_model(tmp_path)


def test_encoder_that_is_a_pickle_is_refused(tmp_path, marker):
    from fusion3d.encoders.checkpoint import load_encoder

    with pytest.raises(InputError, match="not an encoder"):
        load_encoder(hostile_checkpoint(tmp_path / "als.safetensors", marker))


def test_block_of_an_unfinished_map_that_is_a_pickle_is_computed_again(tmp_path, marker):
    from fusion3d.grid import Window
    from fusion3d.mapping.finished_blocks import FinishedBlocks

    blocks = FinishedBlocks(tmp_path / "map.tif", {})
    np.savez(blocks.folder / "0_0.npz", np.array([Payload(marker)], dtype=object))
    assert blocks.find(Window(0, 0, 4, 4)) is None
    blocks.close()


def test_cube_whose_codec_is_pickle_is_refused(tmp_path, marker):
    """Zarr 2 lets a file name its codecs: here the coordinates, read on opening, go through pickle."""
    import xarray

    from fusion3d.io.cube import open_cube

    cube = tmp_path / "cube.zarr"
    axes = {"y": 6860000 + 10.0 * np.arange(4)[::-1], "x": 652000 + 10.0 * np.arange(4)}
    xarray.Dataset({"ndvi": (("y", "x"), np.ones((4, 4), "f4"))}, coords=axes).to_zarr(cube, zarr_format=2, consolidated=False)
    about = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|O", "fill_value": "", "order": "C", "compressor": None,
             "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]}  # fmt: skip
    (cube / "y" / ".zarray").write_text(json.dumps(about))
    (cube / "y" / "0").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(InputError, match="not a cube that xarray can read"):
        open_cube(cube, crs="EPSG:2154")


@pytest.mark.parametrize("text", ["!!python/object/apply:os.mkdir ['{marker}']", "a: !!python/name:os.system"])
def test_yaml_that_names_python_objects_is_refused(tmp_path, marker, text):
    from fusion3d.io.bands import read_sidecar
    from fusion3d.prepare.scene import read_scene
    from fusion3d.tasks.classes.legend import read_class_names

    path = tmp_path / "hostile.yaml"
    path.write_text(text.format(marker=marker))
    for read in (read_scene, lambda path: read_sidecar(path, 3), read_class_names):
        with pytest.raises(Fusion3DError):
            read(path)


_RUNS = {"pickle.load", "pickle.loads", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "eval", "exec", "os.system",
         "zipfile.ZipFile", "tarfile.open", "spec.loader.exec_module"}  # fmt: skip
_MEANT = {("fusion3d/prepare/rasters.py", "spec.loader.exec_module")}  # a reader of the user's own, by design


def test_no_call_in_the_package_opens_what_could_run():
    root = Path(fusion3d.cli.__file__).parents[2]
    guards = {
        "torch.load": ("weights_only", "True"),
        "np.load": ("allow_pickle", "False"),
        "yaml.load": ("Loader", "yaml.BaseLoader"),
    }
    seen = set()
    for path in sorted((root / "fusion3d").rglob("*.py")):
        name = str(path.relative_to(root))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            seen.add(called)
            assert called not in _RUNS or (name, called) in _MEANT, f"{name}:{node.lineno}"
            given = {item.arg: ast.unparse(item.value) for item in node.keywords}
            assert given.get("shell") != "True", f"{name}:{node.lineno}"
            if called in guards:
                option, value = guards[called]
                # numpy's own default is False
                assert given.get(option, "False" if called == "np.load" else None) == value, f"{name}:{node.lineno}"
    assert {"torch.load", "np.load", "yaml.load", "spec.loader.exec_module"} <= seen, "the search finds nothing any more"


def test_names_in_the_scores_of_a_fit_are_shown_but_never_run(tmp_path):
    from fusion3d.report.page import write_report
    from fusion3d.store import Store
    from tests.report.runs import write_fit, write_run

    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    run = write_run(tmp_path / "run")
    fit = write_fit(run / "biomass", Store.open(tmp_path / "scene.zarr").grid)
    for path in (fit / "scores.json", fit / "predictions.csv"):
        text = path.read_text()
        for name in ("agb", "Mg/ha", "plots.gpkg", "plot 1", "2 plots left out"):
            text = text.replace(name, json.dumps(hostile)[1:-1] if path.suffix == ".json" else "<script>alert(1)</script>")
        path.write_text(text)
    page = write_report(run).read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
