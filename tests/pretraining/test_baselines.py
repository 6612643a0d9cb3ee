"""What every alignment of a batch must hold, published ones included."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import draw_pairs, stream
from fusion3d.errors import ConfigError
from fusion3d.ops import footprint_pool
from fusion3d.pretraining.alignment import ALIGNMENTS
from fusion3d.pretraining.baselines.places import common_places
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import LocationContrast, meeting_pairs
from tests.data.scene import open_scene

SENSORS = ["als", "gedi", "ortho", "s2"]
WAYS = sorted(ALIGNMENTS)
ORIGINS = [(6, 8), (8, 26)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_scene(tmp_path_factory.mktemp("baselines") / "scene.zarr")


def model(alignment: str, **options) -> CrossModalPretraining:
    built = CrossModalPretraining(alignment=alignment, scene={"sensors": SENSORS}, **options)
    built.configure_model()
    return built


def total(module, batch, step=0):
    pairs = meeting_pairs(batch)
    return module.loss(batch, draw_pairs(pairs, max(1, len(pairs)), stream(step)), (0, step))


def test_all_published_ways_are_known():
    assert {"pairs", "mil_nce", "star", "consensus", "jepa", "none"} <= set(WAYS)


@pytest.mark.parametrize("way", WAYS)
def test_gradient_reaches_every_encoder_and_the_temperature(store, way):
    module = model(way)
    loss, parts = total(module, read_chips(store, ORIGINS, 8))
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(math.isfinite(value) for value in parts.values())
    for name, encoder in module.encoders.items():
        unused = {part for part, parameter in encoder.named_parameters() if parameter.grad is None}
        assert not unused - ({"head.shared.weight", "head.shared.bias"} if way == "none" else set()), name
    assert (module.contrast.log_temperature.grad != 0) == (way != "none")
    assert {f"retention_{name}" for name in SENSORS} <= set(parts)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("there", [["als", "s2"], ["als", "ortho"], ["gedi"], ["s2"]])
def test_absent_sensors_are_no_error(store, way, there):
    module = model(way)
    batch = read_chips(store, [(6, 8)], 8, there)
    loss, parts = total(module, batch)
    loss.backward()
    assert math.isfinite(loss.item())
    ran = {name for name, encoder in module.encoders.items() if any(p.grad is not None for p in encoder.parameters())}
    assert ran <= set(there)
    if len(there) > 1 and way not in ("none", "star"):
        assert ran == set(there)
    if way == "star" and "s2" not in there:
        assert not any(name.startswith("contrast") for name in parts)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "none"])
def test_loss_falls_and_same_place_grows_alike_when_trained_on_one_batch(store, way):
    module = model(way, retention=0.0)
    batch = read_chips(store, ORIGINS, 8, ["als", "ortho", "s2"])
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 3e-3)

    def agreement():
        with torch.no_grad():
            first, second = (module.views(batch).unit(name) for name in ("als", "s2"))
        keep = first.present & second.present
        similar = first.vectors[keep] @ second.vectors[keep].T
        return float(similar.diagonal().mean() - similar.mean())

    before, losses = agreement(), []
    for _ in range(36):  # with 12, the seed decided
        optimizer.zero_grad()
        loss, _ = total(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert agreement() > before + 0.2


@pytest.mark.parametrize("way", WAYS)
def test_temperature_is_kept_within_its_bounds(way):
    module = model(way)
    with torch.no_grad():
        module.contrast.log_temperature.fill_(-20.0)
    module.alignment.before_step()
    assert module.contrast.log_temperature.item() == pytest.approx(math.log(0.01))


@pytest.mark.parametrize("way", WAYS)
def test_loss_depends_on_the_key_alone(store, way):
    module, batch = model(way), read_chips(store, ORIGINS, 8)
    first, again = (total(module.eval(), batch)[0].item() for _ in range(2))
    assert first == again


def test_all_pairs_drawn_with_a_star_around_each_sensor_are_all_pairs_twice(store):
    batch = read_chips(store, ORIGINS, 8)
    torch.manual_seed(0)
    whole = model("pairs", retention=0.0, prediction=0.0)
    stars = [model("star", alignment_options={"centre": name}, retention=0.0, prediction=0.0) for name in SENSORS]
    with torch.no_grad():
        pairs, _ = total(whole, batch)
        every = [total(star, batch)[0] for star in stars]
    assert sum(every).item() == pytest.approx(2 * pairs.item(), rel=1e-5)


def test_footprints_are_compared_with_the_weighted_mean_of_the_columns_under_them(store):
    batch, module = read_chips(store, ORIGINS, 8), model("mil_nce")
    with torch.no_grad():
        embedded = {name: module.views(batch).unit(name) for name in SENSORS}
    columns, footprints = common_places(batch, embedded, LocationContrast(), stream(0))
    assert columns.sensors == ("als", "ortho", "s2")
    assert footprints.sensors == ("gedi", "als", "ortho", "s2")
    assert torch.equal(footprints.vectors[0], embedded["gedi"].vectors)
    pooled, _ = footprint_pool(
        embedded["als"].vectors, 2, 8, 10.0, batch.gedi.position, batch.gedi.chip, present=embedded["als"].present
    )
    torch.testing.assert_close(footprints.vectors[1], torch.nn.functional.normalize(pooled, dim=1))


def test_places_are_thinned_to_the_most_that_are_wanted(store):
    batch, module = read_chips(store, ORIGINS, 8), model("consensus")
    with torch.no_grad():
        embedded = {name: module.views(batch).unit(name) for name in SENSORS}
        some = common_places(batch, embedded, LocationContrast(max_columns=9), stream(1))
    assert [places.vectors.shape[1] for places in some] == [9, min(9, batch.gedi.count)]


@pytest.mark.parametrize("way", ["mil_nce", "consensus"])
def test_sensors_in_another_order_give_the_same_loss(store, way):
    module = model(way, retention=0.0)
    batch = read_chips(store, ORIGINS, 8)
    swapped = replace(batch, rasters=dict(reversed(batch.rasters.items())))
    with torch.no_grad():
        assert total(module, swapped)[0].item() == pytest.approx(total(module, batch)[0].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("way", "options", "text"),
    [
        ("stars", {}, "--model.alignment stars is not known; choose from consensus, jepa, mil_nce, none, pairs, star"),
        ("star", {"center": "s2"}, "no option center in --model.alignment_options; choose from centre"),
        ("pairs", {"centre": "s2"}, "no option centre in --model.alignment_options; it has none"),
        ("star", {"centre": "hsi"}, "--model.alignment_options.centre hsi is not a sensor .*als, gedi, ortho, s2"),
        ("jepa", {"decay": 1.5}, "--model.alignment_options.decay 1.5"),
        ("jepa", {"hidden": 1.0}, "--model.alignment_options.hidden 1.0"),
        ("jepa", {"weight": -1.0}, "--model.alignment_options.weight"),
        ("jepa", {"heads": 7}, "--model.alignment_options.heads 7"),
        ("jepa", {"depth": 0}, "--model.alignment_options.depth 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(way, options, text):
    with pytest.raises(ConfigError, match=text):
        model(way, alignment_options=options)


def test_reconstruction_only_without_reconstruction_is_refused():
    with pytest.raises(ConfigError, match=r"--model\.alignment none .* --model\.retention"):
        model("none", retention=0.0)
