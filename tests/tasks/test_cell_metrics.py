"""Plot metrics of returns in cells, against hand-worked clouds, scipy, definitions written out, and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fusion3d.tasks.cell_metrics import CellReturns, cell_metrics
from fusion3d.tasks.metric_catalogue import CATALOGUE, choose

ATTRIBUTES = ("return_number", "number_of_returns", "intensity", "classification")


def returns(cell, height, *, place=None, cells=None, size=(20.0, 20.0), **attributes) -> CellReturns:
    """Returns that are single, dark and unclassified unless told otherwise, in the middle of their cell."""
    cell, height = np.asarray(cell, np.int64), np.asarray(height, np.float32)
    usual = {"return_number": 1, "number_of_returns": 1, "intensity": 0, "classification": 1}
    given = {name: np.asarray(attributes.get(name, np.full(len(cell), value)), np.uint16) for name, value in usual.items()}
    where = np.full((len(cell), 2), size[0] / 2) if place is None else np.asarray(place, np.float64)
    return CellReturns(cell, height, where, given, int(cell.max()) + 1 if cells is None else cells, size)


def measure(given: CellReturns, names=None, **options) -> dict[str, np.ndarray]:
    metrics = choose(names, ATTRIBUTES) if names else tuple(CATALOGUE.values())
    return dict(zip((metric.name for metric in metrics), cell_metrics(given, metrics, **options).T, strict=True))


def one(height, **options) -> dict[str, float]:
    """Metrics of one cell that holds these heights; `least` is 1 unless given."""
    split = {name: options.pop(name) for name in list(options) if name in (*ATTRIBUTES, "place", "size")}
    found = measure(returns(np.zeros(len(height)), height, cells=1, **split), **{"least": 1, **options})
    return {name: float(values[0]) for name, values in found.items()}


@pytest.fixture(scope="module")
def forest() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell, height and intensity of 40 cells of 30 to 900 returns: ground and a canopy whose height differs by cell."""
    rng = np.random.default_rng(0)
    cell = np.repeat(np.arange(40), rng.integers(30, 900, 40))
    top = rng.uniform(3, 35, 40)[cell]
    height = np.where(rng.random(len(cell)) < 0.3, 0.0, top * rng.beta(4, 2, len(cell))).astype(np.float32)
    return cell, height, rng.integers(0, 4000, len(cell))


# -- by hand


