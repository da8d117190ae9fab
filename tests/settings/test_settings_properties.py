"""What holds for any text and any combination of layers."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nimlite.cli.configuration import settings_json
from nimlite.errors import SettingError
from nimlite.settings import Origin, notices, read_settings
from nimlite.settings.fields import FIELDS
from nimlite.settings.nim import MEANINGS, variables

VARIABLES = sorted({v for name in FIELDS for v in variables(name)} | set(MEANINGS))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model_path": st.sampled_from(["smollm2-135m", "hf://org/name", "/models/x y"]),
    "random_weights": st.booleans(),
    "model_profile": st.sampled_from(["5837", "nimlite-int4", "ab (nimlite-fp8)"]),
    "tags_selector": st.dictionaries(
        st.sampled_from(["tp", "pp", "gpu"]), st.sampled_from(["1", "2"]), min_size=1
    ),
    "precision": st.sampled_from(["fp8", "int4_awq"]),
    "tensor_parallel_size": st.integers(1, 8),
    "pipeline_parallel_size": st.integers(1, 8),
    "backend": st.sampled_from(["torch", "tensorrt", "auto"]),
    "profile_goal": st.sampled_from(["latency", "throughput", "memory"]),
    "slo_ttft_ms": st.integers(1, 1000),
    "slo_itl_ms": st.floats(0.5, 1000),
    "concurrency": st.integers(1, 512),
    "input_length": st.integers(1, 1000),
    "output_length": st.integers(1, 1000),
    "calibration": st.sampled_from(["/texts/a b.txt"]),
    "max_model_len": st.integers(2000, 9000),
    "max_batch_size": st.integers(1, 256),
    "max_num_tokens": st.integers(256, 9000),
    "kvcache_percent": st.sampled_from([0.25, 0.5, 1.0]),
    "kv_precision": st.sampled_from(["fp8", "bf16"]),
    "max_queue_size": st.integers(1, 5000),
    "enable_kv_cache_reuse": st.booleans(),
    "num_threads": st.integers(1, 64),
    "served_model_name": st.lists(st.sampled_from(["a", "b/c"]), min_size=1),
    "server_host": st.sampled_from(["::", "127.0.0.1"]),
    "server_port": st.integers(1, 65535),
    "api_key": st.lists(
        st.sampled_from(["the-key-of-somebody", "sha256:" + 32 * "0f"]), min_size=1
    ),
    "api_keys_file": st.sampled_from(["/run/secrets/api keys"]),
    "ssl_mode": st.sampled_from(["TLS", "MTLS"]),
    "ssl_key_path": st.just("/tls/key.pem"),
    "ssl_certs_path": st.just("/tls/certs.pem"),
    "ssl_ca_certs_path": st.just("/tls/ca.pem"),
    "cors_allow_origins": st.lists(
        st.sampled_from(["*", "https://a.b", "http://localhost:3000"]), min_size=1
    ),
    "cors_allow_methods": st.just(["GET"]),
    "cors_allow_headers": st.just(["X-Api-Key", "Content-Type"]),
    "cors_expose_headers": st.just(["X-Request-Id"]),
    "cors_max_age": st.integers(0, 9999),
    "engine_process": st.booleans(),
    "engine_timeout": st.integers(1, 999),
    "tool_call_parser": st.sampled_from(["hermes", "granite-20b-fc"]),
    "reasoning_parser": st.sampled_from(["think", "none"]),
    "specdec_enable": st.booleans(),
    "num_speculative_tokens": st.integers(1, 32),
    "cache_path": st.sampled_from(["/cache", "/a b"]),
    "cache_max_bytes": st.integers(1, 10**12),
    "offline": st.booleans(),
    "download_connections": st.integers(1, 64),
    "machine": st.sampled_from(["h200", "a/b.json"]),
    "log_level": st.sampled_from(["DEBUG", "WARNING"]),
    "jsonl_logging": st.booleans(),
}
"""Values of every setting, as a config file has them."""
ENTRIES = st.sampled_from(sorted(VALUES)).flatmap(lambda n: st.tuples(st.just(n), VALUES[n]))


def text_of(value: Any) -> str:
    """As a variable or a flag has it."""
    if isinstance(value, dict):
        return ",".join(f"{key}={tag}" for key, tag in value.items())
    return ",".join(value) if isinstance(value, list) else str(value)


def test_every_setting_is_tried() -> None:
    assert set(VALUES) == set(FIELDS) - {"config_file"}


@given(
    st.dictionaries(
        st.sampled_from(VARIABLES),
        st.text(st.characters(exclude_characters="\0"))
        | st.sampled_from(["~x", "1e999", "9" * 99]),
        max_size=4,
    )
)
def test_any_text_is_read_or_refused_by_name(environ: dict[str, str]) -> None:
    notices(environ)
    try:
        read_settings(environ)
    except SettingError as error:
        assert any(name in str(error) for name in environ)
        str(error).encode()


@settings(deadline=None, max_examples=40)
@given(
    layers=st.lists(
        st.lists(ENTRIES, max_size=6).map(lambda entries: dict(entries)), min_size=3, max_size=3
    )
)
def test_the_higher_layer_wins_and_what_config_prints_reads_back(
    layers: list[dict[str, Any]],
) -> None:
    file, environment, flags = layers
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "settings.json"
        path.write_text(json.dumps(file))
        environ = {variables(name)[0]: text_of(value) for name, value in environment.items()}
        environ["NIM_CONFIG_FILE"] = str(path)
        found = read_settings(environ, {name: text_of(value) for name, value in flags.items()})
        expected = read_settings(
            {}, {n: text_of(v) for n, v in (file | environment | flags).items()}
        )
        for name in VALUES:
            assert getattr(found, name) == getattr(expected, name)
            origin = next(
                (
                    origin
                    for layer, origin in (
                        (flags, Origin.FLAG),
                        (environment, Origin.ENVIRONMENT),
                        (file, Origin.FILE),
                    )
                    if name in layer
                ),
                found.origin(name),
            )
            assert found.origin(name) is origin
        printed = json.dumps(settings_json(found))
        path.write_text(printed)
        again = read_settings({"NIM_CONFIG_FILE": str(path)})
        assert all(getattr(again, name) == getattr(found, name) for name in VALUES)


@settings(deadline=None)
@given(st.text(max_size=60), st.sampled_from([".yaml", ".json", ".toml"]))
def test_a_file_of_any_text_is_read_or_refused(text: str, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"a{suffix}"
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            read_settings({}, {"config_file": str(path)})
        except SettingError as error:
            assert str(path) in str(error)
