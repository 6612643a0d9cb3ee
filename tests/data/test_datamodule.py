from __future__ import annotations

import json
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyproj import CRS

from fusion3d.data.datamodule import ChipDataModule
from fusion3d.data.observation import ChipBatch
from fusion3d.data.split import Split
from fusion3d.errors import ConfigError, StoreError
from fusion3d.grid import Window
from fusion3d.store import Store
from tests.data.scene import canopy, write_scene
from tests.data.test_chips import same


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    return write_scene(tmp_path_factory.mktemp("module") / "scene.zarr")


def prepared(path, **options) -> ChipDataModule:
    module = ChipDataModule(path, **{"size": 8, "batch_size": 3, "max_dates": 2, **options})
    module.setup("fit")
    return module


def test_batches_hold_the_sensors_and_come_again_alike(path):
    first, again = ([*islice(prepared(path).train_dataloader(), 3)] for _ in range(2))
    assert [batch.sensors for batch in first] == [batch.sensors for batch in again]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.origin, other.origin)
        assert torch.equal(one.rasters["s2"].values, other.rasters["s2"].values)
        assert one.chips == 3
        assert one.rasters["s2"].values.shape[1] == 2
    assert len({tuple(days) for batch in first for days in batch.rasters["s2"].days.nan_to_num(-1.0).tolist()}) > 2


@pytest.mark.parametrize("pairs", [None, 1])
def test_two_workers_read_the_same_batches_as_none_also_in_the_middle_of_a_run(path, pairs):
    def batches(workers: int, start: int) -> list[ChipBatch]:
        module = prepared(path, num_workers=workers, pairs=pairs, max_points_per_column=5)
        module.trainer = SimpleNamespace(
            global_step=start, accumulate_grad_batches=1, global_rank=0, world_size=1, is_global_zero=True
        )
        return list(islice(module.train_dataloader(), 5 - start))

    alone = batches(0, 0)
    assert same(alone, batches(2, 0))
    assert same(alone[3:], batches(2, 3))
    assert not same(alone[:2], alone[3:])


def test_training_chips_are_thinned_to_numbers_between_the_least_and_the_most_and_validation_chips_to_the_most(path):
    module = prepared(path, sensors=["als"], batch_size=1, max_points_per_column=8, min_points_per_column=1)

    def fullest(loader) -> list[int]:
        return [int(batch.als.row_splits.diff().max()) for batch in islice(loader, 60) if batch.als is not None]

    trained, validated = fullest(module.train_dataloader()), fullest(module.val_dataloader())
    assert set(validated) == {8}
    assert set(trained) >= {1, 2, 3, 4, 6, 8}
    assert max(trained) == 8
    # log-uniform: 44 % of the numbers are below 2.5
    assert 0.3 < np.mean(np.array(trained) <= 2) < 0.7


def test_only_sensors_of_the_drawn_pairs_are_read_and_validation_reads_all(path):
    module = prepared(path, pairs=1, val_chips=4)
    seen = set()
    for batch in islice(module.train_dataloader(), 12):
        (drawn,) = batch.drawn
        assert set(batch.sensors) <= set(drawn.pair)
        assert drawn.weight == 6.0
        seen |= set(batch.sensors)
    assert seen == set(module.sensors)
    batches = list(module.val_dataloader())
    assert {name for batch in batches for name in batch.sensors} == set(module.sensors)
    assert all(batch.drawn is None for batch in batches)


def test_training_chips_stay_out_of_the_held_out_part_and_validation_chips_in_it(path):
    module = prepared(path)
    held = module.splits[0].held_out()
    for batch in islice(module.train_dataloader(), 8):
        assert not any(held[row : row + 8, col : col + 8].any() for row, col in batch.origin.tolist())
    chips = [origin for batch in module.val_dataloader() for origin in batch.origin.tolist()]
    assert chips
    assert all(held[row : row + 8, col : col + 8].all() for row, col in chips)


