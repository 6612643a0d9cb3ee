"""Names and colours that a raster of classes gives to its codes: categories of GDAL, tags `class_4`, or a tag MEANING."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import rasterio
import rasterio.shutil
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from fusion3d.tasks.classes.legend import ClassNames

_TAG = re.compile(r"class_(\d+)", re.IGNORECASE)
_MEANING = re.compile(r"(\d+)\s+(\S.*)")


def raster_categories(path: str | Path) -> ClassNames:
    """What the first band says of its codes; empty where it says nothing."""
    names: dict[str, str] = {}
    try:
        with rasterio.open(path) as dataset:
            tags = {**dataset.tags(), **dataset.tags(1)}
            colormap = _colormap(dataset)
            categories = _gdal_categories(dataset)
    except (RasterioError, OSError):
        return ClassNames()
    for name, value in tags.items():
        if name.upper() == "MEANING":
            meant = (_MEANING.fullmatch(part.strip()) for part in value.split(";"))
            names |= {each.group(1): each.group(2).strip() for each in meant if each}
    names |= {str(code): name for code, name in enumerate(categories) if name}
    names |= {str(int(found.group(1))): value.strip() for name, value in tags.items() if (found := _TAG.fullmatch(name))}
    doubled = {name for name in names.values() if list(names.values()).count(name) > 1}
    names = {code: f"{name} ({code})" if name in doubled else name for code, name in names.items()}
    return ClassNames(names, {name: colormap[code] for code, name in names.items() if code in colormap})


def _colormap(dataset: rasterio.DatasetReader) -> dict[str, str]:
    try:
        table = dataset.colormap(1)
    except ValueError:
        return {}
    # black is what tables hold where they say nothing
    return {str(code): "#{:02x}{:02x}{:02x}".format(*colour[:3]) for code, colour in table.items() if any(colour[:3])}


def _gdal_categories(dataset: rasterio.DatasetReader) -> list[str]:
    """Names by code; GDAL tells them in the XML of a virtual copy, whatever the format keeps them in."""
    try:
        with MemoryFile(ext=".vrt") as memory:
            rasterio.shutil.copy(dataset, memory.name, driver="VRT")
            text = memory.read()
        band = ElementTree.fromstring(text).find("VRTRasterBand")
        parts = None if band is None else band.find("CategoryNames")
    except (RasterioError, OSError, ElementTree.ParseError):
        return []
    return [] if parts is None else [(part.text or "").strip() for part in parts.findall("Category")]
