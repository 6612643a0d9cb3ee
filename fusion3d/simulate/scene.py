"""A whole scene on disk, tile by tile: it appears under its name when everything is written.

::

    DIR/scene.yaml    what `fusion3d prepare` reads
    DIR/README.md     what is in it, and which sensor sees which variable
    DIR/als, ortho, hsi, s2, s1_asc, s1_desc, gedi    what the sensors recorded
    DIR/labels        what people on the ground noted, with their errors
    DIR/truth         what is so; for tests and plots, never for training
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fusion3d import __version__
from fusion3d.errors import ConfigError, InputError
from fusion3d.simulate.guide import guide
from fusion3d.simulate.model import CRS_NAME, TILE, Product, Site, Tile

RECORD = "simulation.json"
"""File that says how a scene was made; a folder with it may be replaced by another scene."""
ORTHO_PIXELS = (0.1, 0.2, 0.4)
SENSORS = ("als", "ortho", "hsi", "s2", "s1", "gedi")


@dataclass(frozen=True)
class SceneOptions:
    """What the sensors do.

    Parameters
    ----------
    density : pulses of the aerial LiDAR, per m2
    passes : of GEDI over the scene
    plots : field plots per km2
    ortho_pixel : metres, of the orthoimage; the rows of crops need 0.4 or less
    sensors : of `SENSORS`, those to simulate; truth and labels are always written
    """

    density: float = 8.0
    passes: int = 4
    plots: int = 60
    ortho_pixel: float = 0.2
    sensors: tuple[str, ...] = SENSORS

    def __post_init__(self) -> None:
        unknown = [name for name in self.sensors if name not in SENSORS]
        if unknown or not self.sensors:
            raise ConfigError(f"--sensors {','.join(unknown) or 'none'}: choose among {', '.join(SENSORS)}")
        if not 0 < self.density <= 200:
            raise ConfigError(f"--density {self.density:g} must be above 0 and at most 200 pulses per m2")
        if self.ortho_pixel not in ORTHO_PIXELS:
            raise ConfigError(f"--ortho-pixel {self.ortho_pixel:g}: choose among {', '.join(map(str, ORTHO_PIXELS))} m")
        if self.passes < 1 or self.passes > 200:
            raise ConfigError(f"--passes {self.passes} must be 1 to 200")
        if self.plots < 0 or self.plots > 500:
            raise ConfigError(f"--plots {self.plots} must be 0 to 500 per km2")


@dataclass(frozen=True)
class SceneSummary:
    """What was written; `seconds` is wall time by product."""

    out: Path
    site: Site
    files: int
    size: int
    seconds: dict[str, float]

    def __str__(self) -> str:
        slowest = ", ".join(f"{name} {value:.0f} s" for name, value in sorted(self.seconds.items(), key=lambda item: -item[1]))
        return (
            f"{self.site.size} x {self.site.size} m, seed {self.site.seed}, year {self.site.year}: {self.files} files, "
            f"{self.size / 1e6:.0f} MB in {sum(self.seconds.values()):.0f} s ({slowest})\n"
            "simulated data: figures from it show that a mechanism works, not how useful it is on real ground\n"
            f"scene: {self.out / 'scene.yaml'}"
        )


def simulate(
    site: Site, out: str | Path, options: SceneOptions | None = None, *, overwrite: bool = False, quiet: bool = False
) -> SceneSummary:
    """Write a scene.

    Parameters
    ----------
    site : which scene
    out : folder; must not exist, or be empty, or hold a simulated scene and `overwrite`
    quiet : no progress bar

    Raises
    ------
    ConfigError, InputError
        The options contradict each other, `out` holds something else, or the disk is full; no half scene is left.
    """
    options = options or SceneOptions()
    try:
        # of a link, the folder that it names; of ".", a name
        out = Path(out).resolve()
        _check(out, overwrite)
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.draft")
        draft.mkdir()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(out, f"cannot be made ({reason})", "check the path and the rights to it") from None
    try:
        seconds = _write_products(site, draft, options, quiet)
        (draft / "scene.yaml").write_text(_scene_yaml(options))
        (draft / "README.md").write_text(guide(site, options.sensors))
        files = {str(path.relative_to(draft)): path.stat().st_size for path in sorted(draft.rglob("*")) if path.is_file()}
        record = {"fusion3d": __version__, "site": asdict(site), "options": asdict(options), "files": files}
        (draft / RECORD).write_text(json.dumps(record, indent=1))
        _put_in_place(draft, out, overwrite)
    except InputError as error:
        told = None if error.path is None else error.path.replace(str(draft), str(out))
        raise InputError(told, error.problem, error.remedy) from None
    except OSError as error:
        raise InputError(
            out, f"cannot be written ({error.strerror or error})", "free disk space or give another folder"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return SceneSummary(out, site, len(files), sum(files.values()), seconds)


def _check(out: Path, overwrite: bool) -> None:
    """Refuse a folder that holds anything but a scene that may be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(out, "is a file, not a folder", "give another --out")
    found = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir() or path.is_symlink()}
    if not found:
        return
    written = _written(out / RECORD)
    if written is None:
        raise InputError(out, "holds files that are no simulated scene", "give another --out")
    if not overwrite:
        raise InputError(out, "holds a simulated scene already", "give another --out, or --overwrite to replace it")
    others = sorted(found - written)
    if others:
        some = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
        raise InputError(out, f"holds files that its scene did not write ({some})", "move them away, or give another --out")


