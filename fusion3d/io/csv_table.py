"""Tables as CSV files, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fusion3d.io.whole_file import write_whole


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> Path:
    """Write rows below a header; numbers to their last digit, None and NaN as empty fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_text(value) for value in row] for row in rows)
    return write_whole(path, text.getvalue())


def write_table(path: str | Path, table: Any) -> Path:
    """Write a dataclass of columns of one length, those that are None left out."""
    names = [item.name for item in fields(table) if getattr(table, item.name) is not None]
    return write_csv(path, names, zip(*(getattr(table, name) for name in names), strict=True))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float | np.floating):
        return "" if value != value else repr(float(value))
    return str(value)
