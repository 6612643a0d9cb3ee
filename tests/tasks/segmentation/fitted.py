"""A model of the town, fitted once for all tests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from fusion3d.tasks.segmentation.fit_points import PointFit, fit_points
from tests.tasks.segmentation.towns import write_town


@dataclass(frozen=True)
class Fitted:
    store: str
    checkpoint: str
    tiles: list[Path]
    fit: PointFit


def fit_town(folders: pytest.TempPathFactory) -> Fitted:
    return _fit_town(folders.getbasetemp() / "town")


@cache
def _fit_town(folder: Path) -> Fitted:
    folder.mkdir()
    store, checkpoint, tiles = write_town(folder)
    fit = fit_points(store, checkpoint, folder / "fit", folds=2, block=16, head_steps=150, progress=False)
    return Fitted(store, checkpoint, tiles, fit)
