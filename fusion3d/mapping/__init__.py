"""Wall-to-wall maps of a store: tiles with a halo in, COG, GeoParquet and pictures out."""
