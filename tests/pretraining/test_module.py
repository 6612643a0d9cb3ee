from __future__ import annotations

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import draw_pairs, stream
from fusion3d.errors import ConfigError
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import meeting_pairs
from tests.data.scene import open_scene

SENSORS = ["als", "gedi", "ortho", "s2"]
SCENE = {"sensors": SENSORS}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_scene(tmp_path_factory.mktemp("module") / "scene.zarr")


def model(**options) -> CrossModalPretraining:
    built = CrossModalPretraining(scene=SCENE, **options)
    built.configure_model()
    return built


def total(module, batch, count, step=0):
    return module.loss(batch, draw_pairs(meeting_pairs(batch), count, stream(step)), (0, step))


@pytest.mark.parametrize("target", ["identity", "projection"])
def test_gradient_reaches_every_parameter_when_all_pairs_are_drawn(store, target):
    module = model(retention_target=target)
    loss, parts = total(module, read_chips(store, [(6, 8), (8, 26), (16, 4), (20, 28)], 8), 6)
    loss.backward()
    missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert not missing
    assert set(parts) == {
        *(f"contrast_{a}-{b}" for i, a in enumerate(SENSORS) for b in SENSORS[i + 1 :]),
        *(f"retention_{s}" for s in SENSORS),
        *(f"prediction_{s}" for s in (*SENSORS, "variance")),
        *(f"prediction_absent_{s}" for s in SENSORS),
    }


@pytest.mark.parametrize("preset", ["small", "base"])
def test_larger_presets_train_a_step(store, preset):
    module = model(preset=preset)
    loss, _ = total(module, read_chips(store, [(6, 8), (8, 26)], 8), 6)
    loss.backward()
    assert loss.isfinite()
    # A sensor that no chip leaves out is not predicted, so of the prediction's decoders some may wait for another step.
    trained = [*module.encoders.parameters(), *module.decoders.parameters()]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)


def test_loss_of_sampled_pairs_averages_to_the_loss_of_all(store):
    # Prediction asks the sensors of a step about one another: it is no sum over pairs.
    module = model(prediction=0.0).eval()
    batch = read_chips(store, [(6, 8), (8, 26)], 8, ["als", "ortho", "s2"])
    pairs = meeting_pairs(batch)
    key = (0, 0)
    with torch.no_grad():
        exact, _ = module.loss(batch, draw_pairs(pairs, 3, stream(0)), key)
        # One draw of each pair, each with chance 1/3: the expectation, enumerated.
        single = {}
        for step in range(60):
            drawn = draw_pairs(pairs, 1, stream(step))
            single.setdefault(drawn[0].pair, drawn)
        estimates = [module.loss(batch, drawn, key)[0] for drawn in single.values()]
    assert set(single) == set(pairs)
    assert torch.stack(estimates).mean().item() == pytest.approx(exact.item(), rel=1e-4)


def test_only_encoders_of_drawn_pairs_run(store):
    module = model()
    loss, _ = total(module, read_chips(store, [(6, 8), (8, 26)], 8), 1)
    loss.backward()
    ran = {name for name, encoder in module.encoders.items() if any(p.grad is not None for p in encoder.parameters())}
    assert len(ran) == 2


def test_batch_without_some_sensors_is_contrasted_on_the_others(store):
    module = model()
    batch = read_chips(store, [(6, 8)], 8, ["als", "s2"])
    _, parts = total(module, batch, 6)
    assert {name for name in parts if not name.startswith("prediction")} == {"contrast_als-s2", "retention_als", "retention_s2"}
    assert not any(name.endswith(("gedi", "ortho")) for name in parts)


def test_batch_in_which_nothing_meets_is_a_step_of_loss_zero(store):
    module = model()
    loss, parts = total(module, read_chips(store, [(0, 0)], 4, ["als", "s2"]), 1)
    loss.backward()
    assert loss.item() == 0.0
    assert parts == {}


def test_loss_depends_on_the_key_alone(store):
    module, batch = model(), read_chips(store, [(6, 8), (8, 26)], 8)
    drawn = draw_pairs(meeting_pairs(batch), 2, stream(1))
    values = [module.eval().loss(batch, drawn, key)[0].item() for key in ((0, 1), (0, 1), (0, 2))]
    assert values[0] == values[1] != values[2]


def test_retention_can_be_switched_off(store):
    module = model(retention=0.0)
    _, parts = total(module, read_chips(store, [(6, 8)], 8), 6)
    assert not any(name.startswith("retention") for name in parts)
    assert len(module.decoders) == 0


@pytest.mark.parametrize("sensors", [["als", "s2"], SENSORS])
def test_retention_pulls_about_as_hard_as_the_contrast_however_many_sensors_there_are(store, sensors):
    batch = read_chips(store, [(6, 8), (8, 26), (16, 4), (20, 28)], 8, sensors)

    def gradients(retention: float) -> dict[str, torch.Tensor]:
        module = CrossModalPretraining(scene={"sensors": sensors}, retention=retention, prediction=0.0)
        module.configure_model()
        total(module, batch, len(sensors) ** 2)[0].backward()
        return {
            name: torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in encoder.parameters()])
            for name, encoder in module.encoders.items()
        }

    contrast, both = gradients(0.0), gradients(1.0)
    for sensor in sensors:
        assert 0.1 < (both[sensor] - contrast[sensor]).norm() / contrast[sensor].norm() < 10, sensor


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = model(seed=3).state_dict()
    torch.manual_seed(2)
    again, other = model(seed=3).state_dict(), model(seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_model_without_sensors_says_what_to_do():
    with pytest.raises(ConfigError, match="ChipDataModule"):
        CrossModalPretraining().configure_model()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pairs": 0}, "pairs 0"),
        ({"retention": -1.0}, "retention"),
        ({"prediction": float("nan")}, "--model.prediction nan"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"encoder_options": {"hsi": {"width": 8}}}, "encoder_options names hsi"),
        ({"pair_weights": {"als-hsi": 2.0}}, "pair_weights names als-hsi"),
    ],
)
def test_impossible_options_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        model(**options)
