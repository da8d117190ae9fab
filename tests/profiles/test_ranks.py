import pytest
from fakes.machines import host

from nimlite.errors import SettingError
from nimlite.profiles.load import load_manifests, profiles_directory
from nimlite.profiles.ranks import with_ranks
from nimlite.profiles.selection import select
from nimlite.settings import read_settings

SMOLLM = next(m for m in load_manifests(profiles_directory()) if m.family == "smollm2-135m")


def test_a_cpu_is_split_as_the_user_asks() -> None:
    wanted = read_settings({"NIM_TENSOR_PARALLEL_SIZE": "2", "NIM_PIPELINE_PARALLEL_SIZE": "3"})
    split = with_ranks(SMOLLM, wanted, has_gpus=False)
    chosen = select(split, host(), wanted).chosen
    assert chosen.profile.name.endswith("-tp2-pp3-cpu")
    alone = select(SMOLLM, host(), read_settings({})).chosen
    assert chosen.memory.budget == pytest.approx(alone.memory.budget / 6, abs=1)


def test_nothing_is_added_where_nobody_asks_or_gpus_are_meant() -> None:
    asked = read_settings({"NIM_TENSOR_PARALLEL_SIZE": "2"})
    assert with_ranks(SMOLLM, asked, has_gpus=True) is SMOLLM
    assert with_ranks(SMOLLM, read_settings({}), has_gpus=False) is SMOLLM


def test_heads_that_can_not_be_shared() -> None:
    asked = read_settings({"NIM_TENSOR_PARALLEL_SIZE": "5"})
    split = with_ranks(SMOLLM, asked, has_gpus=False)
    sentence = "tp=5 ranks can't share 9 query heads over 3 key/value heads"
    with pytest.raises(SettingError, match=sentence):
        select(split, host(), asked)
