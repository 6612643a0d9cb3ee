from __future__ import annotations

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import stream
from fusion3d.pretraining.baselines.jepa import decay_at, kept_sensors
from fusion3d.pretraining.baselines.masking import drawn_columns, without_columns
from fusion3d.pretraining.baselines.predictor import column_waves
from fusion3d.pretraining.callbacks import last_checkpoint
from fusion3d.pretraining.command import main
from fusion3d.pretraining.module import CrossModalPretraining
from tests.data.scene import open_scene, write_scene

SENSORS = ["als", "ortho", "s2"]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    return read_chips(open_scene(tmp_path_factory.mktemp("jepa") / "scene.zarr"), [(6, 8), (8, 26)], 8, SENSORS)


def model(**options) -> CrossModalPretraining:
    built = CrossModalPretraining(alignment="jepa", alignment_options=options, scene={"sensors": SENSORS})
    built.configure_model()
    return built


def test_teacher_begins_as_the_student_and_is_never_trained():
    module = model()
    for name, value in module.alignment.teacher.state_dict().items():
        assert torch.equal(value, module.encoders.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in module.alignment.teacher.parameters())
    module.train()
    assert not any(part.training for part in module.alignment.teacher.modules())


def test_teacher_is_the_moving_average_of_the_student():
    module = model(decay=0.9)
    name, first = next((n, p.detach().clone()) for n, p in module.encoders.named_parameters())
    followed = first.clone()
    for step, decay in ((1, 0.925), (2, 0.95), (3, 0.975), (4, 1.0)):
        with torch.no_grad():
            for parameter in module.encoders.parameters():
                parameter.add_(1.0)
        module.alignment.after_step(module.encoders, step, 4)
        followed = decay * followed + (1 - decay) * (first + step)
        torch.testing.assert_close(module.alignment.teacher.state_dict()[name], followed, rtol=1e-5, atol=1e-6)


def test_decay_rises_linearly_to_one():
    assert [decay_at(0.996, step, 100) for step in (0, 50, 100, 150)] == pytest.approx([0.996, 0.998, 1.0, 1.0])


def test_prediction_loss_is_the_squared_distance_at_hidden_columns_that_the_teacher_saw(batch):
    module = model(dropped=0.0)
    hidden = drawn_columns(batch, 0.5, stream(1))
    views = module.views(batch)
    student = views.of(without_columns(batch, hidden))
    guess = torch.randn(batch.columns, 64, generator=torch.Generator().manual_seed(0))
    module.alignment.predictor.forward = lambda columns, known, size: guess.reshape(2, 64, 64)
    with torch.no_grad():
        found = module.alignment.prediction_loss(views, student, hidden, stream(2))
        units = [views.unit(name) for name in SENSORS]
    distances = []
    for column in hidden.nonzero()[:, 0].tolist():
        told = [unit.vectors[column] for unit in units if unit.present[column]]
        if told:
            mean = sum(told) / len(told)
            distances.append(float(((mean / mean.norm() - guess[column]) ** 2).sum()))
    assert found.item() == pytest.approx(sum(distances) / len(distances), rel=1e-5)


def test_predictor_reads_nothing_of_the_hidden_columns(batch):
    module = model(dropped=0.0).eval()
    hidden = drawn_columns(batch, 0.5, stream(1))
    shown = without_columns(batch, hidden)
    with torch.no_grad():
        other = torch.where(hidden.reshape(2, 1, 1, 8, 8), 9.0, batch.rasters["s2"].values)
        changed = type(batch.rasters["s2"])(**{**batch.rasters["s2"].__dict__, "values": other})
        again = without_columns(type(batch)(**{**batch.__dict__, "rasters": {**batch.rasters, "s2": changed}}), hidden)
        first, second = (module.views(item).unit("s2") for item in (shown, again))
    assert torch.equal(first.vectors, second.vectors)


def test_gradient_reaches_predictor_and_student_but_not_the_teacher(batch):
    module = model()
    module.alignment(module.views(batch), [], (0, 0)).loss.backward()
    assert all(parameter.grad is not None for parameter in module.alignment.predictor.parameters())
    assert all(parameter.grad is None for parameter in module.alignment.teacher.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in module.encoders["als"].parameters())


def test_predictor_reads_one_sensor_of_every_chip_at_least(batch):
    kept = kept_sensors(batch, SENSORS, 0.95, stream(4))
    assert torch.stack(list(kept.values())).any(dim=0).all()
    none_dropped = kept_sensors(batch, SENSORS, 0.0, stream(4))
    assert torch.stack(list(none_dropped.values())).all()


def test_every_place_in_a_chip_has_its_own_waves():
    waves = column_waves(8, 64)
    assert torch.cdist(waves, waves).fill_diagonal_(9.0).min() > 0.1


def test_resumed_run_equals_an_unbroken_one(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    scene = write_scene(tmp_path / "scene.zarr", sensors=("ortho", "s2"))
    options = {"model.alignment": "jepa", "model.alignment_options": "{decay: 0.5, depth: 1}", "data.store": scene}
    options |= {"data.size": 8, "data.batch_size": 2, "data.max_dates": 2, "data.val_chips": 0, "trainer.max_steps": 4}
    options |= {"trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false", "checkpoint_every": 2}
    options |= {"trainer.accumulate_grad_batches": 2}

    def arguments(run, *more):
        return [text for name, value in (options | {"out": run}).items() for text in (f"--{name}", str(value))] + list(more)

    assert main(arguments(tmp_path / "whole")) == 0
    step = CrossModalPretraining.training_step

    def dies_in_step_3(self, batch, batch_idx):
        if self.global_step == 3:
            raise Killed
        return step(self, batch, batch_idx)

    monkeypatch.setattr(CrossModalPretraining, "training_step", dies_in_step_3)
    with pytest.raises(Killed):
        main(arguments(tmp_path / "broken"))
    monkeypatch.undo()
    assert main(arguments(tmp_path / "broken", "--resume")) == 0
    first, second = (torch.load(last_checkpoint(tmp_path / run), weights_only=True)["state_dict"] for run in ("whole", "broken"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    moved = [name for name in first if ".teacher." in name and first[name].is_floating_point()]
    assert any(not torch.equal(first[name], first[name.replace("alignment.teacher", "encoders")]) for name in moved)