def test_a_cloud_of_five_returns_has_the_metrics_worked_out_by_hand():
    found = one([0, 2, 4, 6, 8], intensity=[10, 20, 30, 40, 100])
    expected = {
        "zmax": 8, "zmean": 4, "zsd": math.sqrt(10), "zcv": 25 * math.sqrt(10), "zskew": 0, "zkurt": 1.7, "zMADmean": 2.4,
        "CRR": 0.5, "pzabovezmean": 40, "zq5": 0.4, "zq50": 4, "zq95": 7.6, "ziqr": 4, "L1": 4, "L2": 2, "L3": 0, "L4": 0,
        "Lskew": 0, "Lkurt": 0, "Lcv": 0.5, "pzabove2": 60, "pzabove5": 40, "pzabove10": 0, "imax": 100, "imean": 40,
        "isd": math.sqrt(1250), "iq50": 30, "n": 5, "pground": 0, "p1th": 100, "p_single": 100, "p_last": 0,
        # at most 2, 5, 10 m: 2, 3 and 5 returns
        "gf2_5": 2 / 3, "gf5_10": 3 / 5, "gf10_15": 1,
        # of 2, 4, 6, 8 (above 0) below 0.8, 1.6, 2.4, ..., 7.2: the one at 8 never
        "zpcum1": 0, "zpcum2": 0, "zpcum3": 25, "zpcum5": 25, "zpcum6": 50, "zpcum7": 50, "zpcum8": 75, "zpcum9": 75,
        # one return in each of 5 of 9 layers
        "zentropy": math.log(5) / math.log(9), "VCI": math.log(5) / math.log(60),
        # layers (2,3]: 1, (3,4]: 3/2, (4,5]: 1, (5,6]: 4/3, (6,7]: 1, (7,8]: 5/4 are entered over left
        "lad_sum": 2 * math.log(2.5), "lad_max": 2 * math.log(1.5), "lad_min": 0, "lad_mean": math.log(2.5) / 3,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_cover_of_first_returns_leaves_the_others_out():
    found = one([1, 3, 6, 12, 0, 30], return_number=[1, 1, 1, 1, 2, 2], number_of_returns=[1, 2, 1, 2, 2, 2])
    assert (found["pfirstabove2"], found["pfirstabove5"], found["pfirstabove10"]) == (75, 50, 25)
    assert found["pzabove10"] == pytest.approx(100 * 2 / 6)


def test_echoes_are_shares_of_returns_by_their_place_in_the_pulse():
    number, of = [1, 1, 2, 1, 2, 3, 4], [1, 2, 2, 4, 4, 4, 4]
    found = one(np.arange(7), return_number=number, number_of_returns=of, classification=[2, 1, 2, 5, 5, 5, 2])
    shares = {
        "p1th": 3,
        "p2th": 2,
        "p3th": 1,
        "p4th": 1,
        "p5th": 0,
        "p_single": 1,
        "p_intermediate": 2,
        "p_last": 2,
        "pground": 3,
    }
    assert {name: found[name] for name in shares} == pytest.approx({name: 100 * count / 7 for name, count in shares.items()})


# -- against other programs


def test_height_and_intensity_statistics_are_those_of_numpy_and_scipy(forest):
    cell, height, intensity = forest
    shuffled = np.random.default_rng(1).permutation(len(cell))
    found = measure(returns(cell[shuffled], height[shuffled], intensity=intensity[shuffled]))
    for number in range(40):
        for short, values in (("z", height[cell == number].astype(float)), ("i", intensity[cell == number].astype(float))):
            expected = {
                "max": values.max(),
                "mean": values.mean(),
                "sd": values.std(ddof=1),
                "skew": stats.skew(values),
                "kurt": stats.kurtosis(values, fisher=False),
                "q5": np.percentile(values, 5),
                "q75": np.percentile(values, 75),
                "q95": np.percentile(values, 95),
            }
            got = {name: found[short + name][number] for name in expected}
            assert got == pytest.approx(expected, rel=1e-5)


def test_entropy_and_vci_are_those_of_scipy_on_a_histogram(forest):
    cell, height, _ = forest
    found = measure(returns(cell, height), ["zentropy", "VCI"])
    for number in range(40):
        values = height[cell == number]
        layers = math.ceil(values.max())
        counts = np.histogram(values, bins=np.arange(layers + 1))[0]
        assert found["zentropy"][number] == pytest.approx(stats.entropy(counts, base=layers), abs=1e-9)
        assert found["VCI"][number] == pytest.approx(stats.entropy(counts, base=60), abs=1e-9)


def test_l_moments_are_expected_contrasts_of_order_statistics():
    """Hosking 1990, eq. 2.1, averaged over every subset of the sample."""
    height = np.random.default_rng(2).gamma(2, 5, 9).astype(np.float32).astype(float)
    found = one(height)
    for order in range(1, 5):
        contrasts = [
            sum((-1) ** k * math.comb(order - 1, k) * subset[order - 1 - k] for k in range(order)) / order
            for subset in itertools.combinations(sorted(height), order)
        ]
        assert found[f"L{order}"] == pytest.approx(np.mean(contrasts), rel=1e-6)


def test_l_moment_ratios_of_a_large_exponential_sample_are_its_known_ones():
    found = one(stats.expon.ppf((np.arange(20000) + 0.5) / 20000) * 7)
    assert [found["Lcv"], found["Lskew"], found["Lkurt"]] == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=1e-3)


def test_leaf_area_density_is_the_profile_written_out_layer_by_layer(forest):
    cell, height, _ = forest
    found = measure(returns(cell, height))
    for number in range(40):
        values = height[cell == number]
        profile = [
            -math.log((values <= base).sum() / (values <= base + 1).sum()) / 0.5 for base in range(2, math.ceil(values.max()))
        ]
        expected = [min(profile), max(profile), np.mean(profile), np.sum(profile), stats.variation(profile, ddof=1)]
        assert [found[f"lad_{name}"][number] for name in ("min", "max", "mean", "sum", "cv")] == pytest.approx(expected, abs=1e-9)


# -- closed forms


def test_a_canopy_that_holds_back_a_fifth_of_the_light_in_each_metre_has_an_even_profile():
    """Of 3125 returns entering each layer from above, 4/5 leave it: Beer and Lambert's law with k = 0.5."""
    passing = 3125 * 0.8 ** np.arange(6)
    counts = np.round(passing[:-1] - passing[1:]).astype(int)
    height = np.concatenate([*(np.full(count, 6.5 - layer) for layer, count in enumerate(counts)), np.zeros(1024)])
    found = one(height)
    assert [found["lad_min"], found["lad_max"], found["lad_mean"]] == pytest.approx([-2 * math.log(0.8)] * 3)
    assert (found["lad_sum"], found["lad_cv"]) == (pytest.approx(-10 * math.log(0.8)), pytest.approx(0, abs=1e-6))


def lattice(step: float = 0.5, side: float = 20.0) -> np.ndarray:
    """Places in the middles of squares of `step`, metres east and south."""
    axis = np.arange(step / 2, side, step)
    return np.stack([part.ravel() for part in np.meshgrid(axis, axis)], axis=1)


@pytest.mark.parametrize("direction", [0.0, 0.6, math.pi / 2, 2.5])
@pytest.mark.parametrize("slope", [0.0, 0.3, 1.2])
def test_rumple_of_a_plane_is_one_over_the_cosine_of_its_slope(slope, direction):
    place = lattice(1.0)
    height = 60 + math.tan(slope) * (place @ [math.cos(direction), math.sin(direction)])
    assert one(height, place=place)["rumple"] == pytest.approx(1 / math.cos(slope), rel=1e-5)


