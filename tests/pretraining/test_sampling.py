"""What a step of `fusion3d pretrain` sees: pairs drawn by the sampler, held-out columns that never reach the weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
import zarr

from fusion3d.data.datamodule import ChipDataModule
from fusion3d.data.split import Split
from fusion3d.errors import ConfigError
from fusion3d.pretraining.alignment import ALIGNMENTS, PairContrast
from fusion3d.pretraining.callbacks import config_file, last_checkpoint
from fusion3d.pretraining.command import main
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.store import Store
from tests.data.scene import write_scene

SENSORS = ("als", "gedi", "ortho", "s2", "coarse")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> str:
    return write_scene(tmp_path_factory.mktemp("sampling") / "scene.zarr", sensors=SENSORS)


def arguments(scene: str, out: Path, *more: str) -> list[str]:
    fixed = {
        "--data.store": scene,
        "--out": str(out),
        "--data.size": "8",
        "--data.batch_size": "4",
        "--data.max_dates": "2",
        "--data.val_chips": "0",
        "--trainer.max_steps": "2",
        "--trainer.accelerator": "cpu",
        "--trainer.enable_progress_bar": "false",
    }
    return [*(part for item in fixed.items() for part in item), *more]


def checkpoint(run: Path) -> dict:
    return torch.load(last_checkpoint(run), weights_only=True)


def trained_weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint(run)["state_dict"]


def change_values(path: str, columns: np.ndarray) -> None:
    """Give every measurement that touches one of the columns ([rows, cols]) another value; what is there stays there."""
    store, root = Store.open(path), zarr.open_group(path, mode="r+")
    grid = store.grid
    for block in grid.blocks_in(grid.window):
        window = grid.block_window(*block)
        inside = columns[window.row : window.row_stop, window.col : window.col_stop].ravel()
        group = root[f"als/{block[0]}_{block[1]}"]
        touched = np.repeat(inside, np.diff(group["offsets"][:]))
        for name in ("height", "intensity"):
            values = group[name][:]
            group[name][:] = np.where(touched, values + 3, values)
    for name, layout in store.attributes.rasters.items():
        if layout.pixels_per_column:
            pixels = columns.repeat(layout.pixels_per_column, 0).repeat(layout.pixels_per_column, 1)
        else:
            pixels = np.zeros((layout.height, layout.width), bool)
            rows, cols = np.nonzero(columns)
            pixels[(rows - layout.row) // layout.columns_per_pixel, (cols - layout.col) // layout.columns_per_pixel] = True
        values = root[f"{name}/values"][:]
        root[f"{name}/values"][:] = np.where(pixels, values + 5, values)
    row, col = grid.cell_of(root["gedi/x"][:], root["gedi/y"][:])
    touched = np.repeat(columns[row, col], np.diff(root["gedi/row_splits"][:]))
    root["gedi/heights"][:] = root["gedi/heights"][:] + 4.0 * touched


def test_values_of_held_out_columns_never_reach_the_weights(scene, tmp_path):
    options = ("--model.pairs", "4")
    assert main(arguments(scene, tmp_path / "as_is", *options)) == 0
    split = Split.from_plain(checkpoint(tmp_path / "as_is")["hyper_parameters"]["scene"]["splits"][0])
    weights = {"as_is": trained_weights(tmp_path / "as_is")}
    for name, columns in (("held_out", split.held_out()), ("training", split.training())):
        assert columns.any()
        changed = shutil.copytree(scene, tmp_path / f"{name}.zarr")
        change_values(str(changed), columns)
        assert main(arguments(str(changed), tmp_path / name, *options)) == 0
        weights[name] = trained_weights(tmp_path / name)
    first = weights["as_is"]
    assert all(torch.equal(first[key], weights["held_out"][key]) for key in first)
    assert not all(torch.equal(first[key], weights["training"][key]) for key in first)


def test_margin_is_the_receptive_field_of_the_encoders_and_the_largest_pixel(scene, tmp_path, capsys):
    wide = ("--model.encoder_options", "{als: {levels: 5}}", "--trainer.max_steps", "1")
    assert main(arguments(scene, tmp_path / "run", *wide)) == 0
    module = CrossModalPretraining.load_from_checkpoint(last_checkpoint(tmp_path / "run"), weights_only=True)
    seen = max(encoder.receptive_field(10.0, voxel=0.5) for encoder in module.encoders.values())
    assert seen > 4  # which is what the raster encoder sees
    assert module.receptive_field(SENSORS, 10.0, 0.5) == seen
    assert module.hparams["scene"]["splits"][0]["buffer"] == seen + 1  # pixels of two columns
    assert "warning" not in capsys.readouterr().err


def test_margin_can_be_given_by_number_with_one_line_of_warning(scene, tmp_path, capsys):
    options = ("--trainer.max_steps", "1", "--data.buffer", "1")
    assert main(arguments(scene, tmp_path / "run", *options)) == 0
    assert checkpoint(tmp_path / "run")["hyper_parameters"]["scene"]["splits"][0]["buffer"] == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "buffer" in line]
    assert "--data.buffer 1 is less than the 5 columns" in line


def batches_of(monkeypatch, args: list[str]) -> list:
    """The batches that a run trains on."""
    step, found = CrossModalPretraining.training_step, []

    def remember(self, batch, batch_idx):
        found.append(batch)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(CrossModalPretraining, "training_step", remember)
        assert main(args) == 0
    return found


def test_pairs_and_weights_of_the_model_reach_the_sampler(scene, tmp_path, monkeypatch):
    often = ("--model.pairs", "2", "--model.pair_weights", "{s2-als: 1000.0}", "--trainer.max_steps", "1")
    batches = batches_of(monkeypatch, arguments(scene, tmp_path / "run", *often))
    for batch in batches:
        weight = {item.pair: item.weight for item in batch.drawn}
        assert len(weight) == 2
        assert weight[("als", "s2")] == 1.0  # certain
        assert set(batch.sensors) == {name for pair in weight for name in pair}
    written = yaml.safe_load(config_file(tmp_path / "run").read_text())
    assert "pairs" not in written["data"]
    again = ["--config", str(config_file(tmp_path / "run")), "--out", str(tmp_path / "again")]
    repeated = batches_of(monkeypatch, again)
    assert [batch.drawn for batch in repeated] == [batch.drawn for batch in batches]


def test_an_alignment_of_every_sensor_reads_them_all(scene, tmp_path, monkeypatch):
    class Everything(PairContrast):
        name = "everything"
        every_sensor = True

    monkeypatch.setitem(ALIGNMENTS, "everything", Everything)
    (batch,) = batches_of(
        monkeypatch, arguments(scene, tmp_path / "run", "--model.alignment", "everything", "--trainer.max_steps", "1")
    )
    assert batch.drawn is None
    assert set(batch.sensors) == set(SENSORS)


def test_an_alignment_that_is_not_known_is_refused_with_the_names(scene, tmp_path):
    with pytest.raises(ConfigError, match=r"--model\.alignment circle is not known; choose from .*pairs"):
        main(arguments(scene, tmp_path / "run", "--model.alignment", "circle"))


def data_module(scene: str, **options) -> ChipDataModule:
    data = ChipDataModule(scene, size=8, batch_size=3, max_dates=3, sensors=["als", "ortho", "s2"], **options)
    data.setup("fit")
    return data


def model(data: ChipDataModule, **options) -> CrossModalPretraining:
    built = CrossModalPretraining(scene=data.facts(), prediction=0.0, **options)
    built.configure_model()
    return built.eval()


def test_loss_of_a_batch_drawn_for_one_pair_is_its_contrast_times_the_number_of_pairs(scene):
    data = data_module(scene, pairs=1)
    module = model(data, retention=0.0)
    seen = set()
    for batch in islice(data.train_dataloader(), 6):
        with torch.no_grad():
            loss, parts = module.loss(batch, module.draw(batch, (0,)), (0, 0))
        ((name, value),) = parts.items()
        seen.add(name)
        assert loss.item() == pytest.approx(3 * value.item(), rel=1e-5)
    assert len(seen) > 1


def test_as_many_pairs_as_there_are_give_the_sum_over_all_pairs(scene):
    data = data_module(scene, pairs=3)
    module = model(data)
    batch = next(iter(data.train_dataloader()))
    with torch.no_grad():
        loss, parts = module.loss(batch, module.draw(batch, (0,)), (0, 0))
    assert set(parts) == {
        *("contrast_als-ortho", "contrast_als-s2", "contrast_ortho-s2"),
        *("retention_als", "retention_ortho", "retention_s2"),
    }
    contrast = sum(value.item() for name, value in parts.items() if name.startswith("contrast"))
    retention = sum(value.item() for name, value in parts.items() if name.startswith("retention"))
    # each of 3 sensors is in 2 pairs, at the temperature 0.07
    assert loss.item() == pytest.approx(contrast + retention * 2 / 0.07, rel=1e-5)


def test_a_sensor_that_saw_nothing_of_a_batch_adds_nothing(scene):
    data = data_module(scene, pairs=3)
    module = model(data)
    batch = next(iter(data.train_dataloader()))
    clouded = replace(batch, rasters={"ortho": batch.rasters["ortho"]})
    with torch.no_grad():
        loss, parts = module.loss(clouded, module.draw(clouded, (0,)), (0, 0))
    assert set(parts) == {"contrast_als-ortho", "retention_als", "retention_ortho"}
    assert loss.isfinite()
