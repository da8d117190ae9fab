"""NIM's variables: each is read, or answered by a sentence that names it."""

import pytest

from nimlite.settings import notices, read_settings
from nimlite.settings.nim import MEANINGS, NoEffect, NotYet, Spelling, is_known, variables

_NAMES = """
NGC_API_KEY NGC_CLI_API_KEY HF_TOKEN MODELSCOPE_API_TOKEN AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
AWS_REGION AWS_ENDPOINT_URL AWS_S3_USE_PATH_STYLE GOOGLE_APPLICATION_CREDENTIALS NIM_MODEL_NAME
NIM_MODEL_PATH NIM_MODEL_PROFILE NIM_MANIFEST_PROFILE NIM_TAGS_SELECTOR NIM_MANIFEST_ALLOW_UNSAFE
NIM_SERVED_MODEL_NAME NIM_FT_MODEL NIM_CUSTOM_MODEL_NAME NIM_MODEL_TOKENIZER
NIM_REPOSITORY_OVERRIDE NIM_DISABLE_MODEL_DOWNLOAD NIM_CACHE_PATH NIM_CACHE_PROBE_TIMEOUT
NIM_SDK_MAX_PARALLEL_DOWNLOAD_REQUESTS NIM_SDK_USE_NATIVE_TLS NIM_TRUST_CUSTOM_CODE
NIM_FORCE_TRUST_REMOTE_CODE NIM_MAX_MODEL_LEN NIM_TENSOR_PARALLEL_SIZE NIM_PIPELINE_PARALLEL_SIZE
NIM_MAX_NUM_SEQS NIM_MAX_BATCH_SIZE NIM_KVCACHE_PERCENT NIM_GPU_MEM_FRACTION NIM_LOW_MEMORY_MODE
NIM_RELAX_MEM_CONSTRAINTS NIM_NUM_KV_CACHE_SEQ_LENS NIM_ENABLE_KV_CACHE_REUSE
NIM_ENABLE_KV_CACHE_HOST_OFFLOAD NIM_KV_CACHE_HOST_MEM_FRACTION NIM_MAMBA_SSM_CACHE_DTYPE
NIM_DISABLE_CUDA_GRAPH NIM_SCHEDULER_POLICY NIM_DISABLE_OVERLAP_SCHEDULING NIM_ENABLE_DP_ATTENTION
NIM_USE_SGLANG NIM_USE_TRTLLM_LEGACY_BACKEND NIM_FORCE_DETERMINISTIC NIM_PASSTHROUGH_ARGS
NIM_DRAFT_MODEL_PATH NIM_SPECDEC_METHOD NIM_CAPTURE_ENABLE NIM_CAPTURE_ARGS NIM_PEFT_SOURCE
NIM_PEFT_REFRESH_INTERVAL NIM_PEFT_API_TIMEOUT_SECS NIM_MAX_GPU_LORAS NIM_MAX_CPU_LORAS
NIM_MAX_LORA_RANK NIM_GUIDED_DECODING_BACKEND NIM_CUSTOM_GUIDED_DECODING_BACKENDS
NIM_ENABLE_AUTO_TOOL_CHOICE NIM_TOOL_CALL_PARSER NIM_TOOL_PARSER_PLUGIN NIM_CHAT_TEMPLATE
NIM_ENABLE_PROMPT_LOGPROBS NIM_TOKENIZER_MODE NIM_REWARD_MODEL NIM_REWARD_MODEL_STRING
NIM_REWARD_LOGITS_RANGE NIM_MAX_IMAGES_PER_PROMPT NIM_SERVER_PORT NIM_HTTP_API_PORT
NIM_HEALTH_PORT NIM_CORS_ALLOW_ORIGINS NIM_CORS_ALLOW_HEADERS NIM_CORS_ALLOW_METHODS
NIM_CORS_EXPOSE_HEADERS NIM_CORS_MAX_AGE NIM_SSL_MODE NIM_SSL_KEY_PATH NIM_SSL_CERTS_PATH
NIM_SSL_CA_CERTS_PATH SSL_CERT_FILE NIM_MIDDLEWARE_CONFIG_PATH NIM_NGINX_DIR NIM_SAGEMAKER_MODE
NIM_MULTI_NODE NIM_NUM_COMPUTE_NODES NIM_NODE_RANK NIM_LEADER_ROLE NIM_LEADER_IP_ADDRESS
NIM_MPI_ALLOW_RUN_AS_ROOT GPUS_PER_NODE CLUSTER_SIZE CLUSTER_START_TIMEOUT GROUP_INDEX
NIM_LOG_LEVEL NIM_JSONL_LOGGING NIM_DISABLE_LOG_REQUESTS NIM_PER_REQ_METRICS_ENABLE
NIM_ENABLE_OTEL OTEL_SERVICE_NAME OTEL_EXPORTER_OTLP_ENDPOINT OTEL_TRACES_EXPORTER
OTEL_METRICS_EXPORTER NIM_OTEL_SERVICE_NAME NIM_TELEMETRY_MODE DO_NOT_TRACK NIM_DYNAMO_SINGLE
NIM_DYNAMO_WORKER NIM_DYNAMO_FRONTEND DYN_HTTP_PORT NIM_ENGINE_MODEL_PATH
NIM_ENGINE_MODEL_DOWNLOAD_ONLY NIM_ENGINE_PRECISION NIM_TRITON_MAX_BATCH_SIZE
NIM_TRITON_LOG_VERBOSE NIM_TRITON_RATE_LIMIT NIM_TRITON_CUDA_MEMORY_POOL_MB
NIM_TRITON_CPU_THREADS_PRE_PROCESSOR NIM_TRITON_CPU_THREADS_POST_PROCESSOR NIM_TRITON_GRPC_PORT
NIM_TRITON_METRICS_PORT NIM_GRPC_API_PORT CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES
"""
"""The variables of NVIDIA's pages for NIM 1.0 to 3.0 and its operator."""


