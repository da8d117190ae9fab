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
    from nimlite.engine.model_runner import ModelRunner

__all__ = ["Engine", "ModelRunner", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    # They pull in torch (seconds); commands such as `nimlite probe` must not pay for it.
    if name == "Engine":
        from nimlite.engine.engine import Engine

        return Engine
    if name == "ModelRunner":
        from nimlite.engine.model_runner import ModelRunner

        return ModelRunner
    raise AttributeError(f"module 'nimlite' has no attribute {name!r}")
