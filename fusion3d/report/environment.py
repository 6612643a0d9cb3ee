"""With what the report was made, and the configuration that the run resolved."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from fusion3d import __version__
from fusion3d.report.markup import folded, missing, table, text

_PACKAGES = ("torch", "lightning", "numpy", "zarr", "rasterio", "pyproj", "matplotlib", "open3d-cpu", "open3d")


def environment() -> list[tuple[str, str]]:
    """Versions by name; nothing that tells one machine of a kind from another."""
    found = [("fusion3d", __version__), ("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return [*found, ("operating system", f"{platform.system()} {platform.machine()}")]


def environment_section(configuration: str | None, command: str) -> str:
    body = table(["program", "version"], [list(row) for row in environment()], left=2, caption="At the time of this report")
    if configuration is None:
        return body + missing("This run has no resolved configuration (config.yaml)", command)
    return body + folded("Resolved configuration of the run (config.yaml)", f"<pre>{text(configuration)}</pre>")
