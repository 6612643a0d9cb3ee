"""The page that lies beside a simulated scene: what is in it, and which sensor sees which variable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusion3d.simulate.model import CRS_NAME, FIELDS, GEOID, SPECIES, Site


@dataclass(frozen=True)
class Visibility:
    """Which sensors can tell a variable; `truth` is the raster that holds it."""

    truth: str
    what: str
    sensors: tuple[str, ...]


VISIBILITY = (
    Visibility("understorey", FIELDS["understorey"], ("als",)),
    Visibility("litter_1064", FIELDS["litter_1064"], ("gedi",)),
    Visibility("row_direction", FIELDS["row_direction"], ("ortho",)),
    Visibility("lignin", FIELDS["lignin"], ("hsi",)),
    Visibility("mowing_day", FIELDS["mowing_day"], ("s2",)),
    Visibility("soil_moisture", FIELDS["soil_moisture"], ("s1",)),
    Visibility("greenup_shift", FIELDS["greenup_shift"], ("s2", "s1")),
    Visibility("canopy_height", "greatest height of the crowns above ground, m", ("als", "gedi", "ortho")),
    Visibility("canopy_cover", "share of the ground under crowns higher than 2 m", ("als", "hsi", "ortho", "s2")),
    Visibility("agb", "above-ground dry biomass, Mg/ha", ("als", "gedi", "s1")),
    Visibility("species", "tree species", ("als", "hsi", "ortho", "s2")),
    Visibility("land_cover", "what the ground is used for", ("als", "hsi", "ortho", "s1", "s2")),
)
"""By construction of the scene. A private variable is one with a single sensor. The understorey enters GEDI's waveforms too, but
their pulse is 2.3 m long and the ground under a footprint is not flat: what returns from it merges with the ground's return."""


def guide(site: Site, sensors: Sequence[str]) -> str:
    """The page, in Markdown."""
    rows = "\n".join(
        f"| {item.truth} | {item.what} | {', '.join(item.sensors)}{' (private)' if len(item.sensors) == 1 else ''} |"
        for item in VISIBILITY
    )
    species = ", ".join(f"{number + 1} {item.name}" for number, item in enumerate(SPECIES))
    names = ", ".join(sensors)
    return f"""# A simulated scene

{site.size} x {site.size} m, seed {site.seed}, year {site.year} ({site.calendar_year}), CRS {CRS_NAME}; sensors: {names}.

**Simulated data: figures from it show that a mechanism works, not how useful it is on real ground.**

    fusion3d prepare scene.yaml --out scene.zarr

Heights are above sea level; GEDI's are above the ellipsoid, {GEOID:g} m more. `labels/` is what people noted, with their errors;
`truth/` is what is so: use it to check results, never to train. Species in `truth/species.tif`: {species}.

## Which sensor sees which variable

| truth | what it is | sensors |
|---|---|---|
{rows}

GEDI's pulse is 2.3 m long: the understorey enters its waveforms, but merges with the return of the ground.

The rest is noise of the sensors. No variable is a copy of another, and a private one cannot be predicted from other sensors.
"""
