"""Every variable of NIM's, and what it means here.

Most are read as a setting, under their own name or as another spelling of it. Each of the others is
answered by a warning that names it, so that none is ignored in silence; a value that asks for what
nimlite does anyway needs none.
"""

import difflib
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nimlite.settings.fields import FIELDS


@dataclass(frozen=True, slots=True)
class Spelling:
    """Another name of a setting."""

    field: str


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A variable that a library or the probe reads by itself."""

    reader: str


@dataclass(frozen=True, slots=True)
class NotYet:
    """A feature that this version lacks."""

    reason: str
    harmless: tuple[str, ...] = ("0", "false", "no", "off")
    """Values that don't ask for it."""


@dataclass(frozen=True, slots=True)
class NoEffect:
    """A variable that has nothing to act on here."""

    reason: str
    harmless: tuple[str, ...] = ()


Meaning = Spelling | Elsewhere | NotYet | NoEffect

_ON = ("1", "true", "yes", "on")
_OFF = ("0", "false", "no", "off", "disabled", "none")
_TABLE: dict[str, Meaning] = {
    # Model and profile
    "NIM_MODEL_NAME NIM_FT_MODEL NIM_ENGINE_MODEL_PATH": Spelling("model_path"),
    "NIM_MANIFEST_PROFILE": Spelling("model_profile"),
    "NIM_ENGINE_PRECISION": Spelling("precision"),
    "NIM_DISABLE_MODEL_DOWNLOAD HF_HUB_OFFLINE": Spelling("offline"),
    "HF_TOKEN HF_ENDPOINT": Elsewhere("huggingface_hub"),
    "SSL_CERT_FILE REQUESTS_CA_BUNDLE": Elsewhere("the HTTP clients"),
    "CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES": Elsewhere("the driver"),
    "NGC_API_KEY NGC_CLI_API_KEY": NoEffect(
        "nimlite needs no key, and ngc:// is not a source: name a model by hf://org/name or a path"
    ),
    "MODELSCOPE_API_TOKEN AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_REGION AWS_ENDPOINT_URL "
    "AWS_S3_USE_PATH_STYLE GOOGLE_APPLICATION_CREDENTIALS": NotYet(
        "models come from hf://, https://, pypi:// and paths, not from s3://, gs:// or "
        "modelscope://: mount the bucket and give its path"
    ),
    "NIM_REPOSITORY_OVERRIDE": NotYet(
        "a mirror of the Hugging Face Hub is named by HF_ENDPOINT, one of PyPI by pip's settings",
        (),
    ),
    "NIM_MANIFEST_ALLOW_UNSAFE": NoEffect(
        "a model that no manifest lists gets one at run time, and a profile that can't run here is "
        "refused with the reason",
        _OFF,
    ),
    "NIM_CUSTOM_MODEL_NAME": NoEffect(
        "a built engine is found again by the digest of all that shaped it, and needs no name"
    ),
    "NIM_MODEL_TOKENIZER NIM_CHAT_TEMPLATE": NotYet(
        "the tokenizer and the chat template are those in the model's directory: change them there",
        (),
    ),
    "NIM_TOKENIZER_MODE": NoEffect("the fast tokenizer is the only one", ("auto", "fast")),
    "NIM_CACHE_PROBE_TIMEOUT": NoEffect("the cache directory is used, not probed first"),
    "NIM_SDK_MAX_PARALLEL_DOWNLOAD_REQUESTS": Spelling("download_connections"),
    "NIM_SDK_USE_NATIVE_TLS": NotYet("name the certificates of your proxy by SSL_CERT_FILE"),
    "NIM_TRUST_CUSTOM_CODE NIM_FORCE_TRUST_REMOTE_CODE": NoEffect(
        "no code of a model's repository is ever run", _OFF
    ),
    "NIM_ENGINE_MODEL_DOWNLOAD_ONLY": NoEffect(
        "`nimlite download-to-cache` downloads without serving", _OFF
    ),
    # Shape and memory
    "NIM_MAX_NUM_SEQS": Spelling("max_batch_size"),
    "NIM_GPU_MEM_FRACTION": Spelling("kvcache_percent"),
    "NIM_LOW_MEMORY_MODE": NoEffect("set NIM_PROFILE_GOAL=memory for the smallest profile", _OFF),
    "NIM_RELAX_MEM_CONSTRAINTS": NoEffect(
        "a profile that does not fit would die while it loads; list-model-profiles names the "
        "setting that makes it fit",
        _OFF,
    ),
    "NIM_NUM_KV_CACHE_SEQ_LENS": NotYet(
        "the KV cache holds at least one request of full length: ask for more memory by "
        "NIM_KVCACHE_PERCENT, or a shorter NIM_MAX_MODEL_LEN",
        ("1",),
    ),
    "NIM_ENABLE_KV_CACHE_HOST_OFFLOAD NIM_KV_CACHE_HOST_MEM_FRACTION": NotYet(
        "blocks of the KV cache don't move to host memory"
    ),
    "NIM_MAMBA_SSM_CACHE_DTYPE": NotYet("Mamba models are not read", ("auto",)),
    "NIM_DISABLE_CUDA_GRAPH": NotYet("the GPU engine always records its decode steps"),
    "NIM_SCHEDULER_POLICY": NoEffect(
        "requests run in the order they came, and where the KV cache runs full the newest gives "
        "its blocks back",
        ("max_utilization", "fcfs"),
    ),
    "NIM_DISABLE_OVERLAP_SCHEDULING NIM_ENABLE_DP_ATTENTION": NoEffect(
        "it is a switch of an engine that is not in here", _OFF
    ),
    "NIM_USE_SGLANG NIM_USE_TRTLLM_LEGACY_BACKEND": NoEffect("there is one engine", _OFF),
    "NIM_FORCE_DETERMINISTIC": NotYet("give a request temperature 0, or a seed"),
    "NIM_PASSTHROUGH_ARGS": Elsewhere("nimlite as further flags, which beat the other variables"),
    "NIM_DRAFT_MODEL_PATH NIM_SPECDEC_*": NotYet(
        "speculative decoding guesses from the text itself: NIM_SPECDEC_ENABLE=1 switches it on, "
        "NIM_NUM_SPECULATIVE_TOKENS says how far it looks ahead"
    ),
    "NIM_CAPTURE_ENABLE NIM_CAPTURE_ARGS": NotYet("requests are not captured"),
    # LoRA
    "NIM_PEFT_SOURCE NIM_PEFT_REFRESH_INTERVAL NIM_PEFT_API_TIMEOUT_SECS NIM_MAX_GPU_LORAS "
    "NIM_MAX_CPU_LORAS NIM_MAX_LORA_RANK": NotYet(
        "adapters are not served: merge yours into its model and serve that", ()
    ),
    # Requests
    "NIM_GUIDED_DECODING_BACKEND NIM_CUSTOM_GUIDED_DECODING_BACKENDS": NotYet(
        "answers can't be constrained", ("none", "auto")
    ),
    "NIM_ENABLE_AUTO_TOOL_CHOICE": NoEffect(
        "a request that brings tools gets the calls read out of its answer", _ON
    ),
    "NIM_TOOL_PARSER_PLUGIN": NoEffect(
        "no foreign code is run: name one of the parsers by NIM_TOOL_CALL_PARSER", _OFF
    ),
    "NIM_ENABLE_PROMPT_LOGPROBS": NoEffect(
        "a request that asks for its prompt's log-probabilities gets them", _ON
    ),
    "NIM_REWARD_MODEL NIM_REWARD_MODEL_STRING NIM_REWARD_LOGITS_RANGE": NotYet(
        "reward models are not served"
    ),
    "NIM_MAX_IMAGES_PER_PROMPT": NotYet("prompts are text"),
    # Server
    "NIM_HTTP_API_PORT": Spelling("server_port"),
    "NIM_HEALTH_PORT": NotYet("health is answered on NIM_SERVER_PORT", ()),
    "NIM_MIDDLEWARE_CONFIG_PATH NIM_NGINX_DIR": NoEffect("there is no nginx in here"),
    "NIM_SAGEMAKER_MODE": NotYet("there are no routes for SageMaker"),
    # Several machines
    "NIM_MULTI_NODE NIM_NUM_COMPUTE_NODES NIM_NODE_RANK NIM_LEADER_ROLE NIM_LEADER_IP_ADDRESS "
    "NIM_MPI_ALLOW_RUN_AS_ROOT GPUS_PER_NODE CLUSTER_SIZE CLUSTER_START_TIMEOUT "
    "GROUP_INDEX": NotYet(
        "a model is served by one machine; several run a copy each", ("0", "1", "false")
    ),
    # Logs and telemetry
    "NIM_DISABLE_LOG_REQUESTS": NoEffect("prompts and answers are never logged", _ON),
    "NIM_PER_REQ_METRICS_ENABLE": NotYet("the figures of requests are in /v1/metrics"),
    "NIM_ENABLE_OTEL NIM_OTEL_* OTEL_SERVICE_NAME OTEL_EXPORTER_OTLP_ENDPOINT "
    "OTEL_TRACES_EXPORTER OTEL_METRICS_EXPORTER": NotYet(
        "traces are not sent; figures are in /v1/metrics", (*_OFF, "console")
    ),
    "NIM_TELEMETRY_MODE": NoEffect("nimlite sends no telemetry", _OFF),
    "DO_NOT_TRACK": NoEffect("nimlite sends no telemetry", ("1", "true")),
    # Dynamo, Triton
    "NIM_DYNAMO_SINGLE NIM_DYNAMO_WORKER NIM_DYNAMO_FRONTEND DYN_HTTP_PORT": NoEffect(
        "there is no Dynamo in here", _OFF
    ),
    "NIM_TRITON_* NIM_GRPC_API_PORT": NoEffect("there is no Triton Inference Server in here"),
}
MEANINGS: Mapping[str, Meaning] = {
    name: meaning for names, meaning in _TABLE.items() for name in names.split()
}
"""By variable; a name that ends in * stands for all that begin so."""


