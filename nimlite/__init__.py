"""nimlite: a self-optimizing LLM serving container.

>>> from nimlite import Engine, SamplingParams
>>> engine = Engine.load("engine-directory")
>>> engine.generate(["What is 2+2?"], SamplingParams(temperature=0.0, max_tokens=16))
"""

from typing import TYPE_CHECKING, Any

from nimlite.engine.request import SamplingParams
from nimlite.version import __version__

if TYPE_CHECKING:
    from nimlite.engine.engine import Engine

__all__ = ["Engine", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    # Engine pulls in torch (seconds); commands such as `nimlite probe` must not pay for it.
    if name == "Engine":
        from nimlite.engine.engine import Engine

        return Engine
    raise AttributeError(f"module 'nimlite' has no attribute {name!r}")
