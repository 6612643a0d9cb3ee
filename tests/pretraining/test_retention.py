from __future__ import annotations

import pytest
import torch

from fusion3d.data.observation import Band, RasterObservation
from fusion3d.pretraining.hiding import PROFILE_BINS, HiddenPixels, HiddenProfile
from fusion3d.pretraining.retention import (
    PixelDecoder,
    band_features,
    date_features,
    make_decoder,
    random_projection,
    retention_error,
)

BANDS = (Band("R", 660.0, 30.0), Band("VV", polarisation="VV"), Band("height"))


def raster(channels: int = 3, dates: int = 2, chips: int = 2, size: int = 4) -> RasterObservation:
    bands = tuple(Band(str(i), 400.0 + 5 * i, 10.0) for i in range(channels)) if channels != 3 else BANDS
    shape = (chips, dates, channels, size, size)
    days = torch.tensor([[18_000.0] + [float("nan")] * (dates - 1)] * chips)
    return RasterObservation(
        torch.randn(shape),
        torch.ones(shape, dtype=torch.bool),
        days,
        torch.ones(chips, dates, dtype=torch.bool),
        bands,
        10.0,
        1,
        1,
        torch.zeros(chips, 2, dtype=torch.int64),
    )


def retention_loss(*arguments) -> torch.Tensor:
    total, count = retention_error(*arguments)
    return total / count


class Constant(torch.nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, embedding, *rest):
        return self.value


def test_profile_loss_is_huber_on_the_known_and_present_sites():
    target = torch.zeros(3, PROFILE_BINS)
    answer = torch.full((1, PROFILE_BINS), 3.0)
    loss = retention_loss(
        Constant(answer),
        torch.zeros(3, 8),
        torch.tensor([True, True, False]),
        HiddenProfile(target, torch.tensor([False, True, True])),
    )
    assert loss.item() == pytest.approx(3.0 - 0.5)


def test_pixel_loss_ignores_what_was_not_hidden_or_has_no_embedding():
    observed = raster()
    known = torch.zeros(2, 2, 3, 4, 4, dtype=torch.bool)
    known[0, 1, 2, 3, 3] = known[1, 0, 0, 0, 0] = True
    answer = torch.full(known.shape, 100.0)
    answer[0, 1, 2, 3, 3] = 0.5
    present = torch.ones(32, dtype=torch.bool)
    present[16] = False
    loss = retention_loss(Constant(answer), torch.zeros(32, 8), present, HiddenPixels(torch.zeros(known.shape), known), observed)
    assert loss.item() == pytest.approx(0.5**2 / 2)


def test_nothing_known_is_no_term():
    hidden = HiddenProfile(torch.zeros(3, PROFILE_BINS), torch.zeros(3, dtype=torch.bool))
    total, count = retention_error(make_decoder("als", 8), torch.zeros(3, 8), torch.ones(3, dtype=torch.bool), hidden)
    assert (total.item(), count.item()) == (0.0, 0)


def test_one_decoder_answers_for_any_number_of_bands_and_dates():
    decoder = PixelDecoder(8)
    for channels, dates in ((3, 2), (1, 1), (426, 1)):
        assert decoder(torch.randn(2, 4, 4, 8), raster(channels, dates)).shape == (2, dates, channels, 4, 4)


def test_answer_for_a_band_does_not_depend_on_the_other_bands():
    torch.manual_seed(0)
    decoder, embedding, all_bands = PixelDecoder(8), torch.randn(2, 4, 4, 8), raster(5)
    one = RasterObservation(
        all_bands.values[:, :, 3:4],
        all_bands.valid[:, :, 3:4],
        all_bands.days,
        all_bands.date_present,
        all_bands.bands[3:4],
        10.0,
        1,
        1,
        all_bands.pixel_origin,
    )
    assert torch.allclose(decoder(embedding, all_bands)[:, :, 3:4], decoder(embedding, one), atol=1e-6)


def test_bands_and_dates_are_told_apart():
    features = band_features(BANDS)
    assert features.isfinite().all()
    assert len({tuple(row) for row in features.tolist()}) == 3
    assert date_features(torch.tensor([[float("nan")]])).tolist() == [[[0.0, 0.0, 0.0]]]


@pytest.mark.parametrize("target", ["identity", "projection"])
def test_gradient_reaches_every_parameter_of_the_decoders(target):
    torch.manual_seed(0)
    for sensor in ("als", "s2"):
        decoder = make_decoder(sensor, 8)
        observed = raster()
        hidden = (
            HiddenProfile(torch.rand(32, PROFILE_BINS), torch.ones(32, dtype=torch.bool))
            if sensor == "als"
            else HiddenPixels(torch.randn(2, 2, 3, 4, 4), torch.ones(2, 2, 3, 4, 4, dtype=torch.bool))
        )
        loss = retention_loss(decoder, torch.randn(32, 8), torch.ones(32, dtype=torch.bool), hidden, observed, target, sensor)
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())


def test_projection_is_frozen_and_keeps_lengths_on_average():
    assert torch.equal(random_projection("als", 65), random_projection("als", 65))
    assert not torch.equal(random_projection("als", 65), random_projection("s2", 65))
    vectors = torch.randn(2000, 65, generator=torch.Generator().manual_seed(0))
    ratio = (vectors @ random_projection("als", 65)).square().sum() / vectors.square().sum()
    assert ratio.item() == pytest.approx(1.0, abs=0.15)


def test_decoder_can_learn_a_profile():
    torch.manual_seed(0)
    embedding, truth = torch.randn(64, 8), torch.rand(64, PROFILE_BINS)
    decoder, hidden = make_decoder("als", 8), HiddenProfile(truth, torch.ones(64, dtype=torch.bool))
    optimiser = torch.optim.Adam(decoder.parameters(), 1e-2)
    losses = []
    for _ in range(200):
        loss = retention_loss(decoder, embedding, torch.ones(64, dtype=torch.bool), hidden)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5