def _written(record: Path) -> set[str] | None:
    """Files of the scene that a record lies beside; None when it is no record of a scene."""
    try:
        raw = json.loads(record.read_text())
        return {*raw["files"], RECORD} if isinstance(raw["files"], dict) and "site" in raw and "fusion3d" in raw else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _put_in_place(draft: Path, out: Path, overwrite: bool) -> None:
    _check(out, overwrite)  # the folder may have been filled meanwhile
    old = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.old")
    replaced = out.exists() and any(out.iterdir())
    try:
        if replaced:
            os.replace(out, old)
        os.replace(draft, out)
    except OSError as error:
        if replaced and old.exists() and not out.exists():
            os.replace(old, out)
        raise InputError(out, f"cannot be put in place ({error.strerror or error})", "give another --out") from None
    shutil.rmtree(old, ignore_errors=True)


def products(site: Site, folder: Path, options: SceneOptions) -> dict[str, Product]:
    """A product by name, the order in which a tile goes through them."""
    from fusion3d.simulate.als import AlsWriter
    from fusion3d.simulate.gedi import GediWriter
    from fusion3d.simulate.hyperspectral import HsiWriter
    from fusion3d.simulate.labels import LabelWriter
    from fusion3d.simulate.ortho import OrthoWriter
    from fusion3d.simulate.radar import Sentinel1Writer
    from fusion3d.simulate.sentinel2 import Sentinel2Writer
    from fusion3d.simulate.truth import TruthWriter

    makers: dict[str, Callable[[], Product]] = {
        "als": lambda: AlsWriter(site, folder, density=options.density),
        "ortho": lambda: OrthoWriter(site, folder, pixel=options.ortho_pixel),
        "hsi": lambda: HsiWriter(site, folder),
        "s2": lambda: Sentinel2Writer(site, folder),
        "s1": lambda: Sentinel1Writer(site, folder),
        "gedi": lambda: GediWriter(site, folder, passes=options.passes),
    }
    chosen = {name: makers[name]() for name in SENSORS if name in options.sensors}
    return {
        "truth": TruthWriter(site, folder),
        "labels": LabelWriter(site, folder, plots_per_km2=options.plots),
        **chosen,
    }


def _write_products(site: Site, folder: Path, options: SceneOptions, quiet: bool) -> dict[str, float]:
    from fusion3d.simulate.landscape import Landscape

    land = Landscape(site)
    made = products(site, folder, options)
    margin = max(product.margin for product in made.values())
    seconds = dict.fromkeys([*made, "finishing"], 0.0)
    with ExitStack() as stack, _progress(quiet) as bars:
        for product in made.values():
            stack.enter_context(product)
        tiles = site.tiles(TILE)
        bar = bars.add_task("simulate", total=len(tiles) * len(made))
        for core in tiles:
            tile = Tile(site, land, core, margin)
            for name, product in made.items():
                began = time.monotonic()
                bars.update(bar, description=f"simulate {name}")
                product.add(tile)
                seconds[name] += time.monotonic() - began
                bars.advance(bar)
        bars.update(bar, description="finishing files")
        began = time.monotonic()
        stack.close()
        seconds["finishing"] = time.monotonic() - began
    return seconds


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


def _scene_yaml(options: SceneOptions) -> str:
    """The scene as `fusion3d prepare` reads it."""
    folders = {"ortho": ("ortho",), "hsi": ("hsi",), "s2": ("s2",), "s1": ("s1_asc", "s1_desc")}
    rasters = {
        folder: {"files": f"{folder}/*.tif", "kind": "backscatter" if sensor == "s1" else "reflectance"}
        for sensor in options.sensors
        for folder in folders.get(sensor, ())
    }
    scene: dict[str, object] = {"crs": CRS_NAME, "simulated": True, "column": 10, "voxel": 0.5}
    if "als" in options.sensors:
        scene["als"] = {"files": "als/*.laz"}
    if rasters:
        scene["rasters"] = rasters
    if "gedi" in options.sensors:
        scene["gedi"] = {"files": "gedi/*.h5"}
    return "# fusion3d prepare scene.yaml --out scene.zarr\n" + yaml.safe_dump(scene, sort_keys=False)
