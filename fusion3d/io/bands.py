"""What a raster's channels are: wavelength and polarisation from metadata, from a sidecar file, or from the sensor's name.

A sidecar is a YAML file, found by itself when it lies beside ``image.tif`` as ``image.bands.yaml``. It holds either the name of a
known sensor, or one entry per band, or (hyperspectral) just the wavelengths, in nanometres::

    sensor: s2

    bands:
      - {name: red, wavelength: 660, fwhm: 60}
      - {name: VV, polarisation: VV}

    wavelengths: {first: 381.4, step: 5.01}    # or a list
    fwhm: 5.8                                  # or a list
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fusion3d.errors import ConfigError, InputError


@dataclass(frozen=True)
class Band:
    """One channel of a raster sensor.

    wavelength and fwhm in nanometres (None when the band is not optical); polarisation "VV", "VH", "HH", "HV" or None.
    """

    name: str
    wavelength: float | None = None
    fwhm: float | None = None
    polarisation: str | None = None


SENTINEL2 = (
    Band("B1", 442.7, 20.0),
    Band("B2", 492.7, 65.0),
    Band("B3", 559.8, 35.0),
    Band("B4", 664.6, 30.0),
    Band("B5", 704.1, 14.0),
    Band("B6", 740.5, 14.0),
    Band("B7", 782.8, 19.0),
    Band("B8", 832.8, 105.0),
    Band("B8A", 864.7, 21.0),
    Band("B9", 945.1, 19.0),
    Band("B10", 1373.5, 29.0),
    Band("B11", 1613.7, 90.0),
    Band("B12", 2202.4, 174.0),
)
"""Sentinel-2A, from ESA's table of spectral response functions."""

RED, GREEN, BLUE, NIR = (
    Band("red", 660.0, 60.0),
    Band("green", 560.0, 70.0),
    Band("blue", 480.0, 70.0),
    Band("nir", 830.0, 120.0),
)
"""Nominal bands of a digital aerial camera; cameras differ by some tens of nanometres, a sidecar can say better."""

SENTINEL1 = (Band("VV", polarisation="VV"), Band("VH", polarisation="VH"))

_S2 = {band.name: band for band in SENTINEL2}
_POLARISATIONS = ("VV", "VH", "HH", "HV")
_NAMED = {band.name: band for band in (RED, GREEN, BLUE, NIR)} | {"near infrared": NIR, "near_infrared": NIR, "infrared": NIR}
_NM_PER_UNIT = {"nm": 1.0, "nanometers": 1.0, "nanometres": 1.0, "nanometer": 1.0, "nanometre": 1.0, "um": 1e3, "µm": 1e3,
                "μm": 1e3, "micrometers": 1e3, "micrometres": 1e3, "micrometer": 1e3, "micrometre": 1e3, "microns": 1e3,
                "micron": 1e3}  # fmt: skip


def _s2(*names: str) -> tuple[Band, ...]:
    return tuple(_S2[name] for name in names)


KNOWN_SENSORS: dict[str, tuple[tuple[Band, ...], ...]] = {
    "s2": (
        SENTINEL2,
        tuple(band for band in SENTINEL2 if band.name != "B10"),
        _s2("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"),
        _s2("B2", "B3", "B4", "B8"),
    ),
    "s1": (SENTINEL1, SENTINEL1[:1]),
    "rgb": ((RED, GREEN, BLUE),),
    "rgbn": ((RED, GREEN, BLUE, NIR),),
    "irc": ((NIR, RED, GREEN),),
}
"""Usual band orders of a sensor, one per number of bands: Sentinel-2 with all 13, without B10 (level 2A), the ten of 10 and 20 m,
or the four of 10 m."""


def known_bands(sensor: str, count: int) -> tuple[Band, ...]:
    """The bands of a known sensor when a file holds `count` of them in the usual order.

    Raises
    ------
    ConfigError
        The sensor is not known, or never has that many bands.
    """
    layouts = KNOWN_SENSORS.get(sensor.lower())
    if layouts is None:
        raise ConfigError(f"{sensor!r} is not a known sensor ({', '.join(KNOWN_SENSORS)}); name the bands in a sidecar YAML")
    for layout in layouts:
        if len(layout) == count:
            return layout
    usual = " or ".join(str(len(layout)) for layout in layouts)
    raise ConfigError(f"{sensor} has {usual} bands in its usual orders, not {count}; name the bands in a sidecar YAML")


