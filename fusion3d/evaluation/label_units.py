"""Whether two ways to write a unit mean the same."""

from __future__ import annotations

from pathlib import Path

from fusion3d.errors import InputError

_PER_HECTARE = ("/ha", "ha-1", "ha^-1", "ha**-1", "perha")
_AMOUNTS = {"Mg": "Mg", "t": "Mg", "tonne": "Mg", "tonnes": "Mg", "kg": "kg", "m2": "m2", "m3": "m3"}


def plain_unit(text: str) -> str:
    """A unit in one way of writing: "t ha-1" and "Mg / ha" become "Mg/ha"; others stay, without spaces."""
    superscripts = str.maketrans({"²": "2", "³": "3", "⁻": "-", "¹": "1"})
    joined = "".join(text.translate(superscripts).replace("·", "").split())
    for ending in _PER_HECTARE:
        head = joined[: -len(ending)].rstrip(".*")
        if joined.endswith(ending) and head in _AMOUNTS:
            return f"{_AMOUNTS[head]}/ha"
    return joined


def agreed_unit(path: str | Path, stated: str, asked: str | None) -> str:
    """The unit of labels that state one themselves, "" when nobody does.

    Raises
    ------
    InputError
        --unit says something else than the file.
    """
    # "1" is what many programs write where nobody said a unit
    stated = "" if stated.strip() == "1" else stated
    if stated and asked and plain_unit(stated) != plain_unit(asked):
        raise InputError(path, f"its values are in {stated}, --unit says {asked}", "leave --unit away, or convert the values")
    return asked or (plain_unit(stated) if stated else "")
