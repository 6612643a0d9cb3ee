from __future__ import annotations

import math
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion3d.data.chips import read_chips
from fusion3d.data.observation import ChipBatch, FootprintObservation
from fusion3d.errors import ConfigError
from fusion3d.pretraining.objective import (
    Embedded,
    LocationContrast,
    draw_pairs,
    inclusion,
    meeting_pairs,
    presence,
    stream,
    systematic_sample,
)
from tests.data.scene import open_scene

SENSORS = ("als", "ortho", "s1", "s2")
PAIRS = list(combinations(SENSORS, 2))


def expected_weights(pairs, count, preference=None):
    """Exact expectation of each pair's and each sensor's weight: every order, every start (piecewise constant, so midpoints)."""
    chance = inclusion(pairs, count, preference)
    orders = list(permutations(range(len(pairs))))
    pair_weight, own_weight = dict.fromkeys(pairs, 0.0), dict.fromkeys({n for p in pairs for n in p}, 0.0)
    for order in orders:
        cuts = sorted({0.0, 1.0, *(math.fmod(part, 1.0) for part in np.cumsum([chance[i] for i in order]))})
        for low, high in pairwise(cuts):
            share = (high - low) / len(orders)
            for item in systematic_sample(pairs, chance, order, (low + high) / 2):
                pair_weight[item.pair] += share * item.weight
                for name, weight in zip(item.pair, item.own_weight, strict=True):
                    own_weight[name] += share * weight
    return pair_weight, own_weight


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("preference", [None, {"s2-als": 3.0, "als-ortho": 0.5}])
def test_expected_weight_of_every_pair_and_sensor_is_one(count, preference):
    pairs = PAIRS[:5]
    pair_weight, own_weight = expected_weights(pairs, count, preference)
    assert pair_weight == pytest.approx(dict.fromkeys(pairs, 1.0))
    assert own_weight == pytest.approx(dict.fromkeys(own_weight, 1.0))


def test_estimate_equals_the_sum_over_all_pairs_on_average():
    value = {pair: float(number + 1) for number, pair in enumerate(PAIRS)}
    draws = [sum(item.weight * value[item.pair] for item in draw_pairs(PAIRS, 2, stream(3, step))) for step in range(4000)]
    assert np.mean(draws) == pytest.approx(sum(value.values()), rel=0.03)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 8), seed=st.integers(0, 1000))
def test_drawn_pairs_are_different_and_as_many_as_asked(count, seed):
    drawn = [item.pair for item in draw_pairs(PAIRS, count, stream(seed), {"als-s2": 2.0})]
    assert len(drawn) == len(set(drawn)) == min(count, len(PAIRS))


def test_as_many_pairs_as_there_are_is_exact():
    drawn = draw_pairs(PAIRS, len(PAIRS), stream(0))
    assert {item.pair for item in drawn} == set(PAIRS)
    assert [item.weight for item in drawn] == [1.0] * len(PAIRS)


def test_no_pair_no_draw():
    assert draw_pairs([], 2, stream(0)) == []


def test_streams_depend_on_their_key_alone():
    values = [torch.rand(3, generator=stream(*key)).tolist() for key in ((1, 2), (1, 2), (2, 1))]
    assert values[0] == values[1] != values[2]


def test_a_preference_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="positive"):
        inclusion(PAIRS, 1, {"als-s2": 0.0})


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
