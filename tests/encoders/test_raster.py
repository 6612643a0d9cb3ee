from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fusion3d.data.chips import collate
from fusion3d.data.observation import ChipBatch, RasterObservation
from fusion3d.encoders import RasterEncoder, build
from fusion3d.encoders.raster import MaskedConvolution
from fusion3d.errors import ConfigError
from fusion3d.io.bands import BLUE, GREEN, NIR, RED, SENTINEL1, Band
from tests.encoders.batches import COLUMN, RASTERS, VOXEL, Image, chips, image, with_raster

HYPERSPECTRAL = tuple(Band(f"b{index}", 381.0 + 5 * index, 6.0) for index in range(426))
NAN = float("nan")
DAYS = tuple(18_000.0 + 6 * number for number in range(60))


@pytest.fixture(scope="module")
def encoder() -> RasterEncoder:
    torch.manual_seed(0)
    return build("raster", "tiny").eval()


def cut(picture: Image, origin: tuple[int, int], size: int) -> ChipBatch:
    corner = torch.tensor([origin])
    return ChipBatch(corner, size, COLUMN, VOXEL, rasters={"x": picture.cut(corner, size)})


def features(encoder: RasterEncoder, batch: ChipBatch, sensor: str = "x", cell: float | None = None) -> torch.Tensor:
    with torch.no_grad():
        return encoder(batch, sensor, cell).features


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def padded(raster: RasterObservation, dates: int) -> RasterObservation:
    """The raster with dates appended that are not there but hold garbage that calls itself valid."""
    chips, _, *rest = raster.values.shape
    return replace(
        raster,
        values=torch.cat((raster.values, torch.full((chips, dates, *rest), 1e6)), dim=1),
        valid=torch.cat((raster.valid, torch.ones(chips, dates, *rest, dtype=torch.bool)), dim=1),
        days=torch.cat((raster.days, torch.full((chips, dates), 18_500.0)), dim=1),
        date_present=torch.cat((raster.date_present, torch.zeros(chips, dates, dtype=torch.bool)), dim=1),
    )


@pytest.mark.parametrize("sensor", RASTERS)
@pytest.mark.parametrize("dates", [1, 10, 40])
def test_padding_dates_change_nothing(encoder, sensor, dates):
    batch = chips()
    longer = replace(batch, rasters={sensor: padded(batch.rasters[sensor], dates)})
    assert relative(features(encoder, longer, sensor), features(encoder, batch, sensor)) < 1e-6


@pytest.mark.parametrize("others", [1, 10, 40])
def test_dates_of_other_chips_of_the_batch_change_nothing(encoder, others):
    """A chip of two dates beside one of many more, as collation pads it."""
    pictures = [image(6, 6, (RED, NIR), days, seed=seed) for seed, days in enumerate(((18_000.0, 18_100.0), DAYS[:others]))]
    batches = [cut(picture, (0, 0), 6) for picture in pictures]
    together = features(encoder, collate(batches)).view(2, 36, -1)
    for found, batch in zip(together, batches, strict=True):
        assert relative(found, features(encoder, batch)) < 1e-6


@pytest.mark.parametrize("dates", [1, 2, 7, 60])
def test_any_number_of_dates_is_read_by_the_same_weights_in_any_order(encoder, dates):
    picture = image(4, 4, (RED, NIR), DAYS[:dates])
    order = torch.randperm(dates, generator=torch.Generator().manual_seed(1))
    turned = replace(picture, values=picture.values[order], valid=picture.valid[order], days=picture.days[order])
    expected = features(encoder, cut(picture, (0, 0), 4))
    assert expected.isfinite().all()
    assert relative(features(encoder, cut(turned, (0, 0), 4)), expected) < 1e-6


def test_dates_are_told_apart_by_their_days_and_not_by_their_place(encoder):
    picture = image(4, 4, (RED, NIR), (18_000.0, 18_180.0))
    exchanged = replace(picture, days=picture.days.flip(0))
    assert relative(features(encoder, cut(exchanged, (0, 0), 4)), features(encoder, cut(picture, (0, 0), 4))) > 1e-3


@pytest.mark.parametrize("sensor", RASTERS)
@pytest.mark.parametrize("garbage", [1e4, -1e30, NAN, float("inf")])
def test_values_under_clouds_change_nothing(encoder, sensor, garbage):
    batch = chips()
    raster = batch.rasters[sensor]
    assert not raster.valid.all()
    spoiled = with_raster(batch, sensor, values=torch.where(raster.valid, raster.values, garbage))
    assert torch.equal(features(encoder, spoiled, sensor), features(encoder, batch, sensor))


@pytest.mark.parametrize("sensor", ["s1", "s2"])
def test_date_that_saw_nothing_is_as_if_it_were_not_there(encoder, sensor):
    batch = chips()
    raster = batch.rasters[sensor]
    clouded, absent = raster.valid.clone(), raster.date_present.clone()
    clouded[:, 0], absent[:, 0] = False, False
    expected = features(encoder, with_raster(batch, sensor, date_present=absent), sensor)
    assert relative(features(encoder, with_raster(batch, sensor, valid=clouded), sensor), expected) < 1e-6
    assert relative(features(encoder, batch, sensor), expected) > 1e-3


