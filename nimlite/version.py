"""The one place that holds the version of the package and of the engine format."""

__version__ = "0.1.0"

ENGINE_FORMAT = 3
"""Raised whenever the layout of an engine directory changes; an older engine is built again."""
