"""What archives contain, one file of each kind beside a good tile: set aside in one line, or borne as the table in
docs/robustness.md says; nothing of the good tile is lost, nothing hangs, memory stays bounded."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from fusion3d.errors import InputError
from fusion3d.prepare import assembly
from fusion3d.prepare.run import Summary, prepare
from fusion3d.prepare.scene import AlsSource, GediInput, RasterInput, Scene
from fusion3d.store.reader import Store
from tests.prepare import bad_files as bad
from tests.prepare.scenes import X0, Y0, write_tile

GOOD_POINTS = 1800
SECONDS = 60


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """No test may hang; a loop in C code is stopped by the kernel's default action, with the whole process."""
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


def flipped(path: Path, start: int, count: int) -> Path:
    raw = bytearray(path.read_bytes())
    raw[start : start + count] = bytes(value ^ 0x55 for value in raw[start : start + count])
    path.write_bytes(raw)
    return path


def contradictory(folder: Path) -> Path:
    """WKT of one CRS, GeoTIFF keys of another."""
    from laspy.vlrs.known import GeoKeyDirectoryVlr, GeoKeyEntryStruct, GeoKeysHeaderStructs

    def add_keys(cloud) -> None:
        keys = GeoKeyDirectoryVlr()
        keys.geo_keys_header = GeoKeysHeaderStructs()
        keys.geo_keys_header.key_directory_version, keys.geo_keys_header.key_revision = 1, 1
        keys.geo_keys = [GeoKeyEntryStruct(1024, 0, 1, 1), GeoKeyEntryStruct(3072, 0, 1, 32631)]
        keys.geo_keys_header.number_of_keys = 2
        cloud.header.vlrs.append(keys)

    return bad.las(folder, "bad.las", change=add_keys)


def web_page(folder: Path) -> Path:
    path = folder / "GEDI02_A_bad.h5"
    path.write_text("<!DOCTYPE html><html><body>Earthdata Login</body></html>")
    return path


SET_ASIDE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated LAZ": (lambda folder: bad.cut(bad.las(folder, "bad.laz"), 0.7), "truncated"),
    "LAZ short of a thousand bytes": (lambda folder: bad.cut(bad.las(folder, "bad.laz"), 0.85), "truncated"),
    "truncated LAS": (lambda folder: bad.cut(bad.las(folder, "bad.las"), 0.7), "truncated: its header says 900 points"),
    "LAS count above": (lambda folder: bad.counted(bad.las(folder, "bad.las"), 907), "says 907 points, the file holds 900"),
    "LAS count below": (lambda folder: bad.counted(bad.las(folder, "bad.las"), 893), "893 points, .* holds room for 900"),
    "LAZ count above": (lambda folder: bad.counted(bad.las(folder, "bad.laz"), 907), "907 points"),
    "LAZ count below": (lambda folder: bad.counted(bad.las(folder, "bad.laz"), 893), "893 points"),
    "2^40 points, LAS": (lambda folder: bad.counted(bad.las(folder, "bad.las"), 2**40), "1099511627776 points"),
    "2^40 points, LAZ": (lambda folder: bad.counted(bad.las(folder, "bad.laz"), 2**40), "1099511627776 points"),
    "2^32 - 1 VLRs": (
        lambda folder: bad.patched(bad.las(folder, "bad.las"), "<I", 100, 2**32 - 1), "4294967295 variable length records",
    ),
    "scale 0": (lambda folder: bad.patched(bad.las(folder, "bad.las"), "<d", 131, 0.0), "the scale of x is 0.0"),
    "scale NaN": (lambda folder: bad.patched(bad.las(folder, "bad.laz"), "<d", 139, np.nan), "the scale of y is nan"),
    "EVLR past the end": (lambda folder: bad.patched(bad.las(folder, "bad.las"), "<QI", 235, 10**9, 1), "1000000000"),
    "flipped bytes in the points": (lambda folder: flipped(bad.las(folder, "bad.laz"), 2100, 40), "damaged|truncated"),
    "flipped bytes in the head": (lambda folder: flipped(bad.las(folder, "bad.laz"), 94, 10), "damaged"),
    "bomb": (bad.bomb, r"18 MB out of .* MB: damaged or a bomb; .* --max-ratio"),
    "no CRS": (lambda folder: bad.las(folder, "bad.laz", crs=None), "no CRS; pass .* --crs"),
    "contradictory CRS": (contradictory, "they contradict each other"),
    "degrees": (
        lambda folder: bad.las(folder, "bad.laz", crs="EPSG:4326", place=(2.34, 48.8), scale=1e-7), "in degrees .* pass --crs",
    ),
    "degrees stated as metres": (lambda folder: bad.las(folder, "bad.laz", place=(2.34, 48.8)), "far outside of the area"),
    "geocentric": (lambda folder: bad.las(folder, "bad.laz", crs="EPSG:4978"), "geocentric"),
    "raster of nodata": (lambda folder: bad.image(folder, values=np.zeros((1, 40, 40), np.uint8), nodata=0), "no valid pixel"),
    "raster elsewhere": (lambda folder: bad.image(folder, transform=Affine(2, 0, X0 + 9e4, 0, -2, Y0)), "no valid pixel"),
    "truncated raster": (lambda folder: bad.cut(bad.image(folder), 0.6), "is truncated"),
    "palette as reflectance": (lambda folder: bad.image(folder, colours={7: (255, 0, 0, 255)}), "has a palette.*:classes="),
    "complex raster": (lambda folder: bad.image(folder, values=np.ones((1, 40, 40), np.complex64)), "complex64"),
    "truncated HDF5": (lambda folder: bad.cut(bad.gedi(folder), 0.6), "cut off"),
    "web page as HDF5": (web_page, "web page"),
    "HDF5 of terabytes": (bad.terabytes, r"declares 808,000,000,000 bytes"),
    "HDF5 without beams": (lambda folder: bad.gedi(folder, beams=()), "not a GEDI product with beams"),
    "HDF5 without a data set": (lambda folder: bad.gedi(folder, leave_out=("rh",)), "BEAM0101/rh is missing"),
    "HDF5 of ICESat-2": (bad.icesat, "not a GEDI product with beams: it holds gt1l"),
}  # fmt: skip


