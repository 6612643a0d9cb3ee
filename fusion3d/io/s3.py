"""S3 for GDAL as s3fs and botocore know it: the same environment variables name the server."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from fusion3d.errors import ConfigError

_ENDPOINTS = ("FSSPEC_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Most specific first."""


def point_gdal_to_s3(path: str) -> None:
    """Where a path is on S3, have GDAL ask the server that the environment names in AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL.

    Addresses are then path-style. Keys, region and profile have the same names in both. GDAL's own variables win where they are
    set: AWS_S3_ENDPOINT, AWS_HTTPS, AWS_VIRTUAL_HOSTING. The variables are set for this process and those it starts.

    Raises
    ------
    ConfigError
        The address is no URL.
    """
    name = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    if name is None or not path.startswith(("s3://", "/vsis3")) or "AWS_S3_ENDPOINT" in os.environ:
        return
    parts = urlsplit(os.environ[name])
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{name}={os.environ[name]} is not an address such as https://s3.example.org")
    os.environ["AWS_S3_ENDPOINT"] = parts.netloc + parts.path.rstrip("/")
    os.environ.setdefault("AWS_HTTPS", "YES" if parts.scheme == "https" else "NO")
    os.environ.setdefault("AWS_VIRTUAL_HOSTING", "FALSE")