@pytest.mark.parametrize("fine", [1, 4])
@pytest.mark.parametrize("bands", [1, 2, 3, 13, 426])
def test_any_number_of_bands_is_read_by_the_same_weights_in_any_order(encoder, bands, fine):
    picture = image(4, 4, HYPERSPECTRAL[:bands], (18_000.0,), fine=fine)
    order = torch.randperm(bands, generator=torch.Generator().manual_seed(1))
    turned = replace(
        picture,
        values=picture.values[:, order],
        valid=picture.valid[:, order],
        bands=tuple(picture.bands[index] for index in order.tolist()),
    )
    expected = features(encoder, cut(picture, (0, 0), 4))
    assert expected.isfinite().all()
    assert float((features(encoder, cut(turned, (0, 0), 4)) - expected).abs().max()) < 1e-4


def test_wavelengths_matter(encoder):
    picture = image(4, 4, (RED, GREEN, BLUE), (18_000.0,))
    swapped = replace(picture, bands=(BLUE, GREEN, RED))
    assert relative(features(encoder, cut(swapped, (0, 0), 4)), features(encoder, cut(picture, (0, 0), 4))) > 1e-2


def test_band_width_matters(encoder):
    narrow, wide = (
        features(encoder, cut(image(4, 4, (Band("R", 665.0, width), NIR), (18_000.0,)), (0, 0), 4)) for width in (6.0, 120.0)
    )
    assert relative(wide, narrow) > 1e-3


@pytest.mark.parametrize("fine", [1, 4])
def test_pixel_size_matters(encoder, fine):
    batch = cut(image(4, 4, (RED, NIR), (18_000.0,), fine=fine), (0, 0), 4)
    coarser = with_raster(batch, "x", pixel=10 * batch.rasters["x"].pixel)
    assert relative(features(encoder, coarser), features(encoder, batch)) > 1e-3


def test_polarisations_are_told_apart_and_may_come_in_any_order(encoder):
    picture = image(4, 4, SENTINEL1, (18_000.0,))
    expected = features(encoder, cut(picture, (0, 0), 4))
    swapped = replace(picture, bands=SENTINEL1[::-1])
    turned = replace(swapped, values=picture.values.flip(1), valid=picture.valid.flip(1))
    assert relative(features(encoder, cut(swapped, (0, 0), 4)), expected) > 1e-2
    assert float((features(encoder, cut(turned, (0, 0), 4)) - expected).abs().max()) < 1e-5


def test_bands_without_wavelength_or_polarisation_are_told_apart(encoder):
    picture = image(4, 4, (Band("slope"), Band("aspect")), (NAN,))
    turned = replace(picture, values=picture.values.flip(1), valid=picture.valid.flip(1))
    assert relative(features(encoder, cut(turned, (0, 0), 4)), features(encoder, cut(picture, (0, 0), 4))) > 1e-2


def test_season_matters_and_no_date_is_a_case_of_its_own(encoder):
    found = [
        features(encoder, cut(image(4, 4, (RED, NIR), (day,)), (0, 0), 4))
        for day in (18_000.0, 18_180.0, 18_000.0 + 365.2425, NAN)
    ]
    winter, summer, next_winter, undated = found
    assert all(one.isfinite().all() for one in found)
    assert relative(summer, winter) > 1e-3
    assert relative(undated, winter) > 1e-3
    assert relative(next_winter, winter) < relative(summer, winter)