def test_rumple_is_of_the_greatest_heights_only_and_stays_inside_the_cell():
    place = lattice(0.5)
    top = (place % 1.0 > 0.5).all(axis=1)
    assert one(np.where(top, 20.0, 3.0), place=place)["rumple"] == pytest.approx(1)
    two = returns(np.repeat([0, 1], len(place)), np.repeat([5.0, 25.0], len(place)), place=np.tile(place, (2, 1)))
    np.testing.assert_allclose(measure(two, ["rumple"])["rumple"], 1)


def test_rumple_leaves_pixels_without_returns_out():
    place = lattice(1.0)
    kept = np.random.default_rng(3).random(len(place)) < 0.6
    assert one(10 + place[kept] @ [1.0, 0.0], place=place[kept])["rumple"] == pytest.approx(math.sqrt(2), rel=1e-6)


# -- what is counted


def test_a_cell_with_too_few_returns_has_no_metrics_and_never_zero():
    found = measure(
        returns(np.repeat([0, 2, 3], [9, 10, 40]), np.tile([0.0, 5.0, 11.0, 4.0, 7.0, 2.5, 3.0, 9.0, 1.0], 7)[:59], cells=5)
    )
    for name, values in found.items():
        assert np.isnan(values[[0, 1, 4]]).all(), name
        if name != "rumple":  # all returns lie on one place
            assert np.isfinite(values[[2, 3]]).all(), name


def test_no_returns_at_all_are_no_metrics():
    found = measure(returns([], [], cells=3))
    assert all(np.isnan(values).all() for values in found.values())


def test_a_least_height_leaves_low_returns_out_of_heights_and_intensities_but_not_of_cover():
    height, intensity = np.array([0.0] * 50 + [2.0] * 5 + [12.0] * 30 + [14.0] * 30), np.arange(115)
    found = one(height, intensity=intensity, min_height=2)
    assert (found["zmean"], found["zq50"], found["CRR"], found["pzabovezmean"]) == (13, 13, 0.5, 50)
    assert found["imean"] == pytest.approx(np.arange(55, 115).mean())
    assert (found["zpcum8"], found["zpcum9"]) == (0, 50)
    assert found["pzabove2"] == pytest.approx(100 * 60 / 115)
    assert found["n"] == 115


def test_a_clearing_has_cover_but_no_heights_above_a_least_height():
    found = one(np.linspace(0, 1, 50), min_height=2, least=10)
    assert found["pzabove2"] == 0
    assert math.isnan(found["zq95"])
    assert math.isnan(found["imean"])


def test_first_cover_needs_enough_first_returns():
    number = [1] * 9 + [2] * 40
    found = one(np.arange(49.0), return_number=number, number_of_returns=np.full(49, 2), least=10)
    assert math.isnan(found["pfirstabove2"])
    assert found["pzabove2"] == pytest.approx(100 * 46 / 49)


def test_heights_below_ground_count_as_ground():
    given = np.random.default_rng(4).uniform(-3, 20, 200)
    assert one(given) == pytest.approx(one(np.maximum(given, 0)), nan_ok=True)


def test_what_rounding_leaves_of_returns_on_the_ground_is_no_height():
    # a ground model through returns at 1,400 m gives them heights of 1e-13 m and the like
    rounded = np.array([0, 2.3e-13, 7.9e-11, -1e-12, 0, 5.7e-14, 1e-10, 0, 0, 3e-13])
    found, plain = one([*rounded, 12.0, 15.0]), one([*np.zeros(10), 12.0, 15.0])
    assert found == pytest.approx(plain, abs=0, nan_ok=True)
    assert found["zq5"] == 0
    # a millimetre is a height
    assert one([0.001] * 12)["zq5"] == pytest.approx(0.001)


def test_bare_ground_has_finite_metrics_without_spread():
    found = one(np.zeros(400), place=lattice(1.0))
    assert all(math.isfinite(value) for value in found.values())
    assert all(found[name] == 0 for name in CATALOGUE if name[0] == "z" or name.startswith(("L", "lad_", "pz", "pfirst")))
    assert (found["rumple"], found["gf2_5"]) == (1, 1)


def test_a_canopy_that_nothing_passes_has_an_unknown_leaf_area():
    assert math.isnan(one(np.full(50, 20.5))["lad_sum"])


def test_metrics_depend_neither_on_order_nor_on_the_other_cells(forest):
    cell, height, intensity = forest
    rng = np.random.default_rng(5)
    place = rng.uniform(0, 20, (len(cell), 2))
    whole = measure(returns(cell, height, intensity=intensity, place=place))
    order = rng.permutation(len(cell))
    mixed = measure(returns(cell[order], height[order], intensity=intensity[order], place=place[order]))
    own = cell == 17
    alone = measure(returns(np.zeros(own.sum()), height[own], intensity=intensity[own], place=place[own]))
    for name, values in whole.items():
        np.testing.assert_array_equal(values, mixed[name], err_msg=name)
        assert values[17] == alone[name][0], name
