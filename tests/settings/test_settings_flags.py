"""The settings as flags, and NIM_PASSTHROUGH_ARGS."""

import pytest

from nimlite.errors import SettingError
from nimlite.settings import Origin, read_settings
from nimlite.settings.fields import FIELDS
from nimlite.settings.flags import spellings


def test_no_flag_means_two_settings() -> None:
    flags = [option for name in FIELDS for option in spellings(name)]
    assert len(flags) == len(set(flags))


def test_passthrough_arguments_beat_variables_and_are_beaten_by_flags() -> None:
    environ = {
        "NIM_PASSTHROUGH_ARGS": "--max-num-seqs 4 --gpu-memory-utilization=0.8 --port 1 --offline "
        "--no-enable-kv-cache-reuse --max-num-seqs 5",
        "NIM_MAX_BATCH_SIZE": "6",
    }
    settings = read_settings(environ, {"server_port": "2"})
    assert (settings.max_batch_size, settings.kvcache_percent, settings.server_port) == (5, 0.8, 2)
    assert (settings.offline, settings.enable_kv_cache_reuse) == (True, False)
    assert settings.origin("max_batch_size") is Origin.ENVIRONMENT
    assert settings.given["max_batch_size"].place == "NIM_PASSTHROUGH_ARGS --max-num-seqs"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("--max-model-length 9", "has --max-model-length, which is no option of nimlite; did you "
         "mean --max-model-len?"),
        ("--no-port", "has --no-port, which is no option"),
        ("MODEL", "has MODEL, which is no option"),
        ("'", "can't be read: No closing quotation."),
        ("--port x", " --port=x can't be used. Allowed: a whole number."),
    ],
)  # fmt: skip
def test_a_mistake_in_them_is_named(text: str, sentence: str) -> None:
    with pytest.raises(SettingError) as raised:
        read_settings({"NIM_PASSTHROUGH_ARGS": text})
    assert str(raised.value).startswith("NIM_PASSTHROUGH_ARGS")
    assert sentence in str(raised.value)


def test_an_empty_flag_counts_as_unset() -> None:
    assert read_settings({"NIM_SERVER_PORT": "9"}, {"server_port": ""}).server_port == 9
