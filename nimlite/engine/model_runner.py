"""An engine directory from Python, by the names that TensorRT-LLM's ModelRunner has."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from nimlite.engine.engine import Engine, Generation
from nimlite.engine.request import SamplingParams


class ModelRunner:
    """A thin face of `Engine`, which it has as `engine`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def from_dir(cls, engine_dir: Path | str, *, num_threads: int | None = None) -> "ModelRunner":
        """What `nimlite build --out` made. Raises as `Engine.load` does."""
        return cls(Engine.load(engine_dir, num_threads=num_threads))

    def generate(
        self,
        texts: str | Iterable[str | Sequence[int]],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
    ) -> list[Generation]:
        """Go on from each text (or its token ids), all together; greedily, unless the temperature
        says otherwise. Raises RequestError for a text that is empty or does not fit, and for
        figures out of their range."""
        params = SamplingParams(
            max_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
        return self.engine.generate(texts, params)
