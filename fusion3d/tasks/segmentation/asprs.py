"""Point classes of ASPRS LAS 1.4 R15 (table 17): names, colours, and those that say nothing of what a point is."""

from __future__ import annotations

from collections.abc import Iterable

from fusion3d.errors import ConfigError
from fusion3d.tasks.classes.legend import Legend, legend_of

UNCLASSIFIED = 1
UNLEARNED = (0, 1, 7, 12, 18)
"""Never classified, unclassified, low noise, overlap and high noise: not learned unless they are asked for."""
_NAMES = {
    0: "never classified", 1: "unclassified", 2: "ground", 3: "low vegetation", 4: "medium vegetation", 5: "high vegetation",
    6: "building", 7: "low noise", 8: "key point", 9: "water", 10: "rail", 11: "road", 12: "overlap", 13: "wire guard",
    14: "wire conductor", 15: "transmission tower", 16: "wire connector", 17: "bridge deck", 18: "high noise",
    19: "overhead structure", 20: "ignored ground", 21: "snow", 22: "temporal exclusion",
}  # fmt: skip
_COLOURS = {
    2: "#a6795b", 3: "#c5e08b", 4: "#79b84f", 5: "#1f6b2e", 6: "#d62f2f", 9: "#3b7fc4", 10: "#7a5195", 11: "#6e6e73",
    14: "#e69f00", 15: "#8c6d31", 17: "#56b4e9",
}  # fmt: skip


def class_name(code: int) -> str:
    """Name of a class of LAS: "building" for 6, "class 64" for one that producers define themselves."""
    return _NAMES.get(code, f"class {code}")


def point_legend(codes: Iterable[int]) -> Legend:
    """The legend of classes of points."""
    named = {class_name(code): code for code in codes}
    return legend_of(list(named), named, {class_name(code): colour for code, colour in _COLOURS.items()})


def parse_classes(text: str) -> tuple[int, ...]:
    """Codes from "2,5,6", rising.

    Raises
    ------
    ConfigError
        It is no such list, or names fewer than two classes.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) <= 254 for part in parts) or len(set(parts)) < 2:
        raise ConfigError(f"--classes {text}: give two or more classes of LAS, 0 to 254, as 2,5,6")
    return tuple(sorted({int(part) for part in parts}))
