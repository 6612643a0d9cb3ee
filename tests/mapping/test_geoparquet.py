"""GeoParquet as other programs read it."""

from __future__ import annotations

import json

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from pyproj import CRS

from fusion3d.errors import InputError
from fusion3d.mapping.geoparquet import EmbeddingTable, point_wkb


def table(path, crs="EPSG:2154") -> EmbeddingTable:
    return EmbeddingTable(path, crs=CRS(crs), names=["emb_000", "emb_001"], sensors=["als", "s2"], about={"sensors": "als,s2"})


def rows(count: int, first: int = 0) -> dict:
    at = np.arange(first, first + count)
    return {
        "x": 652_000.0 + 10.0 * at,
        "y": 6_862_400.25 - 10.0 * at,
        "row": at,
        "col": at + 1,
        "seen": np.stack([at % 2 == 0, at % 3 == 0], axis=1),
        "embedding": np.stack([at, -at], axis=1).astype(np.float32),
    }


def test_points_are_those_of_shapely():
    x, y = np.array([652_000.125, -3.5]), np.array([6_862_400.25, 0.0])
    expected = shapely.to_wkb(shapely.points(x, y), byte_order=1)
    assert point_wkb(x, y).to_pylist() == list(expected)


def test_no_points_are_an_empty_array():
    assert len(point_wkb(np.zeros(0), np.zeros(0))) == 0


def test_geopandas_reads_rows_crs_sensors_and_embedding(tmp_path):
    path = tmp_path / "emb.parquet"
    with table(path) as writer:
        writer.write(**rows(4))
        writer.write(**rows(0))
        writer.write(**rows(3, first=4))
    frame = geopandas.read_parquet(path)
    assert frame.crs == CRS("EPSG:2154")
    assert list(frame.columns) == ["geometry", "row", "col", "sensors", "emb_000", "emb_001"]
    np.testing.assert_array_equal(frame.geometry.x, 652_000.0 + 10.0 * np.arange(7))
    np.testing.assert_array_equal(frame.geometry.y, 6_862_400.25 - 10.0 * np.arange(7))
    assert [list(item) for item in frame["sensors"]] == [["als", "s2"], [], ["als"], ["s2"], ["als"], [], ["als", "s2"]]
    np.testing.assert_array_equal(frame["emb_001"], -np.arange(7, dtype=np.float32))
    assert frame["emb_000"].dtype == np.float32


def test_the_file_says_what_it_is(tmp_path):
    with table(tmp_path / "emb.parquet") as writer:
        writer.write(**rows(2))
    metadata = pq.read_metadata(tmp_path / "emb.parquet").metadata
    geo = json.loads(metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["columns"][geo["primary_column"]]["geometry_types"] == ["Point"]
    assert geo["columns"]["geometry"]["crs"]["id"] == {"authority": "EPSG", "code": 2154}
    assert json.loads(metadata[b"fusion3d"]) == {"sensors": "als,s2"}


def test_many_small_tiles_share_row_groups(tmp_path):
    with table(tmp_path / "emb.parquet") as writer:
        for first in range(0, 70_000, 100):
            writer.write(**rows(100, first))
    metadata = pq.read_metadata(tmp_path / "emb.parquet")
    assert metadata.num_rows == 70_000
    assert metadata.num_row_groups == 2


def test_an_interrupted_table_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "emb.parquet"
    path.write_text("older")

    def interrupted() -> None:
        with table(path) as writer:
            writer.write(**rows(4))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [item.name for item in tmp_path.iterdir()] == ["emb.parquet"]
    assert path.read_text() == "older"


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)

    def write() -> None:
        with table(tmp_path / "emb.parquet") as writer:
            writer.write(**rows(4))

    with pytest.raises(InputError, match=r"emb\.parquet.*No space left.*free disk space"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        table(tmp_path / "nowhere" / "emb.parquet")
