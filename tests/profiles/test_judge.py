"""Limits that the user gives, and those that follow from them."""

import pytest
from fakes.machines import card, host

from nimlite.errors import SettingError
from nimlite.probe import Machine
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.manifest import Precision
from nimlite.profiles.selection import select
from nimlite.settings import read_settings

SMOLLM = load_manifest(profiles_directory() / "smollm2-135m.yaml")


@pytest.mark.parametrize(
    ("environ", "sequences", "tokens"),
    [
        ({}, 64, 512),
        ({"NIM_MAX_BATCH_SIZE": "1000"}, 1000, 1000),
        ({"NIM_MAX_NUM_TOKENS": "16"}, 16, 16),
        ({"NIM_MAX_NUM_TOKENS": "2k", "NIM_MAX_BATCH_SIZE": "8"}, 8, 2048),
    ],
)
def test_every_sequence_has_a_token_of_a_step(
    environ: dict[str, str], sequences: int, tokens: int
) -> None:
    serving = select(SMOLLM, host(), read_settings(environ)).chosen.serving
    assert (serving.max_batch_size, serving.max_num_tokens) == (sequences, tokens)


@pytest.mark.parametrize(
    ("machine", "environ", "held"),
    [
        (host(), {"NIM_KV_PRECISION": "float32"}, Precision.FP32),
        (host(), {"NIM_KV_PRECISION": "auto"}, Precision.BF16),
        (
            host([card("H200")]),
            {"NIM_KV_PRECISION": "fp8_e4m3", "NIM_PRECISION": "bf16"},
            Precision.FP8,
        ),
        (
            host([card("H200")]),
            {"NIM_KV_PRECISION": "bf16", "NIM_PRECISION": "fp8"},
            Precision.BF16,
        ),
    ],
)
def test_keys_and_values_are_held_as_the_user_says(
    machine: Machine, environ: dict[str, str], held: Precision
) -> None:
    chosen = select(SMOLLM, machine, read_settings(environ)).chosen
    assert chosen.serving.kv_precision is held
    plain = {name: value for name, value in environ.items() if name == "NIM_PRECISION"}
    usual = select(SMOLLM, machine, read_settings(plain)).chosen
    assert chosen.profile == usual.profile  # its id stays the manifest's
    sizes = {Precision.FP32: 4, Precision.BF16: 2, Precision.FP8: 1}
    bytes_each = [c.memory.kv_minimum / sizes[c.serving.kv_precision] for c in (chosen, usual)]
    assert bytes_each[0] == bytes_each[1]


@pytest.mark.parametrize(
    ("machine", "environ", "sentence"),
    [
        (
            host(),
            {"NIM_KV_PRECISION": "fp8", "NIM_PRECISION": "bf16", "NIM_TAGS_SELECTOR": "device=cpu"},
            "nimlite-bf16-tp1-pp1-cpu can't be held in fp8, only in fp32 or bf16.",
        ),
        (
            host([card("H200")]),
            {"NIM_KV_PRECISION": "fp16", "NIM_PRECISION": "fp8"},
            "can't be held in fp16, only in bf16 or fp8.",
        ),
        (
            host([card("A100")]),
            {"NIM_KV_PRECISION": "fp8", "NIM_PRECISION": "bf16", "NIM_TAGS_SELECTOR": "device=gpu"},
            "It takes one GPU of compute capability 8.9",
        ),
    ],
)
def test_how_they_can_not_be_held(machine: Machine, environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingError) as raised:
        select(SMOLLM, machine, read_settings(environ))
    assert sentence in str(raised.value)


def test_a_precision_that_nothing_is_held_in() -> None:
    with pytest.raises(SettingError, match=r"=int3 can't be used. Allowed: fp32, bf16, fp16"):
        read_settings({"NIM_KV_PRECISION": "int3"})
