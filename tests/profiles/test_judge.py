"""Limits that the user gives, and those that follow from them."""

import pytest
from fakes.machines import host

from nimlite.profiles.load import load_manifest, profiles_directory
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