def test_facts_are_plain_and_rebuild_the_split(path):
    module = prepared(path)
    facts = module.facts()
    assert facts["sensors"] == ["als", "gedi", "ortho", "s2"]
    assert Split.from_plain(facts["splits"][0]) == module.splits[0]


def test_only_sensors_asked_for_are_read(path):
    module = prepared(path, sensors=["s2", "als"])
    assert module.sensors == ("als", "s2")
    assert set(next(iter(module.train_dataloader())).sensors) <= {"als", "s2"}


def test_stores_of_other_sensors_place_and_statistics_are_drawn_from_together(path, tmp_path):
    other = write_scene(tmp_path / "other.zarr", sensors=("als", "ortho", "coarse"))
    root = tmp_path / "other.zarr" / "zarr.json"
    attributes = json.loads(root.read_text())
    plain = attributes["attributes"]["fusion3d"]
    plain["grid"] |= {"crs": CRS.from_epsg(32632).to_wkt(), "x0": 400_000.0, "y0": 5_400_000.0}
    plain["rasters"]["ortho"] |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    plain["als"]["intensity_p95"] = 500.0
    root.write_text(json.dumps(attributes))
    module = prepared([path, other], holdout=0.0, pairs=1, batch_size=6)
    assert module.sensors == ("als", "gedi", "coarse", "ortho", "s2")
    assert {item.pair: set(item.store.tolist()) for item in module.training} == {
        ("als", "gedi"): {0},
        ("als", "coarse"): {1},
        ("als", "ortho"): {0, 1},
        ("als", "s2"): {0},
        ("gedi", "ortho"): {0},
        ("gedi", "s2"): {0},
        ("coarse", "ortho"): {1},
        ("ortho", "s2"): {0},
    }
    batch = next(b for b in module.train_dataloader() if b.sensors == ("als", "ortho") and set(b.scene.tolist()) == {0, 1})
    stores = [Store.open(path), Store.open(other)]
    splits = batch.als.row_splits[::64]
    for chip, (number, (row, col)) in enumerate(zip(batch.scene.tolist(), batch.origin.tolist(), strict=True)):
        window = Window(row, col, 8, 8)
        pixels = stores[number].raster("ortho", window).values[0]
        centre, spread = ((15.0, 10.0), (0.0, 1.0))[number]
        found = batch.rasters["ortho"].values[chip, 0]
        assert torch.allclose(found, torch.from_numpy((pixels - centre) / spread), atol=1e-4)
        brightest = (1000.0, 500.0)[number]
        intensity = stores[number].points(window).attributes["intensity"].max() / brightest
        assert batch.als.attributes[splits[chip] : splits[chip + 1], 0].max() == pytest.approx(float(intensity), rel=0.1)


def test_stores_whose_bands_differ_are_refused_before_training(path, tmp_path):
    other = write_scene(tmp_path / "other.zarr", sensors=("als", "ortho"))
    root = tmp_path / "other.zarr" / "zarr.json"
    root.write_text(root.read_text().replace('"wavelength": 560.0', '"wavelength": 570.0'))
    with pytest.raises(StoreError, match=r"other\.zarr: sensor 'ortho' has other bands or pixels than in .*scene\.zarr"):
        prepared([path, other])
    prepared([path, other], sensors=["als", "s2"])


def test_a_raster_of_classes_is_no_sensor_unless_asked_for(tmp_path):
    path = write_scene(tmp_path / "scene.zarr", sensors=("als", "ortho", "s2"))
    root = tmp_path / "scene.zarr" / "zarr.json"
    attributes = json.loads(root.read_text())
    attributes["attributes"]["fusion3d"]["rasters"]["ortho"]["kind"] = "classes"
    root.write_text(json.dumps(attributes))
    assert prepared(path).sensors == ("als", "s2")
    assert prepared(path, sensors=["als", "ortho"]).sensors == ("als", "ortho")


