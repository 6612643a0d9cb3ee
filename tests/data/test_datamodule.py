from __future__ import annotations

from itertools import islice

import pytest
import torch

from fusion3d.data.datamodule import ChipDataModule
from fusion3d.data.split import Split
from fusion3d.errors import ConfigError, StoreError
from tests.data.scene import write_scene


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


def test_workers_read_the_same_chips(path):
    alone, shared = ([*islice(prepared(path, num_workers=workers).train_dataloader(), 2)] for workers in (0, 1))
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.origin, other.origin)
        assert torch.equal(one.als.height, other.als.height)


def test_training_chips_stay_out_of_the_held_out_part_and_validation_chips_in_it(path):
    module = prepared(path)
    held = module.splits[0].held_out()
    for batch in islice(module.train_dataloader(), 20):
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


def test_two_stores_are_drawn_from_together(path, tmp_path):
    other = write_scene(tmp_path / "other.zarr", sensors=("als", "ortho"))
    module = prepared([path, other])
    assert {int(store) for item in module.training for store in item.store} == {0, 1}
    assert len(module.splits) == 2
    next(iter(module.train_dataloader()))


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
