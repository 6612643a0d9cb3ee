"""Encoders: from one sensor's observation to embeddings; one registry, one conformance suite."""

from fusion3d.encoders.als import AlsEncoder
from fusion3d.encoders.checkpoint import load_encoder, save_encoder
from fusion3d.encoders.footprint_cells import on_cells
from fusion3d.encoders.fusion import FUSIONS, ColumnFusion, Fused, fuse
from fusion3d.encoders.gedi import GediEncoder
from fusion3d.encoders.output import CellGrid, ColumnEmbedding, FootprintEmbedding
from fusion3d.encoders.program import export_program, program_inputs
from fusion3d.encoders.raster import RasterEncoder
from fusion3d.encoders.registry import ENCODERS, Encoder, build, kind_of, register

__all__ = [
    "ENCODERS",
    "FUSIONS",
    "AlsEncoder",
    "CellGrid",
    "ColumnEmbedding",
    "ColumnFusion",
    "Encoder",
    "FootprintEmbedding",
    "Fused",
    "GediEncoder",
    "RasterEncoder",
    "build",
    "export_program",
    "fuse",
    "kind_of",
    "load_encoder",
    "on_cells",
    "program_inputs",
    "register",
    "save_encoder",
]
