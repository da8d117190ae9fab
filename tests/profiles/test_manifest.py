"""What a manifest says about its model, and which part of a profile an engine depends on."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from nimlite.build.engine_dir import engine_key
from nimlite.profiles.checkpoint_size import count_parameters
from nimlite.profiles.load import load_manifest, load_manifests, profiles_directory
from nimlite.profiles.manifest import Precision
from nimlite.profiles.matrix import expand
from nimlite.profiles.memory import weight_bytes

LLAMA = load_manifest(profiles_directory() / "llama3-8b.yaml")
MODEL_CARDS = {
    "gemma-7b": 8.54,
    "gemma2-9b": 9.24,
    "gpt2": 0.124,
    "llama2-7b": 6.74,
    "llama3-70b": 70.6,
    "llama3-8b": 8.03,
    "llama3.2-1b": 1.24,
    "mixtral-8x7b": 46.7,
    "phi-3-mini": 3.82,
    "qwen2.5-7b": 7.62,
    "qwen3-8b": 8.19,
    "smollm2-135m": 0.135,
}
"""10**9 parameters, as the model's page on the Hub counts its tensors."""


def test_the_shapes_add_up_to_what_the_model_cards_say() -> None:
    counted = {m.family: m.num_parameters / 1e9 for m in load_manifests(profiles_directory())}
    assert counted == pytest.approx(MODEL_CARDS, rel=0.006)


def test_a_mixture_computes_with_its_chosen_experts_only() -> None:
    mixtral = load_manifest(profiles_directory() / "mixtral-8x7b.yaml").shape
    assert mixtral.num_active_parameters == pytest.approx(12.8e9, rel=0.01)


def test_limits_and_tags_do_not_make_another_engine() -> None:
    profile = LLAMA.profiles[0]
    key = engine_key("digest", profile, "gpu")
    for same in (
        replace(profile, kv_cache_bytes=1 << 30),
        replace(profile, max_model_len=4096, max_batch_size=1, max_num_tokens=64),
        replace(profile, tags={"gpu": "H200"}),
    ):
        assert same.identified().id != profile.id
        assert engine_key("digest", same, "gpu") == key
    for other in (
        replace(profile, tp=2),
        replace(profile, precision=Precision.BF16),
        replace(profile, kv_precision=Precision.BF16),
    ):
        assert engine_key("digest", other, "gpu") != key


def test_a_list_in_a_row_stands_for_one_profile_each() -> None:
    assert expand({"precision": ["fp8", "bf16"], "tp": [1, 2], "pp": 1}) == [
        {"kv_precision": kv, "precision": precision, "tp": tp, "pp": 1}
        for precision, kv in (("fp8", "fp8"), ("bf16", "bf16"))
        for tp in (1, 2)
    ]


def test_the_tensors_of_a_checkpoint_count(tmp_path: Path) -> None:
    for part in range(2):
        tensors = {f"{part}.a": torch.zeros(3, 5), f"{part}.b": torch.zeros(7)}
        save_file(tensors, tmp_path / f"{part}.safetensors")
    assert count_parameters(tmp_path) == 44
    assert count_parameters(tmp_path / "0.safetensors") is None
    assert count_parameters(tmp_path / "nothing") is None
    # 10**9 more than the config tells of: they are held, too
    more = replace(LLAMA.shape, checkpoint_parameters=9_031_000_000)
    grown = weight_bytes(more, LLAMA.profiles[0]) - weight_bytes(LLAMA.shape, LLAMA.profiles[0])
    assert grown == pytest.approx(1e9, rel=0.01)
    same = replace(LLAMA.shape, checkpoint_parameters=8_030_000_000)
    assert weight_bytes(same, LLAMA.profiles[0]) == weight_bytes(LLAMA.shape, LLAMA.profiles[0])


@settings(deadline=None)
@given(content=st.binary(max_size=64), is_framed=st.booleans())
def test_no_damaged_checkpoint_crashes(
    content: bytes, is_framed: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.getbasetemp() / "damaged"
    directory.mkdir(exist_ok=True)
    frame = struct.pack("<Q", len(content)) if is_framed else b""
    (directory / "a.safetensors").write_bytes(frame + content)
    assert count_parameters(directory) is None
