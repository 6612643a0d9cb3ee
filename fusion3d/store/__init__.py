"""The column store: schema, reader, writer."""

from fusion3d.store.reader import Store, StoredPoints, StoredRaster

__all__ = ["Store", "StoredPoints", "StoredRaster"]
