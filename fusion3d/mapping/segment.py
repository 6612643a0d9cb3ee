"""Classes of the points of LAZ files by a model of `fusion3d fit --task segmentation`: the same files, with other classes.

Files that are given together see each other's points: neither tiles nor the squares that are computed at once change a value.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyproj import CRS

from fusion3d import __version__
from fusion3d.errors import ConfigError, CRSError, Fusion3DError, InputError
from fusion3d.evaluation.checkpoint import device_named
from fusion3d.grid import map_crs, metric_unit, same_map_crs, vertical_unit
from fusion3d.io.crs import resolve_crs
from fusion3d.io.las import PointFile, open_points
from fusion3d.io.las_copy import NewDimension, check_copy, copy_points
from fusion3d.io.las_layout import POINT_SUFFIXES
from fusion3d.mapping.point_spill import PointSpill, place_of
from fusion3d.prepare.scene import expand
from fusion3d.progress import progress_bar
from fusion3d.tasks.segmentation.asprs import UNCLASSIFIED, class_name
from fusion3d.tasks.segmentation.cloud import Cloud
from fusion3d.tasks.segmentation.ground import GroundModel
from fusion3d.tasks.segmentation.pieces import SQUARE, Squares, read_piece
from fusion3d.tasks.segmentation.point_model import PointModel, read_point_model

Bytes = npt.NDArray[np.uint8]

CONFIDENCE = NewDimension("confidence", "probability of the class", 0.01)
ORIGINAL = NewDimension("original_class", "classification before")
_PACK = 1 << 32
_NEAR = 192.0
"""Metres: squares are gone through in groups of this size, whose ground is in memory together."""


@dataclass(frozen=True)
class SegmentSummary:
    """What was done.

    Attributes
    ----------
    outputs : files written
    points : in them
    counts : of them by predicted class; unclassified are those without a prediction
    set_aside : path and reason of files that were not written
    seconds : wall time
    """

    outputs: tuple[Path, ...]
    points: int
    counts: dict[int, int]
    set_aside: tuple[tuple[str, str], ...]
    seconds: float

    def __str__(self) -> str:
        lines = [f"set aside: {reason}" for _, reason in self.set_aside]
        shares = ", ".join(
            f"{class_name(code)} {100 * count / max(self.points, 1):.1f} %" for code, count in sorted(self.counts.items())
        )
        where = f" in {self.outputs[0].parent}" if self.outputs else ""
        done = f"{len(self.outputs)} file{'' if len(self.outputs) == 1 else 's'}{where}: {self.points:,} points"
        return "\n".join([*lines, f"{done}{f' ({shares})' if shares else ''}; {self.seconds:.0f} s"])


def segment(
    model: str | Path | PointModel,
    files: Sequence[str | Path],
    out_dir: str | Path,
    *,
    keep_original: bool = False,
    crs: str | None = None,
    square: int = SQUARE,
    device: str = "auto",
    progress: bool = True,
) -> SegmentSummary:
    """Write each file again, as LAZ of the same name, with predicted classes and their confidence.

    Points without a prediction get class 1 (unclassified) and confidence 0: withheld ones, those without ground nearby, and those
    more than 5 m under it or 120 m above. What the files say of classes is not looked at.

    Parameters
    ----------
    files : LAS, LAZ or COPC files, folders or patterns, of one CRS
    out_dir : folder to write to
    keep_original : also write the file's classes, as extra dimension original_class
    crs : of files that state none
    square : side of what is computed at once, voxels: memory, never values

    Raises
    ------
    ConfigError
        Outputs would be inputs, or have one name.
    InputError
        The model or the folder cannot be used, or no file can.
    """
    began = time.monotonic()
    fitted = model if isinstance(model, PointModel) else read_point_model(model)
    if square < 1:
        raise ConfigError(f"--square {square} must be at least 1 voxel")
    fitted.network.to(device_named(device))
    paths = expand([str(path) for path in files], POINT_SUFFIXES)
    folder = Path(out_dir)
    targets = _targets(paths, folder)
    job = _Job(fitted, Squares.of(fitted.network.encoder, fitted.voxel, square), keep_original)
    tiles = job.open(paths, targets, crs)
    if any(tile.target for tile in tiles):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            work = folder / f".{uuid.uuid4().hex[:8]}.draft"
            work.mkdir()
        except OSError as error:
            raise InputError(folder, f"cannot be written ({error.strerror or error})", "give another --out-dir") from None
        try:
            job.run(tiles, work, progress)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    if not job.outputs:
        more = f" (and {len(job.set_aside) - 1} more files that were set aside)" if len(job.set_aside) > 1 else ""
        raise Fusion3DError(job.set_aside[0][1] + more)
    points = sum(job.counts.values())
    return SegmentSummary(tuple(job.outputs), points, dict(job.counts), tuple(sorted(job.set_aside)), time.monotonic() - began)


def _targets(paths: list[str], folder: Path) -> dict[str, Path]:
    found = {path: folder / f"{Path(path).stem.removesuffix('.copc')}.laz" for path in paths}
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "is a file, not a folder", "give another --out-dir")
    inputs = {Path(path).resolve() for path in paths}
    names: dict[Path, str] = {}
    for path, target in found.items():
        if target.resolve() in inputs:
            raise ConfigError(f"--out-dir {folder} would write over {target}, which is an input; give another folder")
        if target in names:
            raise ConfigError(f"{path} and {names[target]} would both be written to {target}; give them apart")
        names[target] = path
    return found


@dataclass(frozen=True)
class _Tile:
    """A file to read; `target` is None where it only helps its neighbours."""

    file: PointFile
    crs: CRS
    target: Path | None


@dataclass
class _Job:
    fitted: PointModel
    squares: Squares
    keep_original: bool
    outputs: list[Path] = field(default_factory=list)
    set_aside: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def new(self) -> tuple[NewDimension, ...]:
        return (CONFIDENCE, ORIGINAL) if self.keep_original else (CONFIDENCE,)

    def open(self, paths: list[str], targets: dict[str, Path], crs: str | None) -> list[_Tile]:
        """The files that can be read, in one CRS; what cannot be written again is set aside but still read."""
        found: list[_Tile] = []
        for path in paths:
            try:
                file = open_points(path)
                system = resolve_crs(file.crs, crs, path)
                _check_crs(file, system, found)
            except Fusion3DError as error:
                self.set_aside.append((path, str(error)))
                continue
            target: Path | None = targets[path]
            try:
                check_copy(file, self.new, self.fitted.legend.codes[-1])
                if target is not None and target.exists():
                    raise InputError(target, "is there already and is not written over", "give another --out-dir, or remove it")
            except Fusion3DError as error:
                self.set_aside.append((path, str(error)))
                target = None
            found.append(_Tile(file, system, target))
        return found

    def run(self, tiles: list[_Tile], work: Path, progress: bool) -> None:
        unit, height_unit = metric_unit(tiles[0].crs), vertical_unit(tiles[0].crs)
        spill = PointSpill(work, unit, height_unit, self.fitted.brightest)
        wanted: set[tuple[int, int]] = set()
        kept: dict[int, _Tile] = {}
        with progress_bar("decode", len(tiles), progress) as advance:
            for number, tile in enumerate(tiles):
                touched: set[tuple[int, int]] = set()
                try:
                    for cloud in spill.add(number, tile.file):
                        touched |= _touched(self.squares, cloud)
                except Fusion3DError as error:
                    self.set_aside.append((tile.file.path, str(error)))
                else:
                    if tile.target is not None:
                        kept[number] = tile
                        wanted |= touched
                advance()
        answers = _Answers(work, {number: tile.file.count for number, tile in kept.items()})
        ground, group = GroundModel(spill), max(1, int(_NEAR // self.squares.metres))
        order = sorted(wanted, key=lambda at: (at[0] // group, at[1] // group, at))
        with progress_bar("classify", len(order), progress) as advance:
            for row, col in order:
                piece = read_piece(spill, ground, self.squares, row, col)
                if piece is not None:
                    answers.take(piece.core.key, *self.fitted.classify(piece))
                advance()
        with progress_bar("write", len(kept), progress) as advance:
            for number, tile in kept.items():
                self._write(tile, *answers.of(number))
                advance()

    def _write(self, tile: _Tile, code: Bytes, confidence: Bytes) -> None:
        assert tile.target is not None

        def values(start: int, stop: int) -> dict[str, Bytes]:
            return {"classification": code[start:stop], CONFIDENCE.name: confidence[start:stop]}

        kept = {"classification": ORIGINAL.name} if self.keep_original else {}
        try:
            copy_points(tile.file, tile.target, self.new, values, f"fusion3d {__version__}", kept)
        except Fusion3DError as error:
            self.set_aside.append((tile.file.path, str(error)))
            return
        self.outputs.append(tile.target)
        self.counts.update({each: count for each, count in enumerate(np.bincount(code, minlength=256).tolist()) if count})


class _Answers:
    """Class and confidence (per cent) of each point of some files, on disk.

    Parameters
    ----------
    counts : points by number of the file
    """

    def __init__(self, folder: Path, counts: dict[int, int]) -> None:
        self._first = np.full(max(counts, default=0) + 1, -1, np.int64)
        total = 0
        for number, count in counts.items():
            self._first[number] = total
            total += count
        self._counts = counts
        # an empty file cannot be mapped
        self._code, self._confidence = (
            np.memmap(folder / name, np.uint8, "w+", shape=(max(1, total),)) for name in ("class", "confidence")
        )
        self._code[:] = UNCLASSIFIED

    def take(self, key: npt.NDArray[np.int64], code: Bytes, confidence: npt.NDArray[np.float64]) -> None:
        """Note answers on points; those of other files are left out."""
        number, place = place_of(key)
        mine = number < len(self._first)
        mine[mine] = self._first[number[mine]] >= 0
        at = self._first[number[mine]] + place[mine]
        self._code[at] = code[mine]
        self._confidence[at] = np.rint(100 * confidence[mine]).astype(np.uint8)

    def of(self, number: int) -> tuple[Bytes, Bytes]:
        """[N] class and confidence of a file's points."""
        part = slice(self._first[number], self._first[number] + self._counts[number])
        return self._code[part], self._confidence[part]


def _check_crs(file: PointFile, system: CRS, found: list[_Tile]) -> None:
    try:
        metric_unit(map_crs(system))
    except CRSError as error:
        raise CRSError(file.path, error.problem, "reproject the points to a CRS in metres first") from None
    if found and (not same_map_crs(system, found[0].crs) or vertical_unit(system) != vertical_unit(found[0].crs)):
        problem = f"is in {system.name}, {found[0].file.path} in {found[0].crs.name}"
        raise CRSError(file.path, problem, "give the files of each CRS apart")


def _touched(squares: Squares, cloud: Cloud) -> set[tuple[int, int]]:
    """Rows and columns of the squares that hold points."""
    row, col = (squares.voxels(cloud) // squares.side).T
    # both in one number, for speed
    rows, cols = np.divmod(np.unique(row * _PACK + col + _PACK // 2), _PACK)
    return set(zip(rows.tolist(), (cols - _PACK // 2).tolist(), strict=True))
