"""What families read alike from a Hugging Face config.json."""

from collections.abc import Callable, Mapping
from typing import Any

from nimlite.errors import ModelError
from nimlite.models.spec import Activation, ModelSpec, RopeSpec

Config = dict[str, Any]
"""A Hugging Face config.json."""

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def activation(name: str) -> Activation:
    """Raises ModelError for one that is not supported."""
    if name not in _ACTIVATIONS:
        raise ModelError(
            f"The activation {name!r} of config.json is not supported; supported are "
            f"{', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def unsupported(config: Config, what: str) -> ModelError:
    """The error for a variant of a family that its file does not describe."""
    return ModelError(
        f"config.json of a {config['architectures'][0]} asks for {what}, which is not supported."
        " Give a checkpoint without it."
    )


def rope(config: Config, parameters: Mapping[str, Any] | None = None) -> RopeSpec:
    """transformers 5 writes `rope_parameters`; 4 wrote `rope_theta` and `rope_scaling`.

    `parameters`: in place of the config's, where it has several.
    """
    if parameters is None:
        parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    scaling = dict(parameters)
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta") or 10_000.0
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    share = scaling.pop("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    dim = None
    if share != 1.0:
        dim = int(share * head_dim(config))
    if kind == "default":
        return RopeSpec(theta=theta, dim=dim)
    length = config["max_position_embeddings"]
    original = length
    if kind != "dynamic":
        given = scaling.get("original_max_position_embeddings", length)
        original = config.get("original_max_position_embeddings") or given
    scaling["original_max_position_embeddings"] = original
    if scaling.get("factor") is None:
        scaling["factor"] = length / original
    return RopeSpec(theta=theta, dim=dim, scaling=scaling | {"rope_type": kind})


def max_positions(config: Config) -> int:
    """As far as the positions go, stretched or not."""
    length, scaling = int(config["max_position_embeddings"]), rope(config).scaling
    kind = scaling.get("rope_type")
    if kind == "dynamic":
        return int(length * scaling["factor"])
    if kind == "yarn":
        return max(length, int(scaling["original_max_position_embeddings"] * scaling["factor"]))
    return length


def head_dim(config: Config) -> int:
    """The config's, or the share of each head in the hidden size."""
    return config.get("head_dim") or int(config["hidden_size"] // config["num_attention_heads"])


def windows(config: Config, is_windowed: Callable[[int], bool]) -> tuple[int, ...]:
    """By layer, the size of `sliding_window` where `layer_types` has one, or, without types,
    where `is_windowed` does. Empty where none has one."""
    size = config.get("sliding_window") or 0
    types = config.get("layer_types")
    if types is None:
        windowed = [is_windowed(i) for i in range(config["num_hidden_layers"])]
    else:
        windowed = [kind == "sliding_attention" for kind in types]
    return tuple(size if here else 0 for here in windowed) if size and any(windowed) else ()


def decoder_spec(config: Config, **changes: Any) -> ModelSpec:
    """The spec of a config with Llama's keys, but for `changes` to the spec. Raises KeyError for
    what is missing, ModelError for what is not supported."""
    num_heads = config["num_attention_heads"]
    given: dict[str, Any] = {
        "architecture": config["architectures"][0],
        "num_layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "num_heads": num_heads,
        "num_kv_heads": config.get("num_key_value_heads") or num_heads,
        "head_dim": head_dim(config),
        "vocab_size": config["vocab_size"],
        "max_positions": max_positions(config),
        "tie_embeddings": config.get("tie_word_embeddings", False),
    }
    derived: dict[str, Callable[[], Any]] = {
        "intermediate_size": lambda: config["intermediate_size"],
        "norm_eps": lambda: config["rms_norm_eps"],
        "activation": lambda: activation(config.get("hidden_act", "silu")),
        "rope": lambda: rope(config),
    }
    given |= {field: read() for field, read in derived.items() if field not in changes}
    return ModelSpec(**(given | changes))
