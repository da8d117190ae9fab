"""Gemma 3: Gemma 2 with normed query and key heads in place of caps, and five layers with a window
for each one without. Of the models that see, the part that reads and writes text."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nimlite.models.config import Config, rope, windows
from nimlite.models.families.gemma2 import SANDWICH, sandwich_spec
from nimlite.models.spec import ModelSpec
from nimlite.models.weights import Sources, decoder_weights

_WITH_VISION = "Gemma3ForConditionalGeneration"
ARCHITECTURES = ("Gemma3ForCausalLM", _WITH_VISION)

_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}
"""What the configs of the models that see leave out."""


def spec(config: Config) -> ModelSpec:
    architectures = {"architectures": config["architectures"]}
    config = {**_DEFAULTS, **config.get("text_config", config), **architectures}
    pattern = config.get("sliding_window_pattern") or 6
    by_kind = config.get("rope_parameters") or {}
    far = by_kind.get("full_attention") or {
        "rope_theta": config.get("rope_theta", 1_000_000.0),
        **(config.get("rope_scaling") or {}),
    }
    near = by_kind.get("sliding_attention") or {
        "rope_theta": config.get("rope_local_base_freq", 10_000.0)
    }
    return sandwich_spec(
        config | {"rope_parameters": far},
        rope=rope(config, far),
        local_rope=rope(config, near),
        windows=windows(config, lambda layer: (layer + 1) % pattern != 0),
        attention_soft_cap=config.get("attn_logit_softcapping") or 0.0,
        logit_soft_cap=config.get("final_logit_softcapping") or 0.0,
        qk_norm=True,
    )


def weights(spec: ModelSpec) -> Sources:
    if spec.architecture != _WITH_VISION:
        return decoder_weights(spec, SANDWICH)
    return decoder_weights(
        spec,
        replace(
            SANDWICH,
            embedding=f"language_model.{SANDWICH.embedding}",
            layer=f"language_model.{SANDWICH.layer}",
            final_norm=f"language_model.{SANDWICH.final_norm}",
            head=f"language_model.{SANDWICH.head}",
        ),
    )
