"""Arrays on a target's pixels: hand-worked means, masks, kernels, and independence of how a target is cut."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from fusion3d.io import alignment
from fusion3d.io.alignment import align
from fusion3d.io.raster import ArrayImage, Target

LAMBERT = CRS.from_epsg(2154)
NORTH = 6_860_000.0
NAN = float("nan")


def target(height: int, width: int, *, pixel: float = 1.0, x0: float = 700_000.0, y0: float = NORTH, kind: str = "continuous",
           crs: CRS = LAMBERT) -> Target:  # fmt: skip
    return Target(crs, x0, y0, pixel, height, width, kind)  # type: ignore[arg-type]


def image(values: object, valid: object = None, *, pixel: float = 1.0, x0: float = 700_000.0, y0: float = NORTH) -> ArrayImage:
    array = np.asarray(values, np.float32)
    array = array[None] if array.ndim == 2 else array
    good = np.isfinite(array) if valid is None else np.broadcast_to(np.asarray(valid, bool), array.shape)
    return ArrayImage(array, good, LAMBERT, Affine(pixel, 0, x0, 0, -pixel, y0))


def overlap(cells: int, scale: float, offset: float, sources: int) -> np.ndarray:
    """Share of each of `cells` target cells that each source cell covers, along one axis, by definition."""
    shares = np.zeros((cells, sources))
    for cell in range(cells):
        for source in range(sources):
            low, high = offset + cell * scale, offset + (cell + 1) * scale
            shares[cell, source] = max(0.0, min(high, source + 1) - max(low, source)) / scale
    return shares


class TestAreaMean:
    def test_two_by_two_with_nodata_by_hand(self) -> None:
        source = image([[1, 3, NAN, 8], [5, 7, 4, NAN], [NAN, NAN, NAN, NAN], [NAN, 6, NAN, NAN]])
        patch = align(source, target(2, 2, pixel=2))
        assert patch.values[0, 0].tolist() == [4.0, 6.0]
        assert patch.valid[0].tolist() == [[True, True], [False, False]]
        assert np.isnan(patch.values[0, 1]).all()

    def test_three_pixels_onto_two_by_hand(self) -> None:
        patch = align(image([[0, 3, 9], [0, 3, 9], [0, 3, 9]]), target(2, 2, pixel=1.5))
        assert patch.values[0] == pytest.approx(np.array([[1.0, 7.0], [1.0, 7.0]]))

    @pytest.mark.parametrize(("valid_columns", "expected"), [(5, True), (4, False)])
    def test_exactly_half_is_valid_and_less_is_not(self, valid_columns: int, expected: bool) -> None:
        valid = np.broadcast_to(np.arange(10) < valid_columns, (10, 10))
        patch = align(image(np.ones((10, 10)), valid), target(1, 1, pixel=10))
        assert patch.valid.item() is expected

    def test_area_outside_the_image_counts_as_not_valid(self) -> None:
        patch = align(image(np.full((10, 10), 3)), target(1, 2, pixel=10, x0=700_000 - 15))
        assert patch.valid[0].tolist() == [[False, True]]
        assert patch.values[0, 0, 1] == pytest.approx(3)

    def test_bands_have_their_own_nodata(self) -> None:
        values = np.array([[[1, NAN], [NAN, NAN]], [[1, 2], [3, 6]]], np.float32)
        patch = align(image(values), target(1, 1, pixel=2))
        assert patch.valid.ravel().tolist() == [False, True]
        assert patch.values[1].item() == 3

    @settings(max_examples=30, deadline=None)
    @given(scale=st.floats(1.02, 6), offset=st.floats(0, 5), seed=st.integers(0, 99), north=st.sampled_from([0.0, 6.86e6]))
    def test_mean_is_weighted_by_overlap(self, scale: float, offset: float, seed: int, north: float) -> None:
        rng = np.random.default_rng(seed)
        values, valid = rng.random((24, 24)), rng.random((24, 24)) < 0.7
        source = image(values, valid, pixel=0.2, y0=north)
        cells = 3
        frame = target(cells, cells, pixel=0.2 * scale, x0=700_000 + 0.2 * offset, y0=north - 0.2 * offset)
        patch = align(source, frame)
        shares = overlap(cells, scale, offset, 24)
        cover = np.maximum(shares @ valid @ shares.T, 1e-12)
        plain = np.abs(cover - 0.5) > 1e-4
        assert np.array_equal(patch.valid[0][plain], cover[plain] >= 0.5)
        expected = shares @ (values.astype(np.float32) * valid) @ shares.T / cover
        assert patch.values[0][patch.valid[0]] == pytest.approx(expected[patch.valid[0]], abs=2e-5)

    def test_cutting_the_target_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(3)
        source = image(rng.random((3, 90, 70)).astype(np.float32), rng.random((3, 90, 70)) < 0.8)
        frame = target(18, 14, pixel=5)
        whole = align(source, frame)
        monkeypatch.setattr(alignment, "_PIXELS_AT_ONCE", 400)
        cut = align(source, frame)
        assert np.array_equal(whole.valid, cut.valid)
        assert np.allclose(whole.values, cut.values, equal_nan=True, atol=1e-6)
        blocks = [align(source, target(18, 7, pixel=5, x0=700_000 + 35 * part)).values for part in range(2)]
        assert np.allclose(np.concatenate(blocks, axis=2), whole.values, equal_nan=True, atol=1e-6)


class TestFiner:
    def test_half_pixel_shift_is_the_mean_of_two(self) -> None:
        patch = align(image([[0, 2, 6], [0, 2, 6]]), target(2, 2, x0=700_000.5))
        assert patch.values[0] == pytest.approx(np.array([[1, 4], [1, 4]]))
        assert patch.values.dtype == np.float32

    def test_bilinear_reproduces_a_plane_inside(self) -> None:
        rows, cols = np.mgrid[0:8, 0:8] + 0.5
        patch = align(image(3 * cols - rows), target(12, 12, pixel=0.5, x0=700_001, y0=NORTH - 1))
        rows, cols = np.mgrid[0:12, 0:12] * 0.5 + 1.25
        assert patch.values[0] == pytest.approx(3 * cols - rows, abs=1e-5)

    def test_every_pixel_inside_a_valid_source_pixel_is_valid(self) -> None:
        patch = align(image([[5, NAN], [NAN, NAN]]), target(8, 8, pixel=0.25))
        assert np.array_equal(patch.valid[0], np.pad(np.ones((4, 4), bool), (0, 4))[:8, :8])
        assert (patch.values[patch.valid] == 5).all()


class TestClasses:
    def test_centre_on_an_edge_takes_the_pixel_of_larger_index(self) -> None:
        source = ArrayImage(np.arange(16, dtype=np.uint8).reshape(1, 4, 4), np.ones((1, 4, 4), bool), LAMBERT,
                            Affine(0.2, 0, 770_549.8, 0, -0.2, 6_277_600.2))  # fmt: skip
        patch = align(source, target(2, 2, pixel=0.4, x0=770_549.8, y0=6_277_600.2, kind="classes"))
        assert patch.values[0].tolist() == [[5, 7], [13, 15]]
