"""Whether every block in a TIFF's directory lies inside the file: a cut download fails here, not in the middle of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_CHECKED_AT_MOST = 100_000


def missing_block(dataset: Any) -> str | None:
    """What is missing from an open local GeoTIFF, in words; None when nothing is or when it is no local TIFF.

    Blocks without an offset are sparse (all nodata) and not missing. In files of very many blocks only the last of each band is
    looked at.
    """
    path = Path(dataset.name)
    if dataset.driver not in ("GTiff", "COG") or not path.is_file():
        return None
    size = path.stat().st_size
    block_height, block_width = dataset.block_shapes[0]
    down, across = -(-dataset.height // block_height), -(-dataset.width // block_width)
    interleaved = str(dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE", "")).upper() == "PIXEL"
    bands = [1] if interleaved else list(dataset.indexes)
    every = down * across * len(bands) <= _CHECKED_AT_MOST
    for band in bands:
        blocks = [(row, col) for row in range(down) for col in range(across)] if every else [(down - 1, across - 1)]
        for row, col in blocks:
            offset = dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band)
            length = dataset.get_tag_item(f"BLOCK_SIZE_{col}_{row}", "TIFF", bidx=band)
            if offset and length and int(offset) + int(length) > size:
                return f"{size} bytes, but a block ends at byte {int(offset) + int(length)}"
    return None
