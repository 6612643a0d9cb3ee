"""How far training stays from what is held out: as far as the encoders see.

A held-out column is embedded from all that lies within the receptive field around it. With a margin of that width no encoder has
been trained on any of it.
"""

from __future__ import annotations

from collections.abc import Callable

from fusion3d.data.split import Mask, Split
from fusion3d.errors import ConfigError
from fusion3d.store import Store

_LEAST = 0.25
"""Share of the columns not held out that training must be able to use; below it, the margin gives way."""


def coarsest_pixel(store: Store, sensors: tuple[str, ...]) -> int:
    """Columns a side of the largest pixel that is read."""
    rasters = store.attributes.rasters
    return max([1, *(layout.columns_per_pixel for name, layout in rasters.items() if name in sensors)])


def wanted_margin(store: Store, sensors: tuple[str, ...], receptive_field: int) -> int:
    """Columns between training and held-out columns so that they share no input: a pixel larger than a column reaches farther."""
    return receptive_field + coarsest_pixel(store, sensors) - 1


def hold_out_with_margin(draw: Callable[[int], Split], wanted: int, observed: Mask, chip: int) -> Split:
    """The split with the widest margin, at most `wanted`, that leaves enough for training.

    Parameters
    ----------
    draw : a split with a margin of so many columns
    chip : columns a side

    Raises
    ------
    ConfigError
        Not even a margin of one column fits.
    """
    for margin in range(wanted, 1, -1):
        try:
            split = draw(margin)
        except ConfigError:
            continue
        if split.left(observed, chip) >= _LEAST:
            return split
    return draw(min(1, wanted))


def margin_warning(path: str, asked: int | None, margin: int, wanted: int) -> str | None:
    """One line when the margin is narrower than what the encoders see.

    Parameters
    ----------
    asked : columns asked for by the user; None when the margin was chosen
    """
    if margin >= wanted:
        return None
    see = f"held-out columns within {wanted - margin} columns of the margin see some that were trained on"
    if asked is not None:
        return f"{path}: --data.buffer {asked} is less than the {wanted} columns around a column that the encoders see: {see}"
    return (
        f"{path}: too small to keep {wanted} columns, as far as the encoders see, around what is held out; the margin is "
        f"{margin}, so {see}; take a smaller --model.preset, --data.size or --data.holdout, or a larger scene"
    )