@pytest.mark.parametrize("name", _NAMES.split())
def test_every_variable_of_nim_is_known(name: str) -> None:
    assert is_known(name)


@pytest.mark.parametrize(
    "name", [n for n, m in MEANINGS.items() if isinstance(m, NotYet | NoEffect)]
)
def test_what_has_no_effect_is_answered_by_one_sentence(name: str) -> None:
    variable = name.replace("*", "ANYTHING")
    (sentence,) = notices({variable: "something"})
    assert sentence.startswith(f"{variable} has no effect")
    assert sentence.endswith(".")
    assert notices({variable: ""}) == ()


def test_what_asks_for_what_is_so_anyway_needs_no_answer() -> None:
    environ = {"NIM_SSL_MODE": "DISABLED", "NIM_DISABLE_LOG_REQUESTS": "1", "DO_NOT_TRACK": "1"}
    assert notices(environ | {"NIM_MULTI_NODE": "0", "NIM_USE_SGLANG": "False"}) == ()
    assert len(notices({"NIM_DISABLE_LOG_REQUESTS": "0"})) == 1


def test_variables_with_one_reason_share_a_sentence() -> None:
    assert notices({"NIM_PEFT_SOURCE": "/loras", "NIM_MAX_LORA_RANK": "8"}) == (
        "NIM_MAX_LORA_RANK and NIM_PEFT_SOURCE have no effect yet: adapters are not served: merge "
        "yours into its model and serve that.",
    )


def test_a_secret_is_named_but_never_printed() -> None:
    (sentence,) = notices({"NGC_API_KEY": "nvapi-secret", "HF_TOKEN": "hf_secret"})
    assert sentence.startswith("NGC_API_KEY has no effect: nimlite needs no key")
    assert "secret" not in sentence


def test_an_unknown_variable_gets_its_nearest_name() -> None:
    environ = {
        "NIM_SERVED_MODEL": "a",
        "NIMLITE_PORT": "1",
        "NIM_QUUX": "1",
        "NIM_X": "",
        "PATH": "/",
    }
    assert notices(environ) == (
        "NIMLITE_PORT is set but nimlite has no such setting; did you mean NIM_SERVER_PORT?",
        "NIM_QUUX is set but nimlite has no such setting.",
        "NIM_SERVED_MODEL is set but nimlite has no such setting; "
        "did you mean NIM_SERVED_MODEL_NAME?",
    )


@pytest.mark.parametrize(
    ("variable", "value", "field"),
    [(v, "1", m.field) for v, m in MEANINGS.items() if isinstance(m, Spelling)],
)
def test_other_spellings_set_the_same(variable: str, value: str, field: str) -> None:
    main = variables(field)[0]
    ours, theirs = read_settings({main: value}), read_settings({variable: value})
    assert getattr(ours, field) == getattr(theirs, field)
    assert theirs.given[field].place == variable
