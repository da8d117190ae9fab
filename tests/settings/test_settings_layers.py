"""Settings: layers, origins, and what a wrong value is answered with."""

from pathlib import Path

import pytest

from nimlite.errors import SettingError
from nimlite.settings import (
    LogLevel,
    Origin,
    default_cache_path,
    read_settings,
)


def test_defaults() -> None:
    settings = read_settings({})
    assert (settings.server_port, settings.model_path) == (8000, None)
    assert settings.enable_kv_cache_reuse
    assert settings.origin("server_port") is Origin.DEFAULT
    assert settings.origin("max_model_len") is Origin.PROFILE


def test_a_flag_beats_the_environment_and_both_are_told_apart() -> None:
    environ = {"NIM_SERVER_PORT": "9000", "NIM_MAX_MODEL_LEN": "512", "NIM_LOG_LEVEL": "debug"}
    settings = read_settings(environ, {"server_port": 9001, "num_threads": None})
    assert (settings.server_port, settings.max_model_len) == (9001, 512)
    assert settings.log_level is LogLevel.DEBUG
    assert settings.origin("server_port") is Origin.FLAG
    assert settings.origin("max_model_len") is Origin.ENVIRONMENT
    assert settings.origin("num_threads") is Origin.PROFILE


def test_lists_tags_and_paths() -> None:
    settings = read_settings(
        {
            "NIM_SERVED_MODEL_NAME": "a, b",
            "NIM_TAGS_SELECTOR": "precision=fp32, tp=1",
            "NIM_CACHE_PATH": "~/models",
            "NIM_JSONL_LOGGING": "1",
        }
    )
    assert settings.served_model_name == ("a", "b")
    assert settings.tags_selector == {"precision": "fp32", "tp": "1"}
    assert settings.cache_path == Path("~/models").expanduser()
    assert settings.jsonl_logging


def test_an_empty_variable_counts_as_unset() -> None:
    settings = read_settings({"NIM_MODEL_PROFILE": "", "NIM_SERVER_PORT": " "})
    assert settings == read_settings({})


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("NIM_SERVER_PORT", "http", "a whole number"),
        ("NIM_SERVER_PORT", "70000", "at most 65535"),
        ("NIM_MAX_MODEL_LEN", "0", "at least 1"),
        ("NIM_KVCACHE_PERCENT", "1.5", "at most 1."),
        ("NIM_KVCACHE_PERCENT", "200 %", "at most 1."),
        ("NIM_KVCACHE_PERCENT", "half", "a number"),
        ("NIM_JSONL_LOGGING", "maybe", "1 or 0"),
        ("NIM_LOG_LEVEL", "loud", "'TRACE', 'DEBUG', 'DEFAULT', 'INFO', 'WARNING', 'ERROR' or"),
        ("NIM_TAGS_SELECTOR", "fp32", "key=value pairs with commas between them"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(variable: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingError) as raised:
        read_settings({variable: value})
    assert str(raised.value).startswith(f"{variable}={value} can't be used. Allowed: {allowed}")


def test_a_bad_flag_is_named_as_a_flag() -> None:
    with pytest.raises(SettingError, match=r"--port=-1 can't be used. Allowed: at least 1\."):
        read_settings({}, {"server_port": -1})


def test_two_names_of_one_setting_must_agree() -> None:
    with pytest.raises(SettingError, match="NIM_MODEL_PATH=a and NIM_MODEL_NAME=b contradict"):
        read_settings({"NIM_MODEL_PATH": "a", "NIM_MODEL_NAME": "b"})
    assert read_settings({"NIM_MODEL_NAME": "b"}).model_path == "b"
    assert read_settings({"NIM_OFFLINE": "true", "HF_HUB_OFFLINE": "1"}).offline


def test_the_cache_is_found_without_a_home_that_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_path() == tmp_path / "nimlite"
    # A file in the way stops even root, whom permissions don't.
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    assert default_cache_path().name.startswith("nimlite-")


@pytest.mark.parametrize(
    ("text", "size"),
    [("5000", 5000), ("50 GB", 50 * 10**9), ("1.5gib", 3 << 29), ("2T", 2 * 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert read_settings({"NIM_CACHE_MAX_BYTES": text}).cache_max_bytes == size
