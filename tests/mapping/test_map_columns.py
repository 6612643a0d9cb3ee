"""The table of a map's cells, as other programs read it."""

from __future__ import annotations

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from fusion3d.errors import ConfigError, InputError
from fusion3d.mapping import map_columns
from fusion3d.mapping.geoparquet import CellTable
from fusion3d.mapping.predict import predict
from tests.mapping.linear_models import model, with_intervals
from tests.tasks.places import X0, Y0, write_map


@pytest.fixture(scope="module")
def embedding(tmp_path_factory):
    bands = np.stack(np.mgrid[:30, :40]).astype(np.float32)
    bands[:, 10:14, 5:9] = np.nan
    return write_map(tmp_path_factory.mktemp("map") / "emb.tif", bands)


@pytest.mark.parametrize("side", [512, 7])
def test_a_row_has_what_the_map_has_at_its_cell(embedding, tmp_path, monkeypatch, side):
    monkeypatch.setattr(map_columns, "_SIDE", side)
    summary = predict(with_intervals(), embedding, tmp_path / "agb.tif", level=0.5, columns=tmp_path / "agb.parquet")
    frame = geopandas.read_parquet(tmp_path / "agb.parquet")
    assert str(summary).endswith(f"{tmp_path / 'agb.parquet'}: a row for each of the {len(frame)} cells")
    assert (len(frame), frame.crs.to_epsg()) == (30 * 40 - 16, 2154)
    assert not frame.duplicated(["row", "col"]).any()
    np.testing.assert_array_equal(frame.geometry.x, X0 + 10 * frame.col + 5)
    np.testing.assert_array_equal(frame.geometry.y, Y0 - 10 * frame.row - 5)
    with rasterio.open(tmp_path / "agb.tif") as dataset:
        assert list(frame.columns) == ["geometry", "row", "col", *dataset.descriptions]
        for name, band in zip(dataset.descriptions, dataset.read()):
            np.testing.assert_array_equal(frame[name], band[frame.row, frame.col])
    assert frame["extrapolation"].dtype == bool
    assert frame["extrapolation"].sum() == summary.extrapolated > 0


def test_band_without_values_is_null_and_says_so_in_its_type(embedding, tmp_path):
    """120 plots carry no interval of 99.9 %."""
    predict(with_intervals(), embedding, tmp_path / "agb.tif", level=0.999, columns=tmp_path / "agb.parquet")
    table = pq.read_table(tmp_path / "agb.parquet")
    assert table["agb_upper99_9_Mg_ha"].null_count == len(table) == 1184
    assert table["agb_se_Mg_ha"].null_count == 0
    assert table.schema.field("agb_upper99_9_Mg_ha").type == pa.float32()


def test_table_is_whole_or_not_there(embedding, tmp_path, monkeypatch):
    (tmp_path / "agb.parquet").write_text("older")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CellTable, "add", full)
    with pytest.raises(OSError, match="No space"):
        predict(model(), embedding, tmp_path / "agb.tif", columns=tmp_path / "agb.parquet")
    assert (tmp_path / "agb.parquet").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {"agb.parquet", "agb.tif"}


def test_name_that_cannot_be_written_is_refused_before_anything_is_computed(embedding, tmp_path):
    with pytest.raises(ConfigError, match=r"--columns .*agb\.csv: give a name that ends in \.parquet"):
        predict(model(), embedding, tmp_path / "agb.tif", columns=tmp_path / "agb.csv")
    with pytest.raises(InputError, match="its folder does not exist"):
        predict(model(), embedding, tmp_path / "agb.tif", columns=tmp_path / "none" / "agb.parquet")
    assert not list(tmp_path.iterdir())
