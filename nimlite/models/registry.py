"""Which module of `families/` reads which architecture."""

import difflib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol, cast

from nimlite.errors import ModelError
from nimlite.models import families as folder
from nimlite.models.config import Config
from nimlite.models.spec import ModelSpec, WeightSource


class Family(Protocol):
    """What a family's module offers."""

    ARCHITECTURES: tuple[str, ...]
    """Hugging Face's class names."""

    def spec(self, config: Config) -> ModelSpec:
        """Raises KeyError for what config.json lacks, ModelError for what is not supported."""

    def weights(self, spec: ModelSpec) -> dict[str, WeightSource]:
        """How every engine tensor is made of the checkpoint's."""


def families() -> dict[str, Family]:
    """Every module of the folder, by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(folder.__path__))
    return {name: cast(Family, import_module(f"{folder.__name__}.{name}")) for name in names}


FAMILIES: Mapping[str, Family] = {
    name: family for family in families().values() for name in family.ARCHITECTURES
}
"""By architecture."""


_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def has_head(config: Mapping[str, Any]) -> bool:
    """Whether the architecture is one that writes: not MistralModel, which is MistralForCausalLM
    without the head."""
    architecture: str = config["architectures"][0]
    return _headed(architecture) == architecture


def _headed(architecture: str) -> str:
    """The architecture with the head that it was saved without; itself, where it has one, or is
    not known."""
    stem = architecture.removesuffix("Model")
    if architecture in FAMILIES or stem == architecture:
        return architecture
    return next((stem + head for head in _HEADS if stem + head in FAMILIES), architecture)


def family_of(architecture: str) -> Family:
    """The module for an architecture's class name. Raises ModelError for one that is not
    supported."""
    if architecture not in FAMILIES:
        raise _unknown(architecture, {})
    return FAMILIES[architecture]


def _unknown(architecture: str, config: Config) -> ModelError:
    """Names the nearest architecture, and what `config` would lack as one."""
    (near,) = difflib.get_close_matches(architecture, FAMILIES, n=1, cutoff=0.0)
    try:
        FAMILIES[near].spec(config | {"architectures": [near]})
    except KeyError as error:
        fits = f"which this config.json is not: it lacks {error}."
    except ModelError as error:
        fits = f"which this config.json is not: {error}"
    else:
        fits = "as which this config.json can be read: if it is one, let `architectures` say so."
    return ModelError(
        f"The architecture {architecture!r} is not supported. The nearest that is, is {near},"
        f" {fits} `nimlite models` lists all; a new one is a file with its spec (norms, positions,"
        " attention, MLP, biases) and the names of its weights: docs/adding-a-model.md."
    )


def read_spec(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a Hugging Face config.json. Raises ModelError where it is not supported or lacks
    something."""
    architectures = config.get("architectures")
    if not architectures:
        raise ModelError(
            "config.json has no `architectures`: it is not the config of a language model."
        )
    architecture = _headed(architectures[0])
    if architecture not in FAMILIES:
        raise _unknown(architecture, dict(config))
    try:
        spec = FAMILIES[architecture].spec({**config, "architectures": [architecture]})
    except KeyError as error:
        raise ModelError(
            f"config.json of a {architecture} lacks {error}: the file is incomplete."
        ) from error
    if architecture == architectures[0]:
        return spec
    # what has no head of its own is proved with that of a tied one
    return replace(spec, tie_embeddings=True, head_bias=False)


def weight_sources(spec: ModelSpec) -> dict[str, WeightSource]:
    """Every engine tensor of the model, by name."""
    return family_of(spec.architecture).weights(spec)
