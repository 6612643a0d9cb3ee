"""What a trained fusion keeps to: any subset, no dependence on order, absent sensors, other sites or padding."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations

import pytest
import torch

from fusion3d.encoders import FUSIONS, ColumnFusion, FootprintEmbedding, build, fuse, kind_of, on_cells
from fusion3d.errors import ConfigError
from tests.encoders.batches import SENSORS, chips
from tests.encoders.test_raster import padded

WIDTHS = {"als": 12, "gedi": 7, "ortho": 12, "s1": 12, "s2": 20}
D, W, SITES = 6, 8, 40
SEEN = 0.6
every_way = pytest.mark.parametrize("way", FUSIONS)


@pytest.fixture(scope="module")
def fusion() -> ColumnFusion:
    """Random weights everywhere, also where training begins with zeros."""
    torch.manual_seed(0)
    made = ColumnFusion(WIDTHS, D, W)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def parts(*names: str, sites: int = SITES, share: float = SEEN) -> dict[str, FootprintEmbedding]:
    made = {}
    for index, (name, width) in enumerate(WIDTHS.items()):
        random = torch.Generator().manual_seed(index)
        seen = torch.rand(sites, generator=random) < share
        shared, features = (torch.randn(sites, size, generator=random) for size in (D, width))
        made[name] = FootprintEmbedding(shared, features, seen)
    return {name: made[name] for name in names or made}


def away(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max()) if left.numel() else 0.0


def difference(one, other) -> float:
    assert torch.equal(one.observed, other.observed)
    return max(away(one.shared, other.shared), away(one.features, other.features))


# -- what comes out


@every_way
def test_every_subset_gives_unit_vectors_where_a_sensor_saw_and_zeros_elsewhere(fusion, way):
    for size in range(1, len(WIDTHS) + 1):
        for subset in combinations(WIDTHS, size):
            chosen = parts(*subset)
            found = fusion.fuse(chosen, way)
            seen = torch.stack([part.present for part in chosen.values()]).any(dim=0)
            assert torch.equal(found.observed, seen)
            assert torch.allclose(found.shared.norm(dim=1), seen.float(), atol=1e-5)
            assert not found.features[~seen].any()
            assert found.features.shape == (SITES, W if way == "attention" else 0)


@every_way
def test_sites_that_no_sensor_saw_are_zeros_with_a_finite_gradient(fusion, way):
    empty = parts(share=0.0)
    for part in empty.values():
        part.shared.requires_grad_()
    found = fusion.fuse(empty, way)
    assert not found.observed.any()
    assert not found.shared.any()
    found.shared.sum().backward()
    assert all(not part.shared.grad.any() for part in empty.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())
    fusion.zero_grad(set_to_none=True)


@every_way
def test_no_sites_give_nothing(fusion, way):
    assert fusion.fuse(parts(sites=0), way).shared.shape == (0, D)


def test_double_precision_is_kept_and_agrees(fusion):
    double = ColumnFusion(WIDTHS, D, W).double()
    double.load_state_dict(fusion.state_dict())
    found = double.attention(parts())
    assert found.shared.dtype == found.features.dtype == torch.float64
    assert difference(found, fusion.attention(parts())) < 1e-5


def test_mixed_precision_stays_near_and_in_single_precision(fusion):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = {way: fusion.fuse(parts(), way) for way in FUSIONS}
    for way, item in found.items():
        assert item.shared.dtype == item.features.dtype == torch.float32
        assert difference(item, fusion.fuse(parts(), way)) < 0.1


# -- what may not matter


@every_way
def test_order_of_the_sensors_changes_no_bit(fusion, way):
    chosen = parts("als", "gedi", "s2")
    expected = fusion.fuse(chosen, way)
    for order in permutations(chosen):
        assert difference(fusion.fuse({name: chosen[name] for name in order}, way), expected) == 0


@every_way
def test_sensor_that_saw_nothing_is_as_if_it_were_not_there(fusion, way):
    chosen = parts("als", "s2")
    nothing = torch.zeros(SITES, dtype=torch.bool)
    for name in ("gedi", "ortho", "s1", "unheard"):
        width = WIDTHS.get(name, 3)
        absent = FootprintEmbedding(torch.full((SITES, D), 7.0), torch.full((SITES, width), -7.0), nothing)
        assert difference(fusion.fuse({**chosen, name: absent}, way), fusion.fuse(chosen, way)) < 1e-6


@every_way
@pytest.mark.parametrize("garbage", [1e30, float("nan"), float("inf")])
def test_what_a_sensor_holds_where_it_saw_nothing_changes_no_bit(fusion, way, garbage):
    spoiled = {
        name: FootprintEmbedding(
            *(torch.where(part.present[:, None], values, garbage) for values in (part.shared, part.features)), part.present
        )
        for name, part in parts().items()
    }
    assert difference(fusion.fuse(spoiled, way), fusion.fuse(parts(), way)) == 0


@every_way
def test_other_sites_of_the_batch_change_nothing(fusion, way):
    whole = fusion.fuse(parts(), way)
    for at in (slice(0, 1), slice(3, 9), slice(SITES - 5, SITES)):
        piece = {n: FootprintEmbedding(p.shared[at], p.features[at], p.present[at]) for n, p in parts().items()}
        alone = fusion.fuse(piece, way)
        assert away(alone.shared, whole.shared[at]) < 1e-6
        assert away(alone.features, whole.features[at]) < 2e-6


@every_way
@pytest.mark.parametrize("dates", [1, 10, 40])
def test_padding_dates_of_a_series_change_nothing(way, dates):
    torch.manual_seed(0)
    encoders = {name: build(kind_of(name), "tiny").eval() for name in SENSORS}
    made = ColumnFusion({name: encoder.width for name, encoder in encoders.items()}, encoders["als"].shared_dim, 16).eval()
    batch = chips()
    longer = replace(batch, rasters={name: padded(raster, dates) for name, raster in batch.rasters.items()})
    with torch.no_grad():
        found, expected = (
            made.fuse({name: on_cells(encoder(item, name), item) for name, encoder in encoders.items()}, way)
            for item in (longer, batch)
        )
    assert difference(found, expected) < 1e-6 * max(1, float(expected.features.abs().max()) if way == "attention" else 1)


# -- precision


def test_precision_begins_as_the_mean_bit_for_bit():
    made = ColumnFusion(WIDTHS, D, W)
    expected, observed = fuse({name: (part.shared, part.present) for name, part in parts().items()})
    found = made.precision(parts())
    assert torch.equal(found.shared, expected)
    assert torch.equal(found.observed, observed)
    assert difference(made.mean(parts()), found) == 0


def test_equal_variances_of_any_size_give_the_mean():
    made = ColumnFusion(WIDTHS, D, W)
    with torch.no_grad():
        for value in made.kind_log_variance.values():
            value.fill_(-3.0)
    assert away(made.precision(parts()).shared, made.mean(parts()).shared) < 1e-6


def test_weights_are_inverse_variances_by_hand():
    made = ColumnFusion({"als": 1, "s2": 1}, 2, 4)
    with torch.no_grad():
        made.log_variance["als"].weight.fill_(1.0)
    one = torch.ones(2, dtype=torch.bool)
    # s^2 of als is exp(5 tanh(x / 5)) for a feature x: 1 at 0, and at 5 atanh(log(4) / 5) it is 4.
    features = torch.tensor([[0.0], [5 * torch.atanh(torch.log(torch.tensor(4.0)) / 5)]])
    als = FootprintEmbedding(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), features, one)
    s2 = FootprintEmbedding(torch.tensor([[0.0, 1.0], [0.0, 3.0]]), torch.zeros(2, 1), one)
    found = made.precision({"als": als, "s2": s2}).shared
    expected = torch.tensor([[1.0, 1.0], [0.25, 1.0]])
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_one_sensor_alone_is_its_own_direction_by_mean_and_precision(fusion):
    (part,) = (chosen := parts("ortho")).values()
    expected = torch.nn.functional.normalize(part.shared, dim=1)[part.present]
    for way in ("mean", "precision"):
        torch.testing.assert_close(fusion.fuse(chosen, way).shared[part.present], expected)


def test_opposite_directions_stay_finite():
    made, one = ColumnFusion({"als": 1, "s2": 1}, 2, 4), torch.ones(1, dtype=torch.bool)
    pair = {
        name: FootprintEmbedding(torch.tensor([[sign, 0.0]]), torch.zeros(1, 1), one) for name, sign in (("als", 1), ("s2", -1))
    }
    found = made.precision(pair).shared
    found.sum().backward()
    assert found.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


# -- private knowledge and names


def test_fused_features_know_what_the_shared_vectors_do_not(fusion):
    """Sites alike in every shared vector and different in private features: attention alone tells them apart."""
    same = {name: torch.randn(1, D).expand(SITES, D) for name in WIDTHS}
    seen = torch.ones(SITES, dtype=torch.bool)
    alike = {name: FootprintEmbedding(same[name], part.features, seen) for name, part in parts().items()}
    assert fusion.attention(alike).features.std(dim=0).min() > 1e-2
    assert fusion.mean(alike).shared.std(dim=0).max() < 1e-6


def test_a_sensor_of_another_name_is_read_by_its_kind_and_its_features_do_not_count(fusion):
    chosen = parts("als", "s2")
    names = {"s2b": kind_of("s2b"), "s2c": kind_of("s2c")}
    assert set(names.values()) == {"raster"}
    shared, seen = parts("ortho")["ortho"].shared, parts("ortho")["ortho"].present
    found = [
        fusion.attention({**chosen, name: FootprintEmbedding(shared, torch.randn(SITES, width), seen)})
        for name, width in (("s2b", 5), ("s2c", 9))
    ]
    assert difference(*found) < 1e-6
    assert away(found[0].features, fusion.attention(chosen).features) > 1e-2


def test_a_sensor_read_without_its_name_is_as_one_of_another_name(fusion):
    chosen = parts("als", "s2")
    nowhere = torch.zeros(SITES, dtype=torch.bool)
    found = fusion.attention(chosen, {"s2": ~nowhere, "als": nowhere})
    renamed = fusion.attention({"als": chosen["als"], "s9": chosen["s2"]})
    assert difference(found, renamed) < 1e-6


def test_gradient_reaches_every_parameter_from_its_features_its_vector_and_its_variances():
    torch.manual_seed(1)
    made = ColumnFusion(WIDTHS, D, W).double()
    found = made.attention(parts())
    loss = (found.shared * torch.randn_like(found.shared)).sum() + (found.features * torch.randn_like(found.features)).sum()
    loss = loss + sum((value * torch.randn_like(value)).sum() for value in made.log_variances(parts()).values())
    loss.backward()
    # Rounding leaves about 1e-16 where a parameter has no effect at all, as the bias of a softmax's keys.
    assert not [name for name, p in made.named_parameters() if p.grad is None or not float(p.grad.abs().max()) > 1e-10]


def test_weights_make_the_same_fusion_again(fusion):
    again = ColumnFusion(fusion.widths, fusion.shared_dim, fusion.width, fusion.heads).eval()
    again.load_state_dict(fusion.state_dict())
    assert difference(again.attention(parts()), fusion.attention(parts())) == 0


# -- refusals


def test_what_cannot_be_fused_is_refused_in_words(fusion):
    for way in FUSIONS:
        with pytest.raises(ConfigError, match="name at least one sensor"):
            fusion.fuse({}, way)
    with pytest.raises(ConfigError, match="--fusion max is not known; choose from mean, precision, attention"):
        fusion.fuse(parts(), "max")
    with pytest.raises(ConfigError, match="als: features of length 3, but the fusion was made for 12"):
        fusion.attention({"als": replace(parts()["als"], features=torch.zeros(SITES, 3))})
    with pytest.raises(ConfigError, match="between 3 heads"):
        ColumnFusion(WIDTHS, D, W, heads=3)
    with pytest.raises(ConfigError, match="name at least one sensor"):
        ColumnFusion({}, D, W)
