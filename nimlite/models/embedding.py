"""How a model's final hidden states become one vector for a text, in plain data."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Pooling(enum.StrEnum):
    """Which of a text's final hidden states make its embedding."""

    LAST = "last"
    """The last token's: in a decoder it alone has seen the whole text."""
    MEAN = "mean"
    """The mean of all."""
    CLS = "cls"
    """The first token's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSpec:
    """What a checkpoint says of its embeddings. Defaults are those of a model that says nothing."""

    pooling: Pooling = Pooling.LAST
    normalize: bool = True
    """Every embedding is made as long as 1."""
    max_tokens: int | None = None
    """The longest text that it is made for; None: as long as the context."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What is put in front of a text, by its purpose."""
    default_prompt: str | None = None
    """The purpose of a text that comes without one."""
