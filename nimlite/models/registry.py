"""Which module reads which architecture."""

import difflib
from collections.abc import Mapping
from typing import Any, Protocol

from nimlite.errors import ModelError
from nimlite.models import llama
from nimlite.models.spec import ModelSpec, WeightSource


class Family(Protocol):
    """What a family's module offers."""

    def spec(self, config: Mapping[str, Any]) -> ModelSpec: ...

    def weights(self, spec: ModelSpec) -> dict[str, WeightSource]: ...


FAMILIES: Mapping[str, Family] = {"LlamaForCausalLM": llama, "MistralForCausalLM": llama}


def family_of(architecture: str) -> Family:
    """The module for an architecture's class name. Raises ModelError for one that is not
    supported."""
    if architecture in FAMILIES:
        return FAMILIES[architecture]
    near = difflib.get_close_matches(architecture, FAMILIES, n=1, cutoff=0.0)
    raise ModelError(
        f"The architecture {architecture!r} is not supported; supported are {', '.join(FAMILIES)}"
        f" (nearest: {near[0]})."
    )


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a Hugging Face config.json. Raises ModelError where it is not supported or lacks
    something."""
    architectures = config.get("architectures")
    if not architectures:
        raise ModelError(
            "config.json has no `architectures`: it is not the config of a language model."
        )
    try:
        return family_of(architectures[0]).spec(config)
    except KeyError as error:
        raise ModelError(
            f"config.json of a {architectures[0]} lacks {error}: the file is incomplete."
        ) from error


def weight_sources(spec: ModelSpec) -> dict[str, WeightSource]:
    """Every engine tensor of the model, by name."""
    return family_of(spec.architecture).weights(spec)
