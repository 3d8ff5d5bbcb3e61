"""Speech recognition over HTTP on a continuously batching engine."""

__version__ = "0.1.0"
