"""What a model with an encoder takes, and how it is refused to be split."""

import math
from dataclasses import replace

from nimlite.models.registry import read_spec
from nimlite.profiles.generate import generate_manifest
from nimlite.profiles.manifest import Artifact, Device, Precision
from nimlite.profiles.memory import kv_block_bytes, plan_memory, weight_bytes
from nimlite.profiles.shape import ModelShape
from nimlite.profiles.support import THIS_VERSION

# https://huggingface.co/facebook/bart-large-cnn/blob/main/config.json
BART_LARGE = {
    "architectures": ["BartForConditionalGeneration"],
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "vocab_size": 50264,
    "max_position_embeddings": 1024,
    "decoder_start_token_id": 2,
    "forced_bos_token_id": 0,
}
SPEC = read_spec(BART_LARGE)
MANIFEST = generate_manifest("bart", ModelShape.of(SPEC), Artifact(uri="file:///bart"))


def test_the_parameters_are_those_of_the_public_model() -> None:
    assert SPEC.decoder_prompt == (2, 0)
    # 406,290,432 with norms and biases, by the model card
    assert abs(SPEC.num_parameters / 406_290_432 - 1) < 0.002
    assert MANIFEST.shape.num_parameters == SPEC.num_parameters
    profile = next(p for p in MANIFEST.profiles if p.precision is Precision.BF16)
    assert 2 * SPEC.num_parameters < weight_bytes(MANIFEST.shape, profile) < 2.1 * 406_290_432


def test_a_request_needs_room_for_its_prompt_and_its_answer() -> None:
    profile = next(p for p in MANIFEST.profiles if p.device is Device.CPU)
    plan = plan_memory(MANIFEST.shape, profile, 8 << 30)
    blocks = math.ceil(profile.max_model_len / profile.block_size)
    assert plan.kv_minimum == 2 * blocks * kv_block_bytes(MANIFEST.shape, profile)
    # an encoder reads a prompt in one step
    assert all(p.max_num_tokens >= p.max_model_len for p in MANIFEST.profiles)


def test_it_is_not_split() -> None:
    profile = replace(MANIFEST.profiles[0], tp=2)
    reason = THIS_VERSION.reason(MANIFEST, profile)
    assert reason == "This version can't split a model with an encoder over several GPUs yet."
