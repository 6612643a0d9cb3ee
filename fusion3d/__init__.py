"""One embedding for every column of ground, from whatever sensors saw it, LiDAR first."""

__version__ = "0.1.0"
