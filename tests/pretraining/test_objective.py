from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.observation import ChipBatch, FootprintObservation
from fusion3d.data.pairs import stream
from fusion3d.errors import ConfigError
from fusion3d.pretraining.objective import (
    Embedded,
    LocationContrast,
    meeting_pairs,
    presence,
)
from tests.data.scene import open_scene


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_scene(tmp_path_factory.mktemp("objective") / "scene.zarr", sensors=("als", "gedi", "ortho", "s2", "coarse"))


def test_presence_is_where_a_sensor_saw(store):
    batch = read_chips(store, [(0, 0), (4, 8)], 8)
    als = presence(batch, "als").reshape(2, 8, 8)
    assert not als[0, :4, :4].any()
    assert als.sum() == 128 - 16
    gedi = presence(batch, "gedi").reshape(2, 8, 8)
    assert gedi.nonzero().tolist() == [[1, 0, 2], [1, 3, 2], [1, 6, 2]]
    assert presence(batch, "coarse").all()
    assert presence(batch, "ortho").all()


def test_pair_meets_where_both_saw_two_columns(store):
    batch = read_chips(store, [(0, 0)], 4, ["als", "ortho", "s2"])
    assert meeting_pairs(batch) == [("ortho", "s2")]
    assert set(meeting_pairs(read_chips(store, [(8, 8)], 8))) == set(combinations(("als", "gedi", "coarse", "ortho", "s2"), 2))


def plain_batch(origins=((0, 0),), size=3, **sensors) -> ChipBatch:
    return ChipBatch(torch.tensor(origins), size, 10.0, 0.5, **sensors)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def info_nce(a, b, temperature):
    similarity = a @ b.T / temperature
    return -(similarity.log_softmax(1).diagonal() + similarity.log_softmax(0).diagonal()).mean() / 2


def test_contrast_is_info_nce_over_the_columns_that_both_saw():
    a, b = unit(9, 4), unit(9, 4, seed=1)
    seen = torch.tensor([1, 1, 0, 1, 1, 1, 1, 0, 1], dtype=torch.bool)
    embedded = {"als": Embedded(a, seen), "s2": Embedded(b, torch.ones(9, dtype=torch.bool))}
    loss, number = LocationContrast(0.2)(plain_batch(), ("als", "s2"), embedded, stream(0))
    assert number == 7
    assert loss.item() == pytest.approx(info_nce(a[seen], b[seen], 0.2).item(), rel=1e-5)


def test_a_column_seen_in_two_chips_is_no_negative_of_itself():
    a, b = unit(9, 4), unit(9, 4, seed=1)
    seen = torch.ones(18, dtype=torch.bool)
    twice = {"als": Embedded(a.repeat(2, 1), seen), "s2": Embedded(b.repeat(2, 1), seen)}
    loss, _ = LocationContrast(0.2)(plain_batch(((5, 5), (5, 5))), ("als", "s2"), twice, stream(0))
    similarity = a @ b.T / 0.2
    other = torch.where(torch.eye(9, dtype=torch.bool), -torch.inf, similarity)
    forth = torch.cat([similarity.diagonal()[:, None], other, other], 1).logsumexp(1)
    back = torch.cat([similarity.diagonal()[:, None], other.T, other.T], 1).logsumexp(1)
    assert loss.item() == pytest.approx(((forth + back) / 2 - similarity.diagonal()).mean().item(), rel=1e-5)


@pytest.mark.parametrize(("turn", "axes"), [(1, (2,)), (2, (1,)), (3, (1, 2)), (4, ()), (7, (1, 2))])
def test_a_column_seen_in_a_turned_chip_is_no_negative_of_itself(turn, axes):
    def twice(vectors):
        """Those of a chip, and of the same chip turned."""
        grid = vectors.reshape(1, 3, 3, 4).flip(axes)
        return torch.cat([vectors, (grid.transpose(1, 2) if turn & 4 else grid).reshape(9, 4)])

    a, b, seen = unit(9, 4), unit(9, 4, seed=1), torch.ones(18, dtype=torch.bool)
    contrast, flat = LocationContrast(0.2), plain_batch(((5, 5), (5, 5)))
    expected, _ = contrast(
        flat, ("als", "s2"), {"als": Embedded(a.repeat(2, 1), seen), "s2": Embedded(b.repeat(2, 1), seen)}, stream(0)
    )
    embedded = {"als": Embedded(twice(a), seen), "s2": Embedded(twice(b), seen)}
    found, _ = contrast(replace(flat, turn=torch.tensor([0, turn])), ("als", "s2"), embedded, stream(0))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert contrast(flat, ("als", "s2"), embedded, stream(0))[0].item() != pytest.approx(expected.item(), rel=1e-3)


def test_footprint_seen_in_a_turned_chip_is_no_negative_of_itself():
    gedi = replace(gedi_at((4.0, 15.0), (26.0, 15.0)), chip=torch.tensor([0, 1]))
    batch = replace(plain_batch(((5, 5), (5, 5)), gedi=gedi), turn=torch.tensor([0, 1]))
    embedded = {
        "gedi": Embedded(unit(2, 4, seed=2), torch.ones(2, dtype=torch.bool)),
        "s2": Embedded(unit(18, 4), torch.ones(18, dtype=torch.bool)),
    }
    loss, number = LocationContrast(0.2)(batch, ("gedi", "s2"), embedded, stream(0))
    assert number == 2
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_same_column_numbers_in_different_stores_are_negatives_of_each_other():
    batch = replace(plain_batch(((5, 5), (5, 5))), store=torch.tensor([0, 1]))
    a, b = unit(18, 4), unit(18, 4, seed=1)
    seen = torch.ones(18, dtype=torch.bool)
    loss, _ = LocationContrast(0.2)(batch, ("als", "s2"), {"als": Embedded(a, seen), "s2": Embedded(b, seen)}, stream(0))
    assert loss.item() == pytest.approx(info_nce(a, b, 0.2).item(), rel=1e-5)


