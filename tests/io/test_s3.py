"""GDAL asks the S3 server that s3fs asks."""

from __future__ import annotations

import os

import fsspec
import numpy as np
import pytest
from pyproj import CRS

from fusion3d.errors import ConfigError, InputError
from fusion3d.io.geotiff import write_cog
from fusion3d.io.raster import open_raster
from fusion3d.io.s3 import point_gdal_to_s3

_OF_GDAL = ("AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING")


@pytest.fixture
def alone(monkeypatch):
    """No server named yet; what is set in the test is gone afterwards."""
    for name in (*_OF_GDAL, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FSSPEC_S3_ENDPOINT_URL"):
        # a value first, so that the name is unset again after the test, whoever sets it
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"}, ("127.0.0.1:9000", "NO", "FALSE")),
        ({"AWS_ENDPOINT_URL": "https://s3.example.org/"}, ("s3.example.org", "YES", "FALSE")),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "https://b"}, ("b", "YES", "FALSE")),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_VIRTUAL_HOSTING": "TRUE"}, ("a", "NO", "TRUE")),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_S3_ENDPOINT": "own"}, ("own", None, None)),
        ({}, (None, None, None)),
    ],
)
def test_address_is_told_to_gdal_in_its_own_words(alone, settings, expected):
    for name, value in settings.items():
        alone.setenv(name, value)
    point_gdal_to_s3("s3://bucket/a.tif")
    assert tuple(os.environ.get(name) for name in _OF_GDAL) == expected


def test_address_that_is_none_is_one_line(alone):
    alone.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL=localhost:9000 is not an address such as https://"):
        point_gdal_to_s3("s3://bucket/a.tif")
    point_gdal_to_s3("a.tif")
    assert "AWS_S3_ENDPOINT" not in os.environ


def test_image_on_a_server_is_read_and_a_missing_one_is_one_line(s3, tmp_path):
    values = np.arange(600, dtype=np.float32).reshape(1, 20, 30)
    local = write_cog(tmp_path / "a.tif", values, x0=0, y0=0, pixel=10, crs=CRS.from_epsg(2154))
    remote = f"{s3}/forêt d'été/carte 1.tif"
    with fsspec.open(remote, "wb") as file:
        file.write(local.read_bytes())
    found = open_raster(remote)
    assert (found.height, found.width) == (20, 30)
    with pytest.raises(InputError, match="cannot be opened") as failed:
        open_raster(f"{s3}/none.tif")
    assert "\n" not in str(failed.value)
