"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

DATA = Path(os.environ.get("FUSION3D_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of small real files; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no test data in {DATA}: set FUSION3D_TEST_DATA to the folder of real sample files")
    return DATA


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[str]:
    """Address of an S3 server on this machine."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a new, empty bucket, "s3://..."; the environment says where its server is."""
    import s3fs

    settings = {"AWS_ENDPOINT_URL": _s3_server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in {**settings, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    of_gdal = ("AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING")
    for name in of_gdal:
        monkeypatch.delenv(name, raising=False)
    # connections that were made under another environment are not these
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"test-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}"
    s3fs.S3FileSystem.clear_instance_cache()
    for name in of_gdal:
        os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: with several processes, the others run beside it and not before it."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
