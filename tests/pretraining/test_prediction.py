"""Subsets that train the fusion: what they learn, what they leave alone, and what an absent sensor is said to have seen."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import DrawnPair, draw_pairs, stream
from fusion3d.encoders import ColumnEmbedding, ColumnFusion
from fusion3d.errors import ConfigError
from fusion3d.evaluation.checkpoint import load_pretraining
from fusion3d.io.bands import Band
from fusion3d.pretraining.hiding import all_of
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import meeting_pairs
from fusion3d.pretraining.prediction import ChipsOfAll, draw_subsets, predict_absent, variance_loss
from tests.data.scene import canopy, open_scene
from tests.evaluation.checkpoints import NARROW, write_checkpoint

SENSORS = ["als", "gedi", "ortho", "s2"]
CHIPS = [(6, 8), (8, 26), (16, 4), (20, 28)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_scene(tmp_path_factory.mktemp("prediction") / "scene.zarr")


@pytest.fixture(scope="module")
def batch(store):
    return read_chips(store, CHIPS, 8)


def model(sensors=SENSORS, **options) -> CrossModalPretraining:
    narrow = {name: NARROW.get(name, NARROW["raster"]) for name in sensors}
    built = CrossModalPretraining(scene={"sensors": list(sensors)}, encoder_options=narrow, **options)
    built.configure_model()
    return built


def predicted(module, batch, sensors, key=0):
    weights = dict.fromkeys(sensors, 1.0)
    return module.prediction(module.fusion, module.views(batch), weights, stream(key))


# -- variances


def columns(vectors: torch.Tensor, feature: torch.Tensor | None = None) -> ColumnEmbedding:
    sites = len(vectors)
    feature = torch.zeros(sites) if feature is None else feature
    return ColumnEmbedding(vectors, feature[:, None], torch.ones(sites, dtype=torch.bool), 10.0, 1, sites)


def noisy(truth: torch.Tensor, spread, seed: int) -> torch.Tensor:
    """Truth with noise of a squared length of `spread` squared on average."""
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed)) / math.sqrt(truth.shape[1])
    return truth + noise * torch.as_tensor(spread).reshape(-1, 1)


def learnt_variances(parts, pairs, steps=200) -> dict[str, torch.Tensor]:
    fusion = ColumnFusion(dict.fromkeys(parts, 1), 32, 8)
    optimizer = torch.optim.Adam(fusion.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        chosen = {name: parts[name] for name in pairs[step % len(pairs)]}
        loss, _ = variance_loss(fusion, chosen, dict.fromkeys(chosen, 1.0), {}, stream(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return {name: value.exp() for name, value in fusion.log_variances(parts).items()}


def test_two_sensors_a_step_are_enough_to_learn_the_error_of_each_of_three():
    truth = torch.nn.functional.normalize(torch.randn(600, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    spread = {"als": 0.25, "ortho": 0.3, "s2": 0.4}
    parts = {name: columns(noisy(truth, size, 10 + at)) for at, (name, size) in enumerate(spread.items())}
    found = learnt_variances(parts, [("als", "ortho"), ("als", "s2"), ("ortho", "s2")])
    units = {name: torch.nn.functional.normalize(part.shared, dim=1) for name, part in parts.items()}
    apart = {frozenset((a, b)): float((units[a] - units[b]).square().sum(dim=1).mean()) for a in parts for b in parts if a < b}
    for name, size in spread.items():
        # Triple collocation in closed form: half of what the two distances of a sensor have more than that of the other two.
        near = sum(value for pair, value in apart.items() if name in pair)
        expected = (near - sum(value for pair, value in apart.items() if name not in pair)) / 2
        assert float(found[name].mean()) == pytest.approx(expected, rel=0.05)
        assert expected**0.5 == pytest.approx(size, rel=0.1)


def test_a_sensor_says_from_its_features_where_it_errs():
    random = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.normalize(torch.randn(600, 32, generator=random), dim=1)
    foggy = (torch.rand(600, generator=random) < 0.5).float()
    parts = {
        "als": columns(noisy(truth, 0.1, 2)),
        "ortho": columns(noisy(truth, 0.1, 3)),
        "s2": columns(noisy(truth, 0.1 + 0.5 * foggy, 4), foggy),
    }
    found = learnt_variances(parts, [("als", "ortho"), ("als", "s2"), ("ortho", "s2")])["s2"]
    assert float(found[foggy == 1].mean()) > 5 * float(found[foggy == 0].mean())


def test_variances_have_no_gradient_to_the_vectors():
    truth = torch.randn(20, 32)
    parts = {name: columns(noisy(truth, 0.3, at).requires_grad_()) for at, name in enumerate(("als", "s2"))}
    loss, _ = variance_loss(ColumnFusion({"als": 1, "s2": 1}, 32, 8), parts, {"als": 1.0, "s2": 1.0}, {}, stream(0))
    loss.backward()
    assert all(part.shared.grad is None for part in parts.values())


# -- subsets


def present(*chips: bool) -> ColumnEmbedding:
    seen = torch.tensor(chips).repeat_interleave(4)
    return ColumnEmbedding(torch.zeros(len(seen), 2), torch.zeros(len(seen), 2), seen, 10.0, 2, 2)


def test_all_sizes_are_drawn_alike_and_all_subsets_of_a_size():
    parts = {name: present(*[True] * 3) for name in "abc"}
    counts: Counter[str] = Counter()
    for step in range(1000):
        drawn = draw_subsets(parts, ChipsOfAll(3, 0, 3), stream(step))
        subsets = ["".join(name for name in "abc" if drawn[name][chip]) for chip in range(3)]
        assert sorted(len(subset) for subset in subsets) == [1, 2, 3]
        counts.update(subsets)
    assert counts["abc"] == 1000
    for subset in ("a", "b", "c", "ab", "ac", "bc"):
        assert abs(counts[subset] - 333) < 4 * math.sqrt(1000 * 2 / 9)


def test_a_subset_holds_only_sensors_that_saw_the_chip_and_is_never_empty():
    parts = {"a": present(True, False, False), "b": present(True, True, False)}
    for step in range(50):
        drawn = draw_subsets(parts, ChipsOfAll(3, 0, 3), stream(step))
        assert (drawn["a"] | drawn["b"]).tolist() == [True, True, False]
        assert drawn["a"].tolist()[1:] == [False, False]


# -- the loss


def test_two_sensors_of_a_step_train_the_fusion_and_no_other_sensor(batch):
    module = model()
    loss, terms = predicted(module, batch, ["als", "s2"])
    loss.backward()
    assert {name.rsplit("_", 1)[1] for name in terms} == {"als", "s2", "variance"}
    reached = {name for name, p in module.named_parameters() if p.grad is not None}
    assert not [name for name in reached if name.startswith("encoders.") or ".gedi." in name or ".ortho." in name]
    # A linear head of variances begins with zeros and is shared by nobody: its gradient is there all the same.
    assert {f"fusion.log_variance.{name}.weight" for name in ("als", "s2")} <= reached
    assert {f"fusion.read.{name}.weight" for name in ("als", "s2")} <= reached


def test_encoders_learn_from_it_when_asked_for(batch):
    module = model(prediction_teaches=True)
    loss, _ = predicted(module, batch, ["als", "s2"])
    loss.backward()
    taught = {name for name, encoder in module.encoders.items() if any(p.grad is not None for p in encoder.parameters())}
    assert taught == {"als", "s2"}


def test_encoders_have_the_same_gradient_with_and_without_it(batch):
    drawn = draw_pairs(meeting_pairs(batch), 2, stream(3))
    gradients = []
    for weight in (0.0, 1.0):
        module = model(prediction=weight)
        module.loss(batch, drawn, (0, 0))[0].backward()
        gradients.append({name: p.grad for name, p in module.encoders.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_footprints_are_predicted_and_predict(batch):
    module = model()
    loss, terms = predicted(module, batch, ["als", "gedi"])
    loss.backward()
    assert {"prediction_gedi", "prediction_absent_gedi", "prediction_als", "prediction_absent_als"} <= set(terms)
    assert module.fusion.read["gedi"].weight.grad.abs().max() > 0
    assert module.prediction.signal["gedi"].layers[0].weight.grad.abs().max() > 0


def test_weights_scale_the_terms_of_their_sensor(batch):
    module = model()
    _, terms = predicted(module, batch, ["als", "s2"])
    one, two = (
        module.prediction(module.fusion, module.views(batch), {"als": 1.0, "s2": weight}, stream(0))[0].detach()
        for weight in (1.0, 3.0)
    )
    of_s2 = terms["prediction_s2"] + terms["prediction_absent_s2"] + terms["prediction_variance"] / 2
    assert float(two - one) == pytest.approx(2 * float(of_s2), rel=1e-4)


def test_it_depends_on_the_generator_alone(batch):
    module = model()
    values = [predicted(module, batch, SENSORS, key)[0].item() for key in (5, 5, 6)]
    assert values[0] == values[1] != values[2]


def test_one_sensor_in_the_data_has_no_fusion(store):
    module = model(["s2"])
    assert module.fusion is None
    assert not [name for name in module.state_dict() if name.startswith(("fusion", "prediction"))]
    loss, _ = module.loss(read_chips(store, CHIPS, 8, ["s2"]), [], (0, 0))
    assert loss.isfinite()


def test_it_can_be_switched_off(batch):
    module = model(prediction=0.0)
    assert module.fusion is None
    _, parts = module.loss(batch, draw_pairs(meeting_pairs(batch), 1, stream(0)), (0, 0))
    assert not any(name.startswith("prediction") for name in parts)


# -- an absent sensor


@pytest.fixture(scope="module")
def trained(store) -> CrossModalPretraining:
    """A fusion trained on half of the scene, over encoders as they are, two sensors a step."""
    batch = read_chips(store, [(4, 4), (4, 12), (12, 4), (12, 12), (24, 4), (24, 12)], 8, ["als", "ortho", "s2"])
    module = model(["als", "ortho", "s2"])
    optimizer = torch.optim.Adam([*module.fusion.parameters(), *module.prediction.parameters()], lr=5e-3)
    with torch.no_grad():
        views = module.views(batch)
        for name in batch.sensors:
            views.embedding(name)
    pairs = [("als", "s2"), ("als", "ortho"), ("ortho", "s2")]
    for step in range(450):
        weights = dict.fromkeys(pairs[step % 3], 1.0)
        loss, _ = module.prediction(module.fusion, views, weights, stream(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


@pytest.fixture(scope="module")
def elsewhere(store):
    return read_chips(store, [(4, 30), (16, 30), (28, 30)], 8, ["als", "ortho", "s2"])


def explained(found: torch.Tensor, truth: torch.Tensor) -> float:
    return 1 - float((found - truth).square().sum() / (truth - truth.mean(dim=0)).square().sum())


def test_heights_that_lidar_would_have_measured_are_told_from_images_elsewhere(trained, elsewhere):
    without = read_chips_without(elsewhere, "als")
    found = predict_absent(trained, without, "als")
    assert found.observed.all()
    assert found.features.shape == (elsewhere.columns, NARROW["als"]["width"])
    # The scene's canopy, from the function that made it: the mean height of the predicted profile follows it.
    tops = torch.cat([torch.as_tensor(canopy())[row : row + 8, 30:38].flatten() for row in (4, 16, 28)]).float()
    bins = torch.arange(found.signal.shape[1]) - 0.5
    share = found.signal.clamp(min=0).square()
    height = (share * bins).sum(dim=1) / share.sum(dim=1)
    assert float(torch.corrcoef(torch.stack((height, tops)))[0, 1]) > 0.7


def test_features_of_the_absent_sensor_are_nearer_to_its_own_than_their_mean(trained, elsewhere):
    found = predict_absent(trained, elsewhere, "als").features
    with torch.no_grad():
        truth = trained.encode(elsewhere, "als").features
    assert explained(found, truth) > 0.1


def test_bands_of_the_absent_sensor_are_told_for_the_dates_that_are_asked_for(trained, elsewhere):
    raster = elsewhere.rasters["s2"]
    days = raster.days[0].tolist()
    found = predict_absent(trained, elsewhere, "s2", given=["als"], bands=raster.bands, days=days)
    truth = all_of(elsewhere, "s2")
    assert found.signal.shape == truth.target.shape
    assert explained(found.signal[truth.known], truth.target[truth.known]) > 0.2
    one = predict_absent(trained, elsewhere, "s2", given=["als"], bands=raster.bands[1:2], days=days[2:3]).signal
    torch.testing.assert_close(one, found.signal[:, 2:3, 1:2])


def test_what_the_absent_sensor_did_see_is_not_looked_at(trained, elsewhere):
    found = predict_absent(trained, elsewhere, "als")
    without = predict_absent(trained, read_chips_without(elsewhere, "als"), "als")
    assert torch.equal(found.features, without.features)
    assert torch.equal(found.signal, without.signal)
    assert predict_absent(trained, elsewhere, "s2").signal is None


def test_columns_that_none_of_the_others_saw_are_zero(trained, store):
    corner = read_chips(store, [(0, 0)], 8, ["als", "s2"])
    found = predict_absent(trained, corner, "s2", given=["als"], bands=(Band("R", 660.0),))
    assert not found.observed[0]
    assert found.observed[-1]
    assert not found.features[~found.observed].any()
    assert not found.signal[0, 0, 0][~found.observed.view(8, 8)].any()


def test_what_cannot_be_predicted_is_refused_in_words(trained, elsewhere, batch):
    with pytest.raises(ConfigError, match="no trained fusion"):
        predict_absent(model(prediction=0.0), batch, "als")
    with pytest.raises(ConfigError, match="knows no sensor 'hsi'; it has als"):
        predict_absent(trained, elsewhere, "hsi")
    with pytest.raises(ConfigError, match="must hold gedi"):
        predict_absent(trained, elsewhere, "als", given=["gedi"])
    with pytest.raises(ConfigError, match="must hold another"):
        predict_absent(trained, elsewhere.__class__(elsewhere.origin, 8, 10.0, 0.5), "als")


def read_chips_without(batch, sensor):
    return batch.__class__(
        batch.origin,
        batch.size,
        batch.column,
        batch.voxel,
        als=None if sensor == "als" else batch.als,
        rasters={name: raster for name, raster in batch.rasters.items() if name != sensor},
    )


# -- checkpoints


def test_a_step_of_drawn_pairs_trains_it_with_the_weights_of_the_sensors(batch):
    module = model(retention=0.0)
    drawn = [DrawnPair(("als", "s2"), 6.0, (2.0, 2.0))]
    loss, parts = module.loss(batch, drawn, (0, 0))
    expected = 6 * parts["contrast_als-s2"] + 2 * sum(value for name, value in parts.items() if name.startswith("prediction"))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_checkpoint_gives_back_the_fusion_that_was_trained(store, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "c.ckpt", store.path, ["als", "s2"])
    data = torch.load(checkpoint, weights_only=True)
    trained = {name: value for name, value in data["state_dict"].items() if name.startswith(("fusion.", "prediction."))}
    assert any(name.startswith("fusion.") for name in trained)
    for value in trained.values():
        value += 1
    torch.save(data, checkpoint)
    found = load_pretraining(checkpoint, "cpu").state_dict()
    assert all(torch.equal(found[name], value) for name, value in trained.items())


def test_a_checkpoint_from_before_there_was_a_fusion_is_used_and_goes_on_without(store, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "c.ckpt", store.path, ["als", "s2"])
    data = torch.load(checkpoint, weights_only=True)
    data["state_dict"] = {n: v for n, v in data["state_dict"].items() if not n.startswith(("fusion.", "prediction."))}
    data["hyper_parameters"] = {n: v for n, v in data["hyper_parameters"].items() if not n.startswith("prediction")}
    torch.save(data, checkpoint)
    module = load_pretraining(checkpoint, "cpu")
    assert module.fusion is None
    assert module.prediction is None
    assert module.hparams["prediction"] == 0.0