def band_from_name(name: str) -> Band:
    """The band that a channel's name tells of ("B08" of Sentinel-2, "VV", "red"); with the name only when it tells nothing."""
    text = name.strip()
    sentinel2 = _sentinel2_name(text)
    if sentinel2:
        return Band(text, _S2[sentinel2].wavelength, _S2[sentinel2].fwhm)
    nominal = _NAMED.get(text.lower())
    if nominal is not None:
        return Band(text, nominal.wavelength, nominal.fwhm)
    for part in re.split(r"[^A-Za-z]+", text.upper()):
        if part in _POLARISATIONS:
            return Band(text, polarisation=part)
    return Band(text)


def _sentinel2_name(text: str) -> str | None:
    match = re.fullmatch(r"B0?(\d{1,2}|8A)", text)
    return f"B{match.group(1)}" if match and f"B{match.group(1)}" in _S2 else None


def _from_labels(labels: Sequence[str]) -> list[Band]:
    # Landsat and many others number their bands B1, B2, ... too: only a set that no other sensor has is Sentinel-2's.
    numbered = {_sentinel2_name(label) for label in labels}
    is_sentinel2 = bool(numbered & {"B8A", "B12"}) or numbered == {"B2", "B3", "B4", "B8"}
    return [Band(label) if _sentinel2_name(label) and not is_sentinel2 else band_from_name(label) for label in labels]


def bands_from_metadata(descriptions: Sequence[str | None], band_tags: Sequence[Mapping[str, str]],
                        header: Mapping[str, str] | None = None, colors: Sequence[str] = ()) -> tuple[Band, ...]:  # fmt: skip
    """Bands from what GDAL tells of a file.

    Parameters
    ----------
    descriptions : per band, as GDAL gives them
    band_tags : per band, all metadata domains merged; `wavelength`, `wavelength_units`, `fwhm` and GDAL's
        `CENTRAL_WAVELENGTH_UM` and `FWHM_UM` are understood
    header : the ENVI header: `wavelength`, `fwhm`, `wavelength_units`, `band_names`
    colors : per band colour interpretation ("red", ...), used when nothing else says what the bands are

    Notes
    -----
    A wavelength without a unit is in nanometres when it is above 100 and in micrometres otherwise.
    """
    count = len(descriptions)
    head = {key.lower().replace(" ", "_"): value for key, value in (header or {}).items()}
    wavelengths, widths, names = (_envi_list(head.get(key), count) for key in ("wavelength", "fwhm", "band_names"))
    # A name shared by all bands (stackstac writes its graph's) names none of them.
    shared = count > 1 and len(set(descriptions)) == 1
    labels = [((None if shared else descriptions[i]) or names[i] or "").strip() or f"b{i + 1}" for i in range(count)]
    bands = []
    for index, guess in enumerate(_from_labels(labels)):
        tags = {key.lower(): value for key, value in band_tags[index].items()} if index < len(band_tags) else {}
        unit = tags.get("wavelength_units") or head.get("wavelength_units")
        written = tags.get("wavelength") or wavelengths[index]
        # GDAL rounds its own tag to the nanometre: what the file states comes first.
        wavelength = _nanometres(written, unit) or _micrometres(tags.get("central_wavelength_um"))
        if wavelength is None:
            bands.append(guess)
            continue
        # A width has its wavelength's unit: on its own, 0.02 and 20 could both be taken for either.
        implied = unit or ("um" if _number(written, 1e9) <= 100 else "nm")
        fwhm = _nanometres(tags.get("fwhm") or widths[index], implied) or _micrometres(tags.get("fwhm_um"))
        bands.append(Band(guess.name, wavelength, fwhm))
    silent = all(band == Band(f"b{index + 1}") for index, band in enumerate(bands))
    if silent and colors:
        return tuple(_NAMED.get(color, band) for color, band in zip(colors, bands, strict=True))
    return tuple(bands)


def _envi_list(text: str | None, count: int) -> list[str | None]:
    if not text:
        return [None] * count
    values: list[str | None] = [item.strip() for item in text.strip().strip("{}").split(",")]
    return values if len(values) == count else [None] * count


def _number(text: object, default: float) -> float:
    try:
        return float(str(text).split()[0])
    except (ValueError, IndexError):
        return default


def _micrometres(text: object) -> float | None:
    value = _number(text, float("nan"))
    return value * 1e3 if value > 0 else None


def _nanometres(text: object, unit: str | None) -> float | None:
    value = _number(text, float("nan"))
    if not value > 0:
        return None
    factor = _NM_PER_UNIT.get((unit or "").strip().lower())
    if factor is None:
        factor = 1.0 if value > 100 else 1e3
    return value * factor