def variables(name: str) -> tuple[str, ...]:
    """The variables of setting `name`, the main one first."""
    main = f"NIM_{name.upper()}"
    return main, *(v for v, meaning in MEANINGS.items() if meaning == Spelling(name))


def is_known(variable: str) -> bool:
    """Whether it is a setting or a variable of NIM's."""
    known = (*(v for name in FIELDS for v in variables(name)), *MEANINGS)
    return any(fnmatch.fnmatchcase(variable, pattern) for pattern in known)


def notices(environ: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for every variable that is set and does nothing, those of one reason together."""
    given = {name: value.strip() for name, value in sorted(environ.items()) if value.strip()}
    by_meaning: dict[NotYet | NoEffect, list[str]] = {}
    for name, value in given.items():
        meaning = _meaning(name)
        if isinstance(meaning, NotYet | NoEffect) and value.lower() not in meaning.harmless:
            by_meaning.setdefault(meaning, []).append(name)
    answers = (_answer(names, meaning) for meaning, names in by_meaning.items())
    ours = (name for name in given if name.startswith(("NIM_", "NIMLITE_")))
    return (*answers, *(_unknown(name) for name in ours if not is_known(name)))


def _meaning(variable: str) -> Meaning | None:
    if variable in (v for name in FIELDS for v in variables(name)):
        return None
    patterns = (p for p in MEANINGS if fnmatch.fnmatchcase(variable, p))
    return MEANINGS.get(next(patterns, ""))


def _answer(names: Iterable[str], meaning: NotYet | NoEffect) -> str:
    *others, last = names
    subject = f"{', '.join(others)} and {last} have" if others else f"{last} has"
    yet = " yet" if isinstance(meaning, NotYet) else ""
    return f"{subject} no effect{yet}: {meaning.reason}."


def _unknown(variable: str) -> str:
    known = [*(v for name in FIELDS for v in variables(name)), *MEANINGS]
    asked = variable.replace("NIMLITE_", "NIM_")
    nearest = difflib.get_close_matches(asked, known, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else "."
    return f"{variable} is set but nimlite has no such setting{hint}"
