"""One device's way to hold weights and to compute with them: what a build and a server ask for."""

from typing import Protocol

from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.target import BuildTarget
from nimlite.engine.engine import Engine
from nimlite.engine.speculation import Speculation
from nimlite.observe.progress import Progress


class Backend(BuildTarget, Protocol):
    """A device, and the profile that runs there."""

    def open(
        self,
        directory: EngineDirectory,
        progress: Progress,
        *,
        prefix_caching: bool = True,
        speculation: Speculation | None = None,
    ) -> Engine:
        """The engine with its weights and KV pool in memory. Raises ChecksumError for damaged
        weights."""
