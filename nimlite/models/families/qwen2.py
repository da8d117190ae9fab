"""Qwen 1.5, 2 and 2.5: a Llama with biases on queries, keys and values, and windows from some layer
on."""

from nimlite.models.config import Config, decoder_spec, windows
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("Qwen2ForCausalLM",)


def spec(config: Config) -> ModelSpec:
    return decoder_spec(config, qkv_bias=True, windows=late_windows(config))


def late_windows(config: Config) -> tuple[int, ...]:
    """The layers from `max_window_layers` on have one, if `use_sliding_window` says so."""
    if not config.get("use_sliding_window", False):
        return ()
    return windows(config, lambda layer: layer >= config["max_window_layers"])


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(spec, WeightNames())
