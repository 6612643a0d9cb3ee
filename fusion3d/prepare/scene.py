"""What goes into a store: the scene file, and the same from command-line options."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from fusion3d.errors import ConfigError, InputError, one_line
from fusion3d.io.binary_file import filesystem, is_url
from fusion3d.io.gedi_hdf5 import HDF5_ENDINGS
from fusion3d.io.las_layout import POINT_SUFFIXES as POINT_SUFFIXES
from fusion3d.io.laz import MAX_DECODED_RATIO
from fusion3d.io.place import reaching, written_at

RASTER_KINDS = ("reflectance", "backscatter", "continuous", "classes")
GEDI_SUFFIXES = HDF5_ENDINGS


@dataclass(frozen=True)
class AlsSource:
    """Aerial LiDAR tiles.

    Parameters
    ----------
    files : paths, folders or glob patterns
    crs : CRS of files that have none
    normalized : heights in the files are already above ground
    attributes : extra dimensions to keep beside the standard ones
    ground_class : classes that are ground (ASPRS 2)
    ground_buffer : how far outside a block ground points are looked for, and the farthest ground that still counts, metres
    max_ratio : decoded bytes for one byte of LAZ that are believed; more is taken for a decompression bomb
    """

    files: tuple[str, ...]
    crs: str | None = None
    normalized: bool = False
    attributes: tuple[str, ...] = ()
    ground_class: tuple[int, ...] = (2,)
    ground_buffer: float = 50.0
    max_ratio: float = MAX_DECODED_RATIO


@dataclass(frozen=True)
class RasterInput:
    """One raster sensor: an image, or a dated series.

    Parameters
    ----------
    files : paths, a folder or glob patterns; several dated files are a series
    kind : how pixels are resampled: reflectance, backscatter and continuous by area-weighted mean, classes by nearest
    crs : CRS of files that have none
    bands : sidecar YAML with wavelengths, or band names
    pixel : pixel size wanted, metres; None takes the source's, rounded to divide or be divided by the column
    reader : ``module:function`` or ``file.py:function`` that takes the paths of `files` and `options` and returns a RasterSource,
        for formats of your own
    options : further arguments of the reader
    """

    files: tuple[str, ...]
    kind: str = "reflectance"
    crs: str | None = None
    bands: str | None = None
    pixel: float | None = None
    reader: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in RASTER_KINDS:
            raise ConfigError(f"raster kind {self.kind!r} is not one of {', '.join(RASTER_KINDS)}")


@dataclass(frozen=True)
class GediInput:
    """GEDI files of any products; products of the same shots are joined."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """Everything `prepare` needs to know; a scene file is this, in YAML.

    Parameters
    ----------
    crs : CRS of the grid; files in another are reprojected, files without one are taken to be in it. None: that of most tiles,
        else of the first raster
    column, voxel : metres
    block : columns
    bounds : xmin, ymin, xmax, ymax in the grid's CRS; None covers every point cloud, else every raster,
        else GEDI
    within : file of polygons in any CRS, in place of bounds: the grid covers them, tiles that do not touch them are not read
    simulated : no real ground: the store and every report of it say so
    """

    als: AlsSource | None = None
    rasters: Mapping[str, RasterInput] = field(default_factory=dict)
    gedi: GediInput | None = None
    crs: str | None = None
    column: float = 10.0
    voxel: float = 0.5
    block: int = 64
    bounds: tuple[float, float, float, float] | None = None
    within: str | None = None
    simulated: bool = False

    def __post_init__(self) -> None:
        reserved = {"als", "gedi"} & set(self.rasters)
        if reserved:
            raise ConfigError(f"a raster sensor cannot be named {', '.join(sorted(reserved))}")
        for name in self.rasters:
            if not name.isidentifier():
                raise ConfigError(f"sensor name {name!r}: use letters, digits and underscores")
        if self.bounds is not None and self.within is not None:
            raise ConfigError("give bounds or within, not both")
        if self.als is None and self.gedi is None and not self.rasters:
            raise ConfigError("nothing to prepare: name LAZ files, rasters or GEDI files")


def read_scene(path: str | Path) -> Scene:
    """Read a scene file; relative paths are relative to it.

    Raises
    ------
    InputError
        Not YAML, an unknown key, or a value of the wrong kind; names the key.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(path, f"not a readable scene file ({one_line(error)})", "see configs/scene.yaml") from None
    if not isinstance(raw, dict):
        raise InputError(path, "a scene file is a YAML mapping", "see configs/scene.yaml")
    base = path.parent
    try:
        values = _known(Scene, raw)
        if raw.get("als"):
            values["als"] = AlsSource(**_known(AlsSource, _with_files(raw["als"], base)))
        if raw.get("gedi"):
            values["gedi"] = GediInput(**_known(GediInput, _with_files(raw["gedi"], base)))
        values["rasters"] = {
            name: RasterInput(**_known(RasterInput, _with_files(item, base))) for name, item in (raw.get("rasters") or {}).items()
        }
        if isinstance(values.get("within"), str):
            values["within"] = _beside(values["within"], base)
        return Scene(**values)
    except (ConfigError, TypeError, AttributeError) as error:
        raise InputError(path, str(error), "see configs/scene.yaml") from None