def test_exclusion_reaches_over_the_chips_of_one_store_only():
    """Chips of one column, side by side: excluded in one store, negatives in two."""
    a, b = unit(2, 4), unit(2, 4, seed=1)
    seen = torch.ones(2, dtype=torch.bool)
    embedded = {"als": Embedded(a, seen), "s2": Embedded(b, seen)}
    beside = plain_batch(((5, 5), (5, 6)), size=1)
    contrast = LocationContrast(0.2, exclusion=50.0, max_columns=2)
    losses = [
        contrast(replace(beside, store=torch.tensor(stores)), ("als", "s2"), embedded, stream(0))[0].item()
        for stores in ([3, 3], [3, 4])
    ]
    assert losses == pytest.approx([0.0, info_nce(a, b, 0.2).item()], abs=1e-5)


def test_footprints_of_different_stores_are_negatives_of_each_other():
    two = gedi_at((15.0, 15.0), (15.0, 15.0))
    gedi = replace(two, chip=torch.tensor([0, 1]))
    batch = plain_batch(((5, 5), (5, 5)), gedi=gedi)
    prints, columns = unit(2, 4, seed=2), unit(18, 4)
    embedded = {
        "gedi": Embedded(prints, torch.ones(2, dtype=torch.bool)),
        "s2": Embedded(columns, torch.ones(18, dtype=torch.bool)),
    }
    one, other = (
        LocationContrast(0.2)(replace(batch, store=stores), ("gedi", "s2"), embedded, stream(0))[0].item()
        for stores in (None, torch.tensor([0, 1]))
    )
    assert one == pytest.approx(0.0, abs=1e-6)
    assert other > 1e-3


def test_near_columns_are_excluded_at_a_large_northing_too():
    origin = ((686_000, 65_200),)
    a, b = unit(9, 4), unit(9, 4, seed=1)
    embedded = {"als": Embedded(a, torch.ones(9, dtype=torch.bool)), "s2": Embedded(b, torch.ones(9, dtype=torch.bool))}
    alone, _ = LocationContrast(0.2, exclusion=1000.0)(plain_batch(origin), ("als", "s2"), embedded, stream(0))
    assert alone.item() == pytest.approx(0.0, abs=1e-6)


def gedi_at(*position: tuple[float, float]) -> FootprintObservation:
    number = len(position)
    return FootprintObservation(
        torch.tensor(position),
        torch.zeros(number, dtype=torch.int64),
        torch.zeros(number),
        torch.ones(number),
        torch.arange(number + 1),
        torch.zeros(number, 3),
        torch.zeros(number),
    )


def test_footprint_meets_the_gaussian_mean_of_its_columns():
    batch = plain_batch(size=3, gedi=gedi_at((15.0, 15.0), (25.0, 5.0)))
    columns, prints = unit(9, 4), unit(2, 4, seed=2)
    embedded = {
        "gedi": Embedded(prints, torch.ones(2, dtype=torch.bool)),
        "s2": Embedded(columns, torch.ones(9, dtype=torch.bool)),
    }
    loss, number = LocationContrast(0.2, geolocation_sigma=10.0)(batch, ("gedi", "s2"), embedded, stream(0))
    centre = torch.tensor([[5.0 + 10 * col, 5.0 + 10 * row] for row in range(3) for col in range(3)])
    square = ((batch.gedi.position[:, None] - centre) ** 2).sum(-1)
    pooled = torch.nn.functional.normalize(torch.exp(-square / (2 * (6.25**2 + 10**2))) @ columns, dim=1)
    assert number == 2
    assert loss.item() == pytest.approx(info_nce(prints, pooled, 0.2).item(), rel=1e-4)


def test_fewer_than_two_sites_have_no_loss():
    seen = torch.zeros(9, dtype=torch.bool)
    seen[4] = True
    embedded = {"als": Embedded(unit(9, 4), seen), "s2": Embedded(unit(9, 4), seen)}
    assert LocationContrast()(plain_batch(), ("als", "s2"), embedded, stream(0)) == (None, 1)


def test_more_columns_than_the_cap_are_subsampled_by_the_stream():
    seen = torch.ones(9, dtype=torch.bool)
    embedded = {"als": Embedded(unit(9, 4), seen), "s2": Embedded(unit(9, 4, seed=1), seen)}
    contrast = LocationContrast(max_columns=5)
    losses = [contrast(plain_batch(), ("als", "s2"), embedded, stream(seed)) for seed in (0, 0, 1)]
    assert [number for _, number in losses] == [5, 5, 5]
    assert losses[0][0] == losses[1][0] != losses[2][0]


def test_temperature_stays_within_its_bounds_and_learns():
    contrast = LocationContrast(0.07)
    with torch.no_grad():
        contrast.log_temperature.fill_(-20.0)
    assert contrast.temperature.item() == pytest.approx(0.01)
    contrast.clamp_()
    contrast.temperature.backward()
    assert contrast.log_temperature.grad != 0


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"max_columns": 1}, {"exclusion": -1.0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError, match=r"--model\."):
        LocationContrast(**options)
