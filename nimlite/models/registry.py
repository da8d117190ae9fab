"""Which module of `families/` reads which architecture."""

import difflib
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from nimlite.errors import ModelError
from nimlite.models import families
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


def _found() -> dict[str, Family]:
    modules = (
        cast(Family, import_module(f"{families.__name__}.{module.name}"))
        for module in pkgutil.iter_modules(families.__path__)
    )
    return {name: module for module in modules for name in module.ARCHITECTURES}


FAMILIES: Mapping[str, Family] = _found()


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
        return family_of(architectures[0]).spec(dict(config))
    except KeyError as error:
        raise ModelError(
            f"config.json of a {architectures[0]} lacks {error}: the file is incomplete."
        ) from error


def weight_sources(spec: ModelSpec) -> dict[str, WeightSource]:
    """Every engine tensor of the model, by name."""
    return family_of(spec.architecture).weights(spec)