def batch(folder: Path, *files: Path, kind: str = "reflectance", **options: object) -> Summary:
    """Prepare the good tile and the files."""
    good = write_tile(folder / "good.laz", X0, Y0, side=30.0, density=2.0)
    of = {ending: [str(path) for path in files if path.suffix == ending] for ending in (".tif", ".h5")}
    tiles = [str(path) for path in files if path.suffix in (".las", ".laz")]
    als = {key: options.pop(key) for key in ("attributes", "max_ratio") if key in options}
    scene = Scene(
        AlsSource((str(good), *tiles), **als),
        {"image": RasterInput(tuple(of[".tif"]), kind=kind)} if of[".tif"] else {},
        GediInput(tuple(of[".h5"])) if of[".h5"] else None,
        **{"column": 2.0, "block": 16, **options},
    )
    return prepare(scene, folder / "out.zarr", quiet=True)


@pytest.mark.parametrize("name", SET_ASIDE)
def test_bad_file_is_set_aside_in_one_line_and_the_good_one_is_used(tmp_path, name):
    make, words = SET_ASIDE[name]
    path = make(tmp_path)
    summary = batch(tmp_path, path)
    [(aside, reason)] = summary.set_aside
    assert aside == str(path)
    assert reason.startswith(str(path))
    assert "\n" not in reason
    assert "; " in reason, "no remedy"
    assert re.search(words, reason), reason
    assert summary.attributes.als.points == GOOD_POINTS
    assert Store.open(summary.out).attributes.set_aside[0]["reason"] == reason


def test_degrees_are_reprojected_when_the_crs_of_the_grid_is_given(tmp_path):
    from pyproj import Transformer

    place = Transformer.from_crs(2154, 4326, always_xy=True).transform(X0, Y0)
    path = bad.las(tmp_path, "bad.laz", crs="EPSG:4326", place=place, scale=1e-7)
    summary = batch(tmp_path, path, crs="EPSG:2154")
    assert summary.set_aside == []
    assert summary.attributes.als.points == GOOD_POINTS + bad.POINTS


