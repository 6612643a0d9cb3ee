from __future__ import annotations

import gc
import weakref

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import DrawnPair, draw_pairs, stream
from fusion3d.pretraining.module import CrossModalPretraining
from fusion3d.pretraining.objective import meeting_pairs
from tests.data.scene import open_scene

SENSORS = ["als", "gedi", "ortho", "s2"]


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    store = open_scene(tmp_path_factory.mktemp("views") / "scene.zarr")
    return read_chips(store, [(6, 8), (8, 26), (16, 4)], 8)


def built(chips_at_once=None) -> CrossModalPretraining:
    module = CrossModalPretraining(scene={"sensors": SENSORS}, chips_at_once=chips_at_once).double()
    module.configure_model()
    return module.double()


def gradients(module, batch):
    drawn = draw_pairs(meeting_pairs(batch), 6, stream(0))
    loss, _ = module.loss(batch, drawn, (0, 0))
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("chips_at_once", [1, 2])
def test_gradients_in_pieces_are_those_of_the_whole_batch(batch, chips_at_once):
    whole, expected = gradients(built(), batch)
    pieces, found = gradients(built(chips_at_once), batch)
    assert pieces == pytest.approx(whole, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("sensor", SENSORS)
def test_a_part_of_a_batch_is_read_as_if_it_were_a_batch(batch, sensor):
    encoder = built().encoders[sensor]
    with torch.no_grad():
        whole = encoder(batch, sensor)
        parts = [encoder(batch.part(start, start + 1), sensor) for start in range(batch.chips)]
    torch.testing.assert_close(torch.cat([part.shared for part in parts]), whole.shared, rtol=1e-6, atol=1e-9)
    assert torch.equal(torch.cat([part.present for part in parts]), whole.present)


def test_no_encoder_keeps_what_its_backward_pass_needs(batch):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        built(1).views(batch).unit("ortho")
    assert max(kept, default=0) <= batch.columns * 64


@pytest.mark.parametrize("chips_at_once", [None, 1])
def test_a_batch_is_let_go_after_its_step(batch, chips_at_once):
    """The drawn pair leaves parts of the encoders' graphs without a gradient, which must not keep the pixels that they saw."""
    module = built(chips_at_once)
    own = batch.part(0, 2)
    kept = weakref.ref(own)
    loss, _ = module.loss(own, [DrawnPair(("ortho", "s2"), 1.0, (0.5, 0.5))], (0, 0))
    loss.backward()
    del own, loss
    gc.collect()
    assert kept() is None