def read_sidecar(path: str | Path, count: int) -> tuple[Band, ...]:
    """Bands from a sidecar YAML (see the head of this file) for an image of `count` bands.

    Raises
    ------
    InputError
        The file is missing, is not such a YAML, or does not describe `count` bands.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "give the path of a band sidecar YAML") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError(path, "is not YAML", "write the bands as in the documentation of fusion3d.io.bands") from None
    if isinstance(content, list):
        content = {"bands": content}
    if not isinstance(content, dict):
        raise InputError(path, "does not describe bands", "give one of the keys sensor, bands or wavelengths")
    try:
        bands = _parse_sidecar(content, count)
    except ConfigError as error:
        raise InputError(path, str(error)) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(path, f"does not describe bands ({error})", "give name, wavelength, fwhm, polarisation") from None
    if len(bands) != count:
        raise InputError(path, f"describes {len(bands)} bands but the image has {count}", "list one entry per band")
    return bands


def _parse_sidecar(content: dict[str, Any], count: int) -> tuple[Band, ...]:
    if "sensor" in content:
        return known_bands(str(content["sensor"]), count)
    if "bands" in content:
        return tuple(_parse_band(entry, index) for index, entry in enumerate(content["bands"]))
    if "wavelengths" not in content:
        raise ConfigError("has none of the keys sensor, bands, wavelengths")
    given = content["wavelengths"]
    if isinstance(given, dict):
        given = [float(given["first"]) + index * float(given["step"]) for index in range(count)]
    widths = content.get("fwhm")
    widths = widths if isinstance(widths, list) else [widths] * len(given)
    if len(widths) != len(given):
        raise ConfigError(f"has {len(given)} wavelengths but {len(widths)} fwhm")
    return tuple(
        Band(f"{float(wavelength):.1f} nm", _positive(wavelength), _positive(width))
        for wavelength, width in zip(given, widths, strict=True)
    )


def _parse_band(entry: object, index: int) -> Band:
    if isinstance(entry, str):
        return band_from_name(entry)
    if not isinstance(entry, dict):
        raise ConfigError(f"band {index + 1} is neither a name nor a mapping")
    unknown = set(entry) - {"name", "wavelength", "fwhm", "polarisation", "polarization"}
    if unknown:
        raise ConfigError(f"band {index + 1} has unknown keys {sorted(map(str, unknown))}")
    polarisation = entry.get("polarisation", entry.get("polarization"))
    if polarisation is not None and polarisation not in _POLARISATIONS:
        raise ConfigError(f"band {index + 1} has polarisation {polarisation!r}, not one of {', '.join(_POLARISATIONS)}")
    name = str(entry.get("name", polarisation or f"b{index + 1}"))
    guess = band_from_name(name) if set(entry) <= {"name"} else Band(name)
    return Band(name, _positive(entry.get("wavelength")) or guess.wavelength, _positive(entry.get("fwhm")) or guess.fwhm,
                polarisation or guess.polarisation)  # fmt: skip


def _positive(value: object) -> float | None:
    if value is None:
        return None
    number = float(value)  # type: ignore[arg-type]
    if not 0 < number < float("inf"):
        raise ConfigError(f"{value} is not a positive number of nanometres")
    return number


def resolve_bands(bands: str | Path | Sequence[Band | str] | None, count: int) -> tuple[Band, ...] | None:
    """Bands as a user gives them: a sidecar's path, a known sensor's name, bands or their names; None when not given.

    Raises
    ------
    InputError
        A sidecar is not usable.
    ConfigError
        The number of bands is not `count`.
    """
    if bands is None:
        return None
    if isinstance(bands, str) and bands.lower() in KNOWN_SENSORS:
        return known_bands(bands, count)
    if isinstance(bands, (str, Path)):
        return read_sidecar(bands, count)
    resolved = tuple(band_from_name(band) if isinstance(band, str) else band for band in bands)
    if len(resolved) != count:
        raise ConfigError(f"{len(resolved)} bands are given but the raster has {count}")
    return resolved


def sidecar_of(path: str | Path) -> Path | None:
    """The sidecar that lies beside an image (``image.bands.yaml``), or None."""
    image = Path(path)
    for candidate in (image.with_suffix(".bands.yaml"), image.with_name(image.name + ".bands.yaml")):
        if candidate.is_file():
            return candidate
    return None
