"""Pictures have north up, transparent nodata and colours that agree between runs."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.io.geotiff import write_cog
from fusion3d.mapping.picture import composite, picture, principal_axes, scale_bar


def write_map(path, values, **tags):
    return write_cog(path, values.astype(np.float32), x0=652_000.0, y0=6_862_400.0, pixel=2.0, crs=CRS("EPSG:2154"), tags=tags)


def corner_map(bands: int = 4, rows: int = 60, cols: int = 90) -> np.ndarray:
    """Faint noise, and 10 more in band 0 of the north-eastern ninth."""
    values = np.random.default_rng(0).normal(0, 0.1, (bands, rows, cols))
    values[0, : rows // 3, -cols // 3 :] += 10
    return values


def test_a_bright_north_east_corner_stays_there():
    rgba = composite(corner_map())
    assert rgba.shape == (60, 90, 4)
    bright = rgba[..., 0] > 128
    assert bright[:20, 60:].all()
    assert bright.sum() == 20 * 30


def test_the_png_shows_it_at_the_upper_right(tmp_path):
    write_map(tmp_path / "map.tif", corner_map(), sensors="als")
    picture(tmp_path / "map.tif", tmp_path / "map.png", title="")
    image = imread(tmp_path / "map.png")
    rgb = image[..., :3]
    coloured = np.ptp(rgb, axis=2) > 0.05
    row, col = np.nonzero(coloured)
    top, bottom, left, right = row.min(), row.max(), col.min(), col.max()
    north_east = rgb[top : top + (bottom - top) // 4, right - (right - left) // 4 : right, 0]
    elsewhere = rgb[bottom - (bottom - top) // 2 : bottom, left:right, 0]
    assert np.median(north_east) > 0.9
    assert np.median(elsewhere) < 0.5
    # 60 x 90 pixels: the map keeps its shape
    assert (right - left) / (bottom - top) == pytest.approx(1.5, rel=0.03)
    assert [item.name for item in sorted(tmp_path.iterdir())] == ["map.png", "map.tif"]


def test_nodata_is_transparent_and_everything_else_opaque():
    values = corner_map()
    values[:, 5, 7] = np.nan
    values[2, 6, 8] = np.nan
    alpha = composite(values)[..., 3]
    assert alpha[5, 7] == alpha[6, 8] == 0
    assert (alpha == 255).sum() == alpha.size - 2


def test_components_are_those_of_a_singular_value_decomposition_with_a_positive_largest_loading():
    rows = np.random.default_rng(3).normal(size=(200, 5)) * [5, 1, 3, 2, 0.5]
    rows -= rows.mean(axis=0)
    axes = principal_axes(rows, 3)
    expected = np.linalg.svd(rows, full_matrices=False)[2][:3]
    np.testing.assert_allclose(np.abs((axes * expected).sum(axis=1)), 1.0, rtol=1e-9)
    assert (axes[np.arange(3), np.abs(axes).argmax(axis=1)] > 0).all()


def test_neighbouring_halves_are_coloured_alike():
    values = corner_map(rows=60, cols=120)
    # the same pattern in both halves, other noise
    values[0] = np.tile(np.add.outer(np.arange(60.0), np.arange(60.0)), 2) + values[0]
    west, east = composite(values[..., :60]), composite(values[..., 60:])
    assert np.corrcoef(west[..., 0].ravel(), east[..., 0].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("bands", [1, 2])
def test_fewer_than_three_bands_are_drawn(bands):
    rgba = composite(corner_map(bands))
    assert (rgba[:20, 60:, 0] > 200).all()
    assert (rgba[..., 2] == 128).all()


def test_a_constant_map_is_grey():
    rgba = composite(np.ones((3, 4, 5)))
    assert (rgba[..., :3] == 128).all()


def test_a_map_without_data_is_refused():
    with pytest.raises(InputError, match="no data"):
        composite(np.full((3, 4, 5), np.nan))


def test_files_that_are_no_map_and_folders_that_are_not_there_are_named(tmp_path):
    (tmp_path / "text.tif").write_text("hello")
    with pytest.raises(InputError, match=r"text\.tif"):
        picture(tmp_path / "text.tif", tmp_path / "out.png")
    with pytest.raises(InputError, match="nowhere"):
        picture(tmp_path / "text.tif", tmp_path / "nowhere" / "out.png")


@pytest.mark.parametrize(("across", "length"), [(40, 10), (100, 20), (1000, 200), (3999, 500), (4000, 1000), (1.0, 0.2)])
def test_the_scale_bar_is_a_round_length_of_at_most_a_quarter(across, length):
    assert scale_bar(across) == pytest.approx(length)
