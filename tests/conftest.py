"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("FUSION3D_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of small real files; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no test data in {DATA}: set FUSION3D_TEST_DATA to the folder of real sample files")
    return DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: with several processes, the others run beside it and not before it."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
