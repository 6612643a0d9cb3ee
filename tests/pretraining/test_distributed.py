"""Two processes that train together learn what one process with all of their chips does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from fusion3d.data.chips import collate, read_chips
from fusion3d.data.pairs import draw_pairs, stream
from fusion3d.pretraining.distributed import counted_before, counts_by_rank, gather_rows, mean_over_ranks
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.store import Store
from tests.data.scene import write_scene

SENSORS = ("als", "gedi", "ortho", "s2")
PROCESSES = 2
NO_POINTS = (0, 0)  # 4 x 4 columns that no laser point fell on, and no footprint
CASES = {
    # by name: chips of each process, columns a side, sensors read, pairs drawn, options
    "all pairs": (([(6, 8)], [(16, 8)]), 6, SENSORS, 6, {}),
    "unequal batches": (([(6, 8)], [(16, 4), (24, 28)]), 4, SENSORS, 6, {"chips_at_once": 1}),
    "one pair": (([(6, 8)], [(16, 4)]), 4, SENSORS, 1, {}),
    "more columns than the cap": (([(6, 8)], [(16, 4)]), 6, ("als", "s2"), 1, {"max_columns": 50}),
    "overlapping chips": (([(6, 8)], [(8, 10)]), 6, ("als", "s2"), 1, {"exclusion": 25.0}),
    "a process without meetings": (([(8, 8)], [NO_POINTS]), 4, ("als", "s2"), 1, {}),
    "the first process without meetings": (([NO_POINTS], [(8, 8)]), 4, ("als", "ortho"), 1, {}),
    "a process without footprints": (([(8, 8)], [NO_POINTS]), 4, ("gedi", "s2"), 1, {}),
    "footprints against points": (([NO_POINTS, (8, 8)], [(16, 8)]), 4, ("als", "gedi"), 1, {"chips_at_once": 1}),
    "other dates": (([(6, 8)], [(16, 4), (24, 28)]), 4, ("als", "s2"), 1, {"date_positives": 1.0}),
    "no series": (([(8, 8)], [(16, 8)]), 4, ("als", "ortho"), 1, {"date_positives": 1.0}),
    "whole chips": (([(6, 8)], [(16, 4), (24, 28)]), 4, SENSORS, 6, {"chip_contrast": 1.0}),
    "private parts": (([(6, 8)], [(16, 4), (24, 28)]), 4, ("als", "ortho", "s2"), 3, {"private": 16}),
    "a process without private parts": (([(8, 8)], [NO_POINTS]), 6, ("als", "gedi"), 1, {"private": 16}),
    "nobody meets": (([NO_POINTS], [NO_POINTS]), 4, ("als", "s2"), 1, {}),
}


class Step(nn.Module):
    def __init__(self, module: CrossModalPretraining) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch):
        drawn = self.module.draw(batch, (0, 3))
        loss, parts = self.module.loss(batch, drawn, (0, 3))
        return loss, {name: float(value) for name, value in parts.items()}


def module_of(count: int, options: dict) -> CrossModalPretraining:
    module = CrossModalPretraining(scene={"sensors": list(SENSORS)}, pairs=count, **options)
    module.configure_model()
    return module.double()


def result(run: nn.Module, module: CrossModalPretraining, batch):
    loss, parts = run(batch)
    loss.backward()
    return loss.item(), parts, {name: parameter.grad for name, parameter in module.named_parameters()}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    store = Store.open(f"{folder}/scene.zarr")
    found = {}
    for name, (chips, size, sensors, count, options) in CASES.items():
        module = module_of(count, options)
        together = DistributedDataParallel(Step(module), find_unused_parameters=True)
        found[name] = result(together, module, read_chips(store, chips[rank], size, sensors))
    found["rows"] = rows_of_a_process(rank)
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    write_scene(folder / "scene.zarr")
    return folder


@pytest.fixture(scope="module")
def by_process(scene) -> list:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.start_processes(process, (str(scene),), PROCESSES, start_method="spawn")
    return [torch.load(scene / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_one_process_with_all_chips(scene, by_process, case):
    chips, size, sensors, count, options = CASES[case]
    store = Store.open(str(scene / "scene.zarr"))
    batch = collate([read_chips(store, part, size, sensors) for part in chips])
    module = module_of(count, options)
    loss, parts, gradients = result(Step(module), module, batch)
    for found_loss, found_parts, found_gradients in (of_one[case] for of_one in by_process):
        assert found_loss == pytest.approx(loss, rel=1e-6)
        assert found_parts == pytest.approx(parts, rel=1e-6)
        assert set(found_gradients) == set(gradients)
        for name, gradient in gradients.items():
            found = found_gradients[name]
            if gradient is None:
                assert found is None or not found.any(), name
            else:
                torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


def test_the_cases_hold_what_they_say(scene):
    store = Store.open(str(scene / "scene.zarr"))
    assert read_chips(store, [NO_POINTS], 4).sensors == ("ortho", "s2")
    module = module_of(1, {})
    assert module.draw(read_chips(store, [NO_POINTS], 4, ("als", "s2")), (0, 3)) == []
    pairs = [("als", "s2")]
    assert [drawn.pair for drawn in module.draw(read_chips(store, [(8, 8)], 4, ("als", "s2")), (0, 3))] == pairs
    assert [item.pair for item in draw_pairs(pairs, 1, stream(0))] == pairs


def rows_of_a_process(rank: int):
    rows = (torch.arange(2 * rank).reshape(rank, 2) + 10.0 * rank).requires_grad_()
    everyone = gather_rows(rows)
    (everyone.sum() * 3).backward()
    mean = mean_over_ranks(torch.tensor(4.0 * rank), 3 * rank)
    none = mean_over_ranks(torch.tensor(0.0), 0)
    return everyone.detach(), rows.grad, counts_by_rank(rank + 5), counted_before(rank + 5), mean, none


def test_rows_and_means_of_all_processes(by_process):
    for rank, (rows, gradient, counts, before, mean, none) in enumerate(found["rows"] for found in by_process):
        assert rows.tolist() == [[10.0, 11.0]]  # process 0 has no row
        assert gradient.tolist() == [[6.0, 6.0]] * rank  # twice: the mean over both processes is that of one
        assert counts == [5, 6]
        assert before == (0, 5)[rank]
        assert mean.item() == pytest.approx(4 / 3)
        assert none is None


def test_alone_everything_is_given_back():
    rows = torch.rand(3, 2)
    assert gather_rows(rows) is rows
    assert counts_by_rank(7) == [7]
    assert counted_before(7) == 0
    assert mean_over_ranks(torch.tensor(6.0), 4).item() == 1.5
    assert mean_over_ranks(torch.tensor(0.0), 0) is None