def told(sees: int) -> SimpleNamespace:
    """A trainer whose model sees so many columns."""
    model = SimpleNamespace(receptive_field=lambda sensors, column, voxel: sees)
    return SimpleNamespace(lightning_module=model, is_global_zero=True)


def split_for(path, sees: int, **options) -> Split:
    module = ChipDataModule(path, size=8, **options)
    module.trainer = told(sees)
    module.setup("fit")
    return module.splits[0]


def test_margin_is_what_the_encoders_of_the_model_see(path, capsys):
    assert split_for(path, 5).buffer == 5
    assert split_for(path, 3).buffer == 3
    assert capsys.readouterr().err == ""


def test_margin_given_by_number_is_kept_and_said_to_be_narrow(path, capsys):
    assert split_for(path, 3, buffer=3).buffer == 3
    assert capsys.readouterr().err == ""
    assert split_for(path, 3, buffer=1).buffer == 1
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert said.count("\n") == 1
    assert "--data.buffer 1 is less than the 3 columns" in said


def test_margin_that_would_leave_too_little_gives_way_and_says_so(path, capsys):
    split = split_for(path, 60)
    assert 8 < split.buffer < 32
    assert f"the margin is {split.buffer}" in capsys.readouterr().err


def test_candidates_know_the_strata_of_their_chips(path):
    module = prepared(path, strata=["height"])
    item = next(item for item in module.training if item.pair == ("als", "s2"))
    tall = canopy()
    tops = [tall[row : row + 8, col : col + 8].mean() for row, col in item.origin]
    assert item.strata.shape == (len(item), 1)
    assert np.corrcoef(item.strata[:, 0], tops)[0, 1] > 0.5
    assert len(np.unique(item.strata)) > 1
    assert prepared(path, strata=[]).training[0].strata.size == 0


def test_nothing_held_out_gives_no_validation(path):
    assert prepared(path, holdout=0.0).val_dataloader() == []


def test_sensors_that_never_meet_are_refused_in_one_line(tmp_path):
    path = write_scene(tmp_path / "apart.zarr", sensors=("als", "far"))
    with pytest.raises(ConfigError, match=r"no two sensors saw the same columns \(columns seen: als 1904, far 0\)") as caught:
        prepared(path)
    assert "\n" not in str(caught.value)


def test_chips_of_a_single_sensor_are_those_that_it_saw(path):
    data = prepared(path, sensors=["als"])
    assert [item.pair for item in data.training] == [("als",)]
    assert next(iter(data.train_dataloader())).sensors == ("als",)


def test_unknown_sensor_is_refused_with_the_names_there_are(path):
    with pytest.raises(StoreError, match="no sensor hsi; stored are als, gedi, ortho, s2"):
        prepared(path, sensors=["als", "hsi"])


def test_absent_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no column store there"):
        prepared(str(tmp_path / "none.zarr"))


def test_chip_larger_than_the_scene_is_refused(path):
    with pytest.raises(ConfigError, match=r"--data\.size"):
        prepared(path, size=64)


def test_options_out_of_range_are_refused(path):
    with pytest.raises(ConfigError, match=r"--data\.batch_size 0"):
        ChipDataModule(path, batch_size=0)
    with pytest.raises(ConfigError, match=r"--model\.pairs 0"):
        ChipDataModule(path, pairs=0)
    with pytest.raises(ConfigError, match=r"--data\.buffer -1"):
        ChipDataModule(path, buffer=-1)
    with pytest.raises(ConfigError, match=r"--data\.min_points_per_column needs --data\.max_points_per_column"):
        ChipDataModule(path, min_points_per_column=5)
    for least in (0, 9):
        with pytest.raises(ConfigError, match=rf"--data\.min_points_per_column {least} .*max_points_per_column 8"):
            ChipDataModule(path, min_points_per_column=least, max_points_per_column=8)
    with pytest.raises(ConfigError, match=r"--data\.strata biome"):
        ChipDataModule(path, strata=["biome"])