def _with_files(item: Any, base: Path) -> dict[str, Any]:
    if isinstance(item, (str, list)):
        item = {"files": item}
    if not isinstance(item, dict) or "files" not in item:
        raise ConfigError("a source needs `files`")
    files = item["files"]
    names = [files] if isinstance(files, str) else files
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        names = [_beside(name, base) for name in names]
    item = {**item, "files": names}
    for key in ("bands", "reader"):
        value = item.get(key)
        if isinstance(value, str) and (base / value.split(":")[0]).exists():
            item[key] = str(base / value)
    return item


def _beside(name: str, base: Path) -> str:
    return name if is_url(name) else str(base / name)


def _known(kind: type, raw: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(kind)}
    unknown = set(raw) - known
    if unknown:
        raise ConfigError(f"unknown key {', '.join(map(repr, sorted(unknown)))}; known are {', '.join(sorted(known))}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    for key, value in values.items():
        wanted = _WANTED.get(key)
        if wanted is not None and not (value is None and key in _MAY_BE_NONE) and not wanted[1](value):
            raise ConfigError(f"`{key}` must be {wanted[0]}, not {value!r}")
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(isinstance(item, str) for item in value)


_MAY_BE_NONE = {"crs", "bounds", "within", "bands", "pixel", "reader", "als", "gedi", "rasters"}
_WANTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "files": ("a path, or a list of paths", _texts),
    "attributes": ("a list of names", lambda value: value == () or _texts(value)),
    "ground_class": (
        "a list of class numbers",
        lambda value: isinstance(value, tuple) and all(type(item) is int for item in value),
    ),
    "ground_buffer": ("a number of metres", _is_number),
    "max_ratio": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "column": ("a number of metres", _is_number),
    "voxel": ("a number of metres", _is_number),
    "pixel": ("a number of metres", _is_number),
    "block": ("a whole number of columns", lambda value: type(value) is int),
    "bounds": (
        "four numbers: xmin, ymin, xmax, ymax",
        lambda value: isinstance(value, tuple) and len(value) == 4 and all(map(_is_number, value)),
    ),
    "within": ("a path of a file of polygons", lambda value: isinstance(value, str)),
    "normalized": ("true or false", lambda value: isinstance(value, bool)),
    "simulated": ("true or false", lambda value: isinstance(value, bool)),
    "crs": ("a CRS such as EPSG:2154", lambda value: isinstance(value, str) or type(value) is int),
    "kind": (f"one of {', '.join(RASTER_KINDS)}", lambda value: isinstance(value, str)),
    "bands": ("a path, or the name of a known sensor", lambda value: isinstance(value, str)),
    "reader": ("module:function, or file.py:function", lambda value: isinstance(value, str)),
    "options": ("a mapping", lambda value: isinstance(value, dict)),
    "rasters": ("a mapping from sensor names to sources", lambda value: isinstance(value, dict)),
}


def expand(patterns: Iterable[str], suffixes: tuple[str, ...]) -> list[str]:
    """Files behind paths, folders, patterns and fsspec URLs of them, sorted, each once.

    Raises
    ------
    InputError
        One matches nothing, or its place cannot be reached.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = _remote_files(pattern, suffixes) if is_url(pattern) else _local_files(pattern, suffixes)
        if not matches:
            raise InputError(pattern, "no such file", "check the path or the pattern")
        found.update(dict.fromkeys(matches))
    return sorted(found)


def _local_files(pattern: str, suffixes: tuple[str, ...]) -> list[str]:
    path = Path(pattern)
    if path.is_dir():
        found = [str(item) for item in path.iterdir() if item.suffix.lower() in suffixes]
        if not found:
            raise InputError(pattern, f"the folder holds no {' or '.join(suffixes)} file", "check the path")
        return found
    return [pattern] if path.exists() else glob.glob(pattern, recursive=True)


def _remote_files(pattern: str, suffixes: tuple[str, ...]) -> list[str]:
    """Web servers list no folders: there a URL is a file."""
    if pattern.startswith(("http://", "https://")):
        return [pattern]
    with reaching(pattern):
        fs, path = filesystem(pattern)
        if glob.has_magic(path):
            names = fs.glob(path)
        elif fs.isdir(path):
            names = [name for name in fs.ls(path, detail=False) if name.lower().endswith(suffixes)]
        else:
            names = [path] if fs.exists(path) else []
        return [str(fs.unstrip_protocol(name)) for name in names]


def describe_file(path: str) -> dict[str, Any]:
    """Name, bytes and modification time (ns; 0 where a server keeps it to itself) of a source, for provenance and resume.

    Raises
    ------
    InputError
        There is no such file, or it cannot be reached.
    """
    if is_url(path):
        with reaching(path):
            fs, name = filesystem(path)
            facts = fs.info(name)
            written = written_at(facts)
            when = 0 if written is None else round(written.timestamp() * 1e9)
            return {"path": path, "size": int(facts.get("size") or 0), "mtime_ns": when}
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise InputError(path, error.strerror or "cannot be read", "check the path") from None
    return {"path": path, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def configuration(scene: Scene) -> dict[str, Any]:
    """The scene as plain types, for the store's attributes."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(scene)))
    return plain


def configuration_hash(scene: Scene, files: list[dict[str, Any]], version: str) -> str:
    """Hash of what determines a store's content: configuration, files and code version."""
    text = json.dumps([configuration(scene), files, version], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_files(scene: Scene, als: list[str], gedi: list[str]) -> Scene:
    """The scene with patterns replaced by the files they matched."""
    return replace(
        scene, als=scene.als and replace(scene.als, files=tuple(als)), gedi=scene.gedi and replace(scene.gedi, files=tuple(gedi))
    )