def test_feet_are_reprojected_and_heights_are_metres(tmp_path):
    """US survey feet of 1200/3937 m: 100 ft of vegetation are 30.48 m."""
    from pyproj import CRS, Transformer

    feet = CRS.from_proj4("+proj=lcc +lat_1=49 +lat_2=44 +lat_0=46.5 +lon_0=3 +x_0=700000 +y_0=6600000 +ellps=GRS80 +units=us-ft")
    place = Transformer.from_crs(2154, feet, always_xy=True).transform(X0, Y0)

    def level(cloud) -> None:
        cloud.z = np.where(np.asarray(cloud.classification) == 5, 400.0, 300.0)

    path = bad.las(tmp_path, "feet.laz", crs=feet, place=place, change=level)
    store = Store.open(prepare(Scene(AlsSource((str(path),)), crs="EPSG:2154", column=2.0), tmp_path / "o.zarr", quiet=True).out)
    points = store.points(store.grid.window)
    tall = points.attributes["classification"] == 5
    np.testing.assert_allclose(points.height[tall], 100 * 1200 / 3937, atol=0.002)
    np.testing.assert_allclose(points.height[~tall], 0.0, atol=0.002)


def test_bomb_that_is_meant_is_read_when_the_cap_is_raised(tmp_path):
    path = bad.bomb(tmp_path)
    summary = batch(tmp_path, path, max_ratio=1e5)
    assert summary.set_aside == []
    assert summary.attributes.als.points == GOOD_POINTS + 600_000


def test_string_of_an_hdf5_file_that_never_ends_is_stopped(tmp_path, monkeypatch):
    from fusion3d.io import hdf5_probe

    copy = tmp_path / "probe.py"
    copy.write_text(Path(hdf5_probe.__file__).read_text().replace("CPU_SECONDS = 20", "CPU_SECONDS = 2"))
    monkeypatch.setattr(hdf5_probe, "__file__", str(copy))
    [(_, reason)] = batch(tmp_path, bad.endless(tmp_path)).set_aside
    assert "would never come to the end of reading it" in reason


# Borne: what the store then holds
def change_of(name: str, value: object) -> Callable:
    def change(cloud) -> None:
        getattr(cloud, name)[:] = value

    return change


@pytest.mark.parametrize(("count", "more"), [(0, 0), (1, 1)])
def test_tile_of_no_point_or_one_is_used(tmp_path, count, more):
    summary = batch(tmp_path, bad.las(tmp_path, "bad.laz", count=count))
    assert summary.set_aside == []
    assert summary.attributes.als.points == GOOD_POINTS + more


def test_extra_bytes_of_nan_stay_nan_and_touch_nothing_else(tmp_path):
    path = bad.las(tmp_path, "bad.laz", extra=True, change=change_of("amplitude", np.nan))
    scene = Scene(AlsSource((str(path),), attributes=("amplitude",)), column=2.0, block=16)
    store = Store.open(prepare(scene, tmp_path / "out.zarr", quiet=True).out)
    points = store.points(store.grid.window)
    assert np.isnan(points.attributes["amplitude"]).all()
    assert np.isfinite(points.height).all()


def test_return_number_above_the_number_of_returns_is_kept_as_the_file_has_it(tmp_path):
    summary = batch(tmp_path, bad.las(tmp_path, "bad.laz", change=change_of("return_number", 5)))
    points = Store.open(summary.out).points(summary.attributes.grid.window)
    assert np.count_nonzero(points.attributes["return_number"] > points.attributes["number_of_returns"]) == bad.POINTS


@pytest.mark.parametrize(("options", "mean"), [
    ({"values": np.full((1, 40, 40), 3000, np.uint16)}, 3000.0),
    ({"values": np.full((1, 40, 40), 0.25, np.float32)}, 0.25),
    ({"values": np.full((1, 40, 40), 3000, np.uint16), "scales": (1e-4,), "offsets": (-0.1,)}, 0.2),
    ({"transform": Affine(2, 0, X0 - 20, 0, -2, Y0 + 80) @ Affine.rotation(10)}, 7.0),
    ({"transform": Affine(4, 0, X0, 0, -2, Y0 + 80)}, 7.0),
], ids=["16 bit", "float", "scaled", "rotated", "oblong"])  # fmt: skip
def test_raster_of_another_kind_keeps_its_values(tmp_path, options, mean):
    summary = batch(tmp_path, bad.image(tmp_path, **options))
    assert summary.set_aside == []
    assert summary.attributes.rasters["image"].mean == pytest.approx((mean,), rel=1e-6)


def test_palette_of_classes_is_used(tmp_path):
    summary = batch(tmp_path, bad.image(tmp_path, colours={7: (255, 0, 0, 255)}), kind="classes")
    assert summary.set_aside == []
    assert summary.attributes.rasters["image"].mean == (7.0,)


