from __future__ import annotations

import pytest
import torch

from fusion3d.data.chips import read_chips
from fusion3d.data.pairs import DrawnPair
from fusion3d.pretraining.further_terms import FurtherTerms
from fusion3d.pretraining.objective import LocationContrast
from tests.data.scene import open_scene
from tests.pretraining.gradients import gradients


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    store = open_scene(tmp_path_factory.mktemp("further") / "scene.zarr")
    return read_chips(store, [(6, 8), (8, 26)], 8)


def test_nothing_is_encoded_or_added_by_default():
    # Views of None fail at the first question.
    assert (
        list(
            FurtherTerms()(
                LocationContrast(), None, [DrawnPair(("als", "s2"), 1.0, (1.0, 1.0))], {"als": 1.0, "s2": 1.0}, (0,), 0
            )
        )
        == []
    )


@pytest.mark.parametrize("option", ["date_positives", "chip_contrast"])
def test_gradients_without_an_option_are_those_of_the_loss_less_its_terms(batch, option):
    plain, on = gradients(batch), gradients(batch, **{option: 1e-12})
    assert set(plain[1]) < set(on[1])
    for name, gradient in plain[2].items():
        torch.testing.assert_close(on[2][name], gradient, rtol=1e-6, atol=1e-9)
