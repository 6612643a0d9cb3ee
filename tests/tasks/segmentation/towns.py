"""A small classified scene in real files: ground on a slope, flat-roofed houses, round trees, and some points of no class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fusion3d.io.las_writer import write_points
from fusion3d.prepare.run import prepare
from fusion3d.prepare.scene import AlsSource, Scene
from tests.evaluation.checkpoints import write_checkpoint

X0, Y0, SIDE = 652000.0, 6860000.0, 40.0
GROUND, TREE, HOUSE, UNCLASSIFIED = 2, 5, 6, 1


def slope(x, y):
    """Ground elevation, metres."""
    return 200.0 + 0.05 * (x - X0) - 0.1 * (y - Y0)


def town(width: float, height: float, density: float = 3.0, seed: int = 0) -> dict[str, np.ndarray]:
    """x, y, z and attributes of points: in each square of 16 m a house of 7 m and a tree of 7 m."""
    random = np.random.default_rng(seed)
    count = int(density * width * height)
    x, y = X0 + random.uniform(0, width, count), Y0 + random.uniform(0, height, count)
    inside_x, inside_y = (x - X0) % 16, (y - Y0) % 16
    tall = np.zeros(count)
    kind = np.full(count, GROUND)
    house = (inside_x < 7) & (inside_y < 7)
    away = np.hypot(inside_x - 12, inside_y - 12) / 3.5
    tree = (away < 1) & (random.random(count) < 0.8)
    tall[house], kind[house] = 5.0, HOUSE
    tall[tree] = (2.0 + 6.0 * random.random(count) * np.sqrt(np.clip(1 - away**2, 0, 1)))[tree]
    kind[tree] = TREE
    kind[random.random(count) < 0.02] = UNCLASSIFIED
    returns = np.where(tree, 3, 1)
    return {
        "x": np.round(x, 3), "y": np.round(y, 3), "z": np.round(slope(x, y) + tall + random.normal(0, 0.02, count), 3),
        "classification": kind.astype(np.uint8),
        "intensity": random.integers(500, 1500, count).astype(np.uint16),
        "return_number": np.where(tree, random.integers(1, 4, count), 1).astype(np.uint8),
        "number_of_returns": returns.astype(np.uint8),
        "gps_time": np.arange(count, dtype=np.float64),
    }  # fmt: skip


def write(path: Path, points: dict[str, np.ndarray], crs: str | None = "EPSG:2154") -> Path:
    attributes = {name: values for name, values in points.items() if name not in "xyz"}
    return write_points(path, points["x"], points["y"], points["z"], attributes, crs=crs)


def cut(points: dict[str, np.ndarray], which: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[which] for name, values in points.items()}


def write_town(folder: Path) -> tuple[str, str, list[Path]]:
    """A store, a checkpoint with random weights, and the two tiles, west and east, that the store was made from."""
    points = town(2 * SIDE, SIDE)
    west = points["x"] < X0 + SIDE
    tiles = [write(folder / "west.laz", cut(points, west)), write(folder / "east.laz", cut(points, ~west))]
    scene = Scene(als=AlsSource(tuple(map(str, tiles))), column=4.0, voxel=1.0, block=16)
    store = str(prepare(scene, folder / "town.zarr", quiet=True).out)
    return store, str(write_checkpoint(folder / "random.ckpt", store, ["als"])), tiles