def test_gedi_file_with_few_of_its_beams_is_used(tmp_path):
    summary = batch(tmp_path, bad.gedi(tmp_path))
    assert summary.set_aside == []
    assert summary.attributes.gedi.footprints == 4


# Files that change while they are used: an upload that goes on, or one that was broken off
@pytest.mark.parametrize("ending", [".las", ".laz"])
@pytest.mark.parametrize("what", ["cut", "longer", "gone", "zeros"])
def test_file_that_changes_between_the_check_and_the_reading_is_set_aside(tmp_path, monkeypatch, ending, what):
    path = bad.las(tmp_path, "upload" + ending)
    spill = assembly.spill_tile

    def change_then_spill(number, tile, *others):
        if tile.file.path == str(path):
            raw = path.read_bytes()
            {
                "cut": lambda: path.write_bytes(raw[: len(raw) // 2]),
                "longer": lambda: bad.counted(path, 1800).open("ab").write(raw[-900 * 30 :]),
                "gone": path.unlink,
                "zeros": lambda: path.write_bytes(raw[: len(raw) // 2].ljust(len(raw), b"\0")),
            }[what]()
        return spill(number, tile, *others)

    monkeypatch.setattr(assembly, "spill_tile", change_then_spill)
    summary = batch(tmp_path, path)
    [(aside, reason)] = summary.set_aside
    assert aside == str(path)
    assert "\n" not in reason
    assert summary.attributes.als.points == GOOD_POINTS


# The command, as a user runs it
_DROP_FROM_BOUNDING_SET, _DAC_OVERRIDE, _DAC_READ_SEARCH = 24, 1, 2  # linux/prctl.h, linux/capability.h


def command(*arguments: object, memory: int | None = None, rights_of_root: bool = True):
    libc = ctypes.CDLL(None)

    def limit() -> None:
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        if not rights_of_root:  # of reading what it has no permission to read; of no effect for other users
            libc.prctl(_DROP_FROM_BOUNDING_SET, _DAC_OVERRIDE)
            libc.prctl(_DROP_FROM_BOUNDING_SET, _DAC_READ_SEARCH)

    return subprocess.run(
        [sys.executable, "-m", "fusion3d.cli", *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS,
        preexec_fn=limit, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_all_of_them_thrown_together_leave_the_good_tile_in_bounded_memory(tmp_path):
    """Under a limit of 3 GB of addresses, of which Python and its libraries take 1.5."""
    folder = tmp_path / "thrown together"
    folder.mkdir()
    write_tile(folder / "good.laz", X0, Y0, side=30.0, density=2.0)
    tiles, footprints = [], []
    for number, (make, _) in enumerate(SET_ASIDE.values()):
        path = make(tmp_path)
        if path.suffix == ".tif":
            continue
        moved = path.rename(folder / f"{path.stem}_{number}{path.suffix}")
        (footprints if moved.suffix == ".h5" else tiles).append(moved)
    options = [word for path in footprints for word in ("--gedi", path)]
    done = command("prepare", folder, *options, "--out", tmp_path / "out.zarr", "--column", 2, "--quiet", memory=3 << 30)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    for path in (*tiles, *footprints):
        assert sum(line.startswith(f"set aside: {path}: ") for line in lines) == 1, path
    assert sum(line.startswith("set aside: ") for line in lines) == len(tiles) + len(footprints)
    assert f"{GOOD_POINTS:,} read, {GOOD_POINTS:,} stored" in done.stdout
    assert lines[-1] == f"store: {tmp_path / 'out.zarr'}"


def test_empty_folder_is_told(tmp_path):
    with pytest.raises(InputError, match=r"the folder holds no \.las or \.laz file"):
        prepare(Scene(AlsSource((str(tmp_path),))), tmp_path / "out.zarr", quiet=True)


def test_file_without_permission_is_set_aside(tmp_path):
    good, closed = write_tile(tmp_path / "good.laz", X0, Y0), bad.las(tmp_path, "closed.laz")
    closed.chmod(0)
    done = command("prepare", good, closed, "--out", tmp_path / "out.zarr", "--column", 2, "--quiet", rights_of_root=False)
    assert done.returncode == 1, done.stderr
    assert f"set aside: {closed}: cannot be read (Permission denied); check its permissions" in done.stdout
