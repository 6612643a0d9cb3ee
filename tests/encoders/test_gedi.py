from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fusion3d.data.observation import ChipBatch, FootprintObservation
from fusion3d.encoders import GediEncoder, build
from fusion3d.encoders.gedi import point_features
from fusion3d.errors import ConfigError
from tests.encoders.batches import chips


@pytest.fixture(scope="module")
def encoder() -> GediEncoder:
    torch.manual_seed(0)
    return build("gedi", "tiny").eval()


@pytest.fixture(scope="module")
def batch() -> ChipBatch:
    return chips(sensors=("gedi",))


def features(encoder: GediEncoder, batch: ChipBatch, **changes: object) -> torch.Tensor:
    with torch.no_grad():
        return encoder(replace(batch, gedi=replace(batch.gedi, **changes))).features


def test_footprint_does_not_depend_on_its_neighbours_or_place(encoder, batch):
    gedi, expected = batch.gedi, features(encoder, batch)
    turned = torch.arange(gedi.count - 1, -1, -1)
    found = features(
        encoder,
        batch,
        position=gedi.position.flip(0) * 0.3,
        chip=gedi.chip.flip(0),
        height=gedi.height.view(gedi.count, -1)[turned].flatten(),
        energy=gedi.energy.view(gedi.count, -1)[turned].flatten(),
        attributes=gedi.attributes.flip(0),
        day=gedi.day.flip(0),
    )
    assert float((found.flip(0) - expected).abs().max()) < 1e-5


def test_footprint_without_points_is_absent_and_disturbs_no_other(encoder, batch):
    gedi = batch.gedi
    height = gedi.height.clone()
    height[9:18] = float("nan")  # all of the second footprint
    with torch.no_grad():
        hidden = encoder(replace(batch, gedi=replace(gedi, height=height)))
        kept = torch.cat((torch.arange(9), torch.arange(18, len(height))))
        splits = torch.tensor([0, 9, 9, *range(18, 9 * gedi.count, 9)])
        left_out = encoder(
            replace(batch, gedi=replace(gedi, height=gedi.height[kept], energy=gedi.energy[kept], row_splits=splits))
        )
    for found in (hidden, left_out):
        assert found.present.tolist() == [True, False] + [True] * (gedi.count - 2)
        assert not found.features[1].any()
        others = torch.arange(gedi.count) != 1
        assert float((found.features - features(encoder, batch))[others].abs().max()) < 1e-5


def test_height_energy_beam_and_date_each_matter(encoder, batch):
    gedi, expected = batch.gedi, features(encoder, batch)
    changed = (
        {"height": gedi.height + 10},
        {"energy": gedi.energy.roll(1)},
        {"attributes": 1 - gedi.attributes},
        {"day": torch.full_like(gedi.day, 18_345.0)},
    )
    for change in changed:
        assert float((features(encoder, batch, **change) - expected).norm(dim=1).min()) > 1e-3


def test_energy_of_zero_or_below_everywhere_is_finite(encoder, batch):
    for energy in (0.0, -0.1):
        assert features(encoder, batch, energy=torch.full_like(batch.gedi.energy, energy)).isfinite().all()


def cumulative(height: list[float], energy: list[float]) -> list[float]:
    points = len(height)
    found = point_features(
        torch.tensor(height), torch.tensor(energy), torch.zeros(points, dtype=torch.int64), torch.tensor([0, points])
    )
    return found[:, -1].tolist()


def test_energy_from_a_point_down_is_a_share_of_the_whole():
    assert cumulative([0.0, 10.0, 5.0], [1.0, 1.0, 2.0]) == pytest.approx([0.25, 1.0, 0.75])
    # noise below the baseline is no energy
    assert cumulative([0.0, 10.0, 5.0], [1.0, -3.0, 3.0]) == pytest.approx([0.25, 1.0, 1.0])


def test_points_of_one_height_share_their_energy_in_any_order():
    assert cumulative([5.0, 5.0, 0.0], [1.0, 2.0, 1.0]) == pytest.approx([1.0, 1.0, 0.25])
    assert cumulative([5.0, 0.0, 5.0], [2.0, 1.0, 1.0]) == pytest.approx([1.0, 0.25, 1.0])


def test_same_height_in_two_footprints_stays_apart():
    found = point_features(
        torch.tensor([3.0, 1.0, 3.0, 1.0]),
        torch.tensor([3.0, 1.0, 1.0, 1.0]),
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([0, 2, 4]),
    )
    assert found[:, -1].tolist() == pytest.approx([1.0, 0.25, 1.0, 0.5])


@pytest.mark.parametrize("points", [1, 2, 101, 1420])
def test_any_number_of_points_makes_a_footprint(encoder, points):
    one = FootprintObservation(
        position=torch.zeros(1, 2),
        chip=torch.zeros(1, dtype=torch.int64),
        height=torch.linspace(0, 60, points),
        energy=torch.full((points,), 1 / points),
        row_splits=torch.tensor([0, points]),
        attributes=torch.ones(1, 3),
        day=torch.tensor([18_000.0]),
    )
    found = encoder(replace(chips(origin=((0, 0),), sensors=()), gedi=one))
    assert found.present.tolist() == [True]
    assert found.features.isfinite().all()


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ConfigError, match="64 point channels cannot be shared out between 5 heads"):
        build("gedi", "tiny", heads=5)