@pytest.mark.parametrize(("cell", "rows"), [(None, 6), (4.0, 12), (16.0, 3)])
@pytest.mark.parametrize(("fine", "coarse"), [(1, 0), (4, 0), (0, 2)])
def test_bright_corner_in_the_north_east_is_in_the_first_row_and_last_column(encoder, cell, rows, fine, coarse):
    picture = image(6, 6, (RED,), (NAN,), fine=fine, coarse=coarse)
    dark = replace(picture, values=torch.zeros_like(picture.values), valid=torch.ones_like(picture.valid))
    bright = replace(dark, values=dark.values.clone())
    side = {1: 1, 4: 2, 0: 1}[fine]
    bright.values[..., :side, -side:] = 5.0
    change = (features(encoder, cut(bright, (0, 0), 6), cell=cell) - features(encoder, cut(dark, (0, 0), 6), cell=cell)).norm(
        dim=1
    )
    north_west, north_east, south_west, south_east = change.view(rows, rows)[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()
    assert north_east > 1.5 * max(north_west, south_west, south_east)


@pytest.mark.parametrize("cell", [None, 4.0, 16.0])
@pytest.mark.parametrize(
    ("fine", "coarse", "start"), [(1, 0, 0), (2, 0, 0), (3, 0, 0), (8, 0, 0), (16, 0, 0), (0, 2, -1), (0, 5, 0), (0, 5, -3)]
)
def test_tiles_with_halo_have_the_values_of_the_whole(encoder, fine, coarse, start, cell):
    picture = image(22, 22, (RED, NIR), (18_000.0, NAN), fine=fine, coarse=coarse, start=start)
    split, merge = (2, 1) if cell == 4.0 else (1, 2) if cell == 16.0 else (1, 1)
    halo = encoder.receptive_field(COLUMN, cell=cell)
    side = 2 * halo + 2 * merge
    whole = features(encoder, cut(picture, (0, 0), 22), cell=cell).view(22 * split // merge, 22 * split // merge, -1)
    for row, col in ((1, 3), (5, 2)) if merge == 1 else ((2, 6),):
        tile = features(encoder, cut(picture, (row, col), side), cell=cell).view(side * split // merge, side * split // merge, -1)
        edge = halo * split // merge
        inner = slice(edge, tile.shape[0] - edge)
        top, left = row * split // merge, col * split // merge
        expected = whole[top : top + tile.shape[0], left : left + tile.shape[1]][inner, inner]
        assert expected.numel()
        assert float((tile[inner, inner] - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("origin", [(0, 0), (1, 4), (7, 3)])
@pytest.mark.parametrize("start", [0, -2])
def test_column_of_a_coarse_pixel_is_present_where_that_pixel_is_valid(encoder, origin, start):
    picture = image(16, 16, (RED,), (NAN,), fine=0, coarse=5, start=start)
    valid = torch.rand(picture.valid.shape, generator=torch.Generator().manual_seed(2)) > 0.5
    found = encoder(cut(replace(picture, valid=valid), origin, 6), "x").present
    by_hand = [bool(valid[0, 0, (origin[0] + i - start) // 5, (origin[1] + j - start) // 5]) for i in range(6) for j in range(6)]
    assert found.tolist() == by_hand


def test_cell_is_present_where_a_pixel_of_any_band_and_date_is_valid(encoder):
    picture = image(4, 4, (RED, NIR), (18_000.0, NAN), fine=8)
    valid = torch.rand(picture.valid.shape, generator=torch.Generator().manual_seed(3)) > 0.998
    found = encoder(cut(replace(picture, valid=valid), (0, 0), 4), "x")
    by_hand = valid.any(dim=(0, 1)).view(4, 8, 4, 8).any(dim=3).any(dim=1).flatten()
    assert torch.equal(found.present, by_hand)
    assert 0 < int(by_hand.sum()) < 16
    assert found.features.isfinite().all()


@pytest.mark.parametrize("fine", [1, 8])
def test_pieces_give_the_values_and_the_gradient_of_the_whole(encoder, fine, monkeypatch):
    batch = cut(image(4, 4, (RED, NIR), (18_000.0, 18_100.0, NAN), fine=fine), (0, 0), 4)

    def gradient() -> tuple[torch.Tensor, torch.Tensor]:
        encoder.zero_grad()
        found = encoder(batch, "x").features
        (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in encoder.parameters() if parameter.grad is not None])
        encoder.zero_grad()
        return found.detach(), gradients

    whole, whole_gradient = gradient()
    monkeypatch.setattr("fusion3d.encoders.raster._PIECE", 1)
    found, found_gradient = gradient()
    assert relative(found, whole) < 1e-5
    assert relative(found_gradient, whole_gradient) < 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pixels_per_column": 3}, "s2: 4 x 4 pixels do not cover 4 columns of 3 pixels a side"),
        ({"pixels_per_column": 0, "columns_per_pixel": 0}, "s2: neither pixels_per_column nor columns_per_pixel"),
        ({"bands": (RED,)}, "s2: 2 chips of 4 channels given for 2 chips of 1 bands"),
        ({"days": torch.zeros(2, 1)}, r"s2: days and date_present must be \[2, 3\]"),
        ({"valid": torch.ones(2, 3, 4, 4, dtype=torch.bool)}, "s2: values must be"),
        (
            {"pixels_per_column": 0, "columns_per_pixel": 2, "pixel_origin": torch.full((2, 2), 5)},
            "s2: 4 x 4 pixels of 2 columns do not cover",
        ),
    ],
)
def test_raster_that_contradicts_itself_is_refused_with_its_name(encoder, changes, words):
    with pytest.raises(ConfigError, match=words):
        encoder(with_raster(chips(), "s2", **changes), "s2")


def test_masked_convolution_with_equal_taps_does_not_see_where_the_mask_ends():
    convolution = MaskedConvolution(3).double()
    with torch.no_grad():
        weight = convolution.convolution.weight
        weight.copy_(weight.mean(dim=(2, 3), keepdim=True).expand_as(weight))
    flat = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 6, 6)
    seen = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(4)) > 0.4
    found = convolution(flat * seen, seen)
    at_seen = found.movedim(1, -1)[seen.squeeze(1)]
    assert torch.allclose(at_seen, at_seen[:1].expand_as(at_seen))
    assert not found.movedim(1, -1)[~seen.squeeze(1)].any()
