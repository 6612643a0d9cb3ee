"""Cells of maps as GeoParquet 1.1 (geoparquet.org), one row per cell with data, written tile by tile.

Columns: `geometry` (WKB point, the cell's centre), `row` and `col` (of the map, south and east of its north-west corner), and
what a map holds of a cell: of embeddings `sensors` (list of the sensors that saw the cell) and `emb_000`, `emb_001`, ... Rows
come tile by tile.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyproj import CRS

from fusion3d.errors import InputError, one_line

_ROWS_A_GROUP = 65_536
_LITTLE_ENDIAN_POINT = np.array([(1, 1, 0.0, 0.0)], dtype=[("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")])
"""Layout of a WKB point (OGC 06-103r4): byte order, geometry type 1, coordinates."""


def point_wkb(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> pa.Array:
    """WKB points from coordinates [N]."""
    points = np.repeat(_LITTLE_ENDIAN_POINT, len(x))
    points["x"], points["y"] = x, y
    width = points.dtype.itemsize
    offsets = np.arange(len(x) + 1, dtype=np.int32) * width
    return pa.Array.from_buffers(pa.binary(), len(x), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(points.tobytes())])


class CellTable:
    """A GeoParquet file that is filled tile by tile and appears under its name when it is complete.

    As a context manager it leaves nothing behind when the body raises; a file that was there before stays.

    Parameters
    ----------
    path : final name
    crs : of the coordinates, horizontal
    fields : name and type of the columns beside geometry, row and col
    about : metadata of the file, under the key "fusion3d"

    Raises
    ------
    InputError
        The folder cannot be written, or the disk is full.
    """

    def __init__(
        self, path: str | Path, *, crs: CRS, fields: Sequence[tuple[str, pa.DataType]], about: Mapping[str, str]
    ) -> None:
        self.path = Path(path)
        self.rows = 0
        self._draft = self.path.with_name(f".{self.path.stem}.{uuid.uuid4().hex[:8]}.draft.parquet")
        geo = {
            "version": "1.1.0",
            "primary_column": "geometry",
            "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Point"], "crs": crs.to_json_dict()}},
        }
        place = [("geometry", pa.binary()), ("row", pa.int64()), ("col", pa.int64())]
        self._schema = pa.schema([*place, *fields], metadata={"geo": json.dumps(geo), "fusion3d": json.dumps(dict(about))})
        self._waiting: list[pa.Table] = []
        self._writer: Any = None
        if not self.path.parent.is_dir():
            raise InputError(self.path, "cannot be written: its folder does not exist", "create the folder first")
        try:
            self._writer = pq.ParquetWriter(self._draft, self._schema, compression="zstd")
        except OSError as error:
            self.discard()
            raise self._failed(error) from None

    def add(
        self,
        x: npt.NDArray[np.float64],
        y: npt.NDArray[np.float64],
        row: npt.NDArray[np.int64],
        col: npt.NDArray[np.int64],
        columns: Sequence[pa.Array],
    ) -> None:
        """Add N rows.

        Parameters
        ----------
        x, y : [N] centres, CRS units
        row, col : [N]
        columns : [N] each, as `fields`
        """
        if not len(x):
            return
        self._waiting.append(pa.Table.from_arrays([point_wkb(x, y), pa.array(row), pa.array(col), *columns], schema=self._schema))
        self.rows += len(x)
        if sum(len(table) for table in self._waiting) >= _ROWS_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            self._writer.write_table(pa.concat_tables(waiting).combine_chunks())
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Finish the file and give it its name; does nothing when already closed."""
        if self._writer is None:
            return
        try:
            self._flush()
            writer, self._writer = self._writer, None
            writer.close()
            with open(self._draft, "rb") as written:
                os.fsync(written.fileno())
            os.replace(self._draft, self.path)
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what has been written; nothing appears under the name."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            # the disk may be full; the draft is removed all the same
            with suppress(OSError):
                writer.close()
        self._draft.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _failed(self, error: BaseException) -> InputError:
        if isinstance(error, InputError):
            return error
        reason = one_line(error)
        return InputError(self.path, f"cannot be written ({reason})", "free disk space there or write elsewhere")


class EmbeddingTable(CellTable):
    """A `CellTable` of embeddings.

    Parameters
    ----------
    path, crs, about : as for `CellTable`
    names : of the embedding's dimensions
    sensors : every sensor that a row may name
    """

    def __init__(
        self, path: str | Path, *, crs: CRS, names: Sequence[str], sensors: Sequence[str], about: Mapping[str, str]
    ) -> None:
        self._sensors = list(sensors)
        seen = ("sensors", pa.list_(pa.dictionary(pa.int32(), pa.string())))
        super().__init__(path, crs=crs, fields=[seen, *((name, pa.float32()) for name in names)], about=about)

    def write(
        self,
        x: npt.NDArray[np.float64],
        y: npt.NDArray[np.float64],
        row: npt.NDArray[np.int64],
        col: npt.NDArray[np.int64],
        seen: npt.NDArray[np.bool_],
        embedding: npt.NDArray[np.float32],
    ) -> None:
        """Add N rows.

        Parameters
        ----------
        x, y : [N] centres, CRS units
        row, col : [N]
        seen : [N, sensors] in the order of `sensors`
        embedding : [N, D]
        """
        splits = np.concatenate([[0], np.cumsum(seen.sum(axis=1))]).astype(np.int32)
        number = pa.array(np.nonzero(seen)[1].astype(np.int32))
        named = pa.DictionaryArray.from_arrays(number, pa.array(self._sensors, pa.string()))
        lists = pa.ListArray.from_arrays(pa.array(splits), named)
        self.add(x, y, row, col, [lists, *(pa.array(np.ascontiguousarray(values, np.float32)) for values in embedding.T)])
