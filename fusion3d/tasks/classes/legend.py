"""The classes of a task: codes, names and colours, from a user's table, a raster's own categories, or names alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fusion3d.errors import ConfigError, InputError, one_line

MOST_CLASSES = 254
"""Codes of one byte, less 0 and 255, one of which says that there is no class."""
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_KNOWN = {
    "water": "#3b7fc4", "river": "#3b7fc4", "lake": "#3b7fc4", "building": "#b3262b", "residential": "#d96b5f",
    "road": "#6e6e73", "highway": "#6e6e73", "grass": "#a9d66f", "meadow": "#a9d66f", "winter crop": "#e8c547",
    "summer crop": "#d98a2b", "farmland": "#e8c547", "crop": "#e8c547", "forest": "#2f7d3a", "wood": "#2f7d3a",
    "clearcut": "#a6795b", "shrub": "#8aa34f", "bare": "#c9b79c", "wetland": "#5fb3a8", "snow": "#dfe9f2",
}  # fmt: skip
_CYCLE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#4d4d4d", "#8c6d31", "#bd9e39", "#ad494a",
    "#a55194", "#637939", "#3182bd", "#fd8d3c", "#74c476", "#9e9ac8", "#969696",
)  # fmt: skip
"""Okabe and Ito (2008) first, which colour-blind readers tell apart."""


@dataclass(frozen=True)
class Legend:
    """Classes in the order of their codes.

    Attributes
    ----------
    codes : [K] rising, 0 to 254 in a map's pixels
    names : [K], unique
    colours : [K] as "#rrggbb"
    """

    codes: tuple[int, ...]
    names: tuple[str, ...]
    colours: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.codes) == len(self.names) == len(self.colours) or not self.codes:
            raise ConfigError("codes, names and colours of classes are not of one length, or there are none")
        if list(self.codes) != sorted(set(self.codes)) or self.codes[0] < 0 or self.codes[-1] > MOST_CLASSES:
            raise ConfigError(f"codes of classes must rise, from 0 to {MOST_CLASSES}")
        if len(set(self.names)) != len(self.names) or not all(self.names):
            raise ConfigError("names of classes must differ")
        if not all(_COLOUR.fullmatch(colour) for colour in self.colours):
            raise ConfigError("colours of classes are written as #rrggbb")

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def nodata(self) -> int:
        """The code of no class: 0, or 255 where 0 is a class."""
        return 255 if self.codes[0] == 0 else 0


@dataclass(frozen=True)
class ClassNames:
    """What a user or a raster says of classes.

    Attributes
    ----------
    names : of a class by the text of a label (a code as "4")
    colours : by name, "#rrggbb"
    complete : labels that are not named are no classes
    """

    names: Mapping[str, str] = field(default_factory=dict)
    colours: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False


def read_class_names(path: str | Path) -> ClassNames:
    """A table of classes in YAML: `label: name`, or `label: {name: ..., colour: "#rrggbb"}`; labels of one name are one class.

    Raises
    ------
    InputError
        It is missing or no such table.
    """
    names, colours = {}, {}
    for label, value in _mapping(path, "4: grass").items():
        plain = value if isinstance(value, dict) else {"name": value}
        name, colour = plain.get("name"), plain.get("colour", plain.get("color"))
        if not isinstance(name, str) or not name.strip():
            raise InputError(path, f"gives {label!r} no name", "write a line `label: name` for each class")
        if colour is not None and not (isinstance(colour, str) and _COLOUR.fullmatch(colour)):
            raise InputError(path, f"the colour of {label!r} is {colour!r}", 'write it as "#rrggbb"')
        names[label.strip()] = name.strip()
        if colour is not None:
            colours[name.strip()] = colour.lower()
    return ClassNames(names, colours, complete=True)


def read_confidence(path: str | Path) -> dict[str, float]:
    """How far the labels of a class are trusted, 0 to 1, by its name or code: YAML, `name: 0.6`.

    Raises
    ------
    InputError
        It is missing, no such table, or a number is out of range.
    """
    found = {}
    for name, value in _mapping(path, "forest: 0.8").items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not 0.0 <= number <= 1.0:
            raise InputError(path, f"the confidence of {name!r} is {value!r}", "give numbers from 0 to 1")
        found[name.strip()] = number
    return found


def _mapping(path: str | Path, example: str) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such file", "check the path")
    try:
        # as text: `yes: building` is no boolean here, and 01 keeps its zero
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(path, f"cannot be read as YAML ({one_line(error)})", "check its lines") from None
    if not isinstance(found, dict) or not found or not all(isinstance(key, str) for key in found):
        raise InputError(path, "is no table of classes", f"write a line such as `{example}` for each class")
    return found


def legend_of(names: Sequence[str], codes: Mapping[str, int], colours: Mapping[str, str]) -> Legend:
    """A legend of named classes, by code where each has one that fits into a byte, else numbered from 1 by name."""
    kept = sorted(set(names))
    fitting = all(name in codes and 0 <= codes[name] <= MOST_CLASSES for name in kept)
    if fitting and len({codes[name] for name in kept}) == len(kept):
        kept.sort(key=lambda name: codes[name])
        numbers = tuple(codes[name] for name in kept)
    else:
        numbers = tuple(range(1, len(kept) + 1))
    return Legend(numbers, tuple(kept), _colours(kept, colours))


def _colours(names: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        plain = " ".join(re.split(r"[^a-z]+", name.lower().rpartition("=")[2])).strip()
        wanted = given.get(name) or _KNOWN.get(plain)
        if wanted is None or (name not in given and wanted in found):
            wanted = next((colour for colour in _CYCLE if colour not in found), _CYCLE[len(found) % len(_CYCLE)])
        found.append(wanted.lower())
    return tuple(found)
