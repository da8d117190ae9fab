"""The settings: the name, the type, the default and the manual of each."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, get_args

from nimlite.settings.given import Given, Origin, shown
from nimlite.settings.values import (
    BackendName,
    Bytes,
    Count,
    FilePath,
    GoalName,
    KeyDigests,
    KVPrecision,
    Level,
    LogLevel,
    Milliseconds,
    Names,
    Origins,
    Port,
    PrecisionName,
    ReasoningParserName,
    Seconds,
    Share,
    SSLMode,
    SSLModeName,
    Tags,
    Tokens,
    ToolCallParserName,
    default_cache_path,
)


class Group(enum.StrEnum):
    """What settings are about: each command takes the groups that concern it."""

    MODEL = "Model"
    CHOICE = "Choice of the profile"
    BUILD = "Build of the engine"
    LIMITS = "Limits and memory"
    SERVER = "Server"
    GENERAL = "General"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user asked for. A docstring's first sentence is the short help.

    A field named `max_model_len` is the variable NIM_MAX_MODEL_LEN, the flag --max-model-len, and
    the key max_model_len of a config file. None: it was not given, and something else decides.
    """

    model_path: Annotated[str | None, Group.MODEL] = None
    """The model: a profile family, a Hugging Face directory, a GGUF file, an engine directory, a
    model store, or hf://org/name. Unset: the embedded SmolLM2-135M-Instruct."""
    random_weights: Annotated[bool, Group.MODEL] = False
    """Serve the model's shapes with random weights, which need no download: for benchmarks."""
    model_profile: Annotated[str | None, Group.CHOICE] = None
    """The profile to use: its id, a unique beginning of it, its name, or the "id (name)" that
    list-model-profiles prints. Unset: the best here."""
    tags_selector: Annotated[Tags, Group.CHOICE] = field(default_factory=dict)
    """Choose only among profiles with these tags: precision=fp32,tp=1."""
    precision: Annotated[PrecisionName, Group.CHOICE] = None
    """Choose only among profiles of this precision: bf16, fp8, int4_awq, …; float16 is fp16."""
    tensor_parallel_size: Annotated[Count | None, Group.CHOICE] = None
    """Choose only among profiles that split each layer over so many GPUs."""
    pipeline_parallel_size: Annotated[Count | None, Group.CHOICE] = None
    """Choose only among profiles that split the layers into so many groups of GPUs."""
    profile_goal: Annotated[GoalName | None, Group.CHOICE] = None
    """What the choice aims at: latency, throughput or memory. Unset: throughput, on as few GPUs as
    the model needs."""
    slo_ttft_ms: Annotated[Milliseconds | None, Group.CHOICE] = None
    """Milliseconds within which the first token of a request should come. The cheapest profile that
    is predicted to keep it is chosen."""
    slo_itl_ms: Annotated[Milliseconds | None, Group.CHOICE] = None
    """Milliseconds within which each further token should come, likewise."""
    concurrency: Annotated[Count | None, Group.CHOICE] = None
    """Requests at a time that the choice is made for. Unset: what the goal implies."""
    input_length: Annotated[Tokens | None, Group.CHOICE] = None
    """Tokens of a typical prompt that the choice is made for; a longer one is served, too."""
    output_length: Annotated[Tokens | None, Group.CHOICE] = None
    """Tokens of a typical answer that the choice is made for."""
    calibration: Annotated[FilePath | None, Group.BUILD] = None
    """A text file on which fp8 and int8 and int4 of either kind measure activations: like what the
    model will be asked. fp8 then has scales of activations that are fixed by it. Unset: texts that
    come with nimlite."""
    backend: Annotated[BackendName | None, Group.BUILD] = None
    """What computes the dense layers on a GPU: torch (nimlite's own kernels), tensorrt, or auto
    (TensorRT where its plans run and agree with torch). Unset: what an engine in MODEL was built
    for, else torch."""
    max_model_len: Annotated[Tokens | None, Group.LIMITS] = None
    """Context of one request in tokens, prompt and answer together; 16k is 16384."""
    max_batch_size: Annotated[Count | None, Group.LIMITS] = None
    """Sequences that run at once; the others wait."""
    max_num_tokens: Annotated[Tokens | None, Group.LIMITS] = None
    """Tokens that one step of the engine computes at most."""
    kvcache_percent: Annotated[Share | None, Group.LIMITS] = None
    """Share of the free memory that weights, buffers and KV cache may take together: 0.9, or 90 %.
    Unset: 0.9, with the KV cache not larger than the profile says."""
    kv_precision: Annotated[KVPrecision | None, Group.LIMITS] = None
    """How keys and values are held: fp32 or bf16 on a CPU; on a GPU fp8, or as its activations are.
    Unset: as the profile says."""
    enable_kv_cache_reuse: Annotated[bool, Group.LIMITS] = True
    """Keep the KV blocks of finished requests for later ones that begin alike."""
    num_threads: Annotated[Count | None, Group.LIMITS] = None
    """Compute threads on the CPU. Unset: one less than the usable cores."""
    served_model_name: Annotated[Names, Group.SERVER] = ()
    """The model's names in the API, with commas between them; the first is the main one."""
    server_host: Annotated[str, Group.SERVER] = "0.0.0.0"
    """Address to listen on."""
    server_port: Annotated[Port, Group.SERVER] = 8000
    """TCP port to listen on."""
    max_queue_size: Annotated[Count, Group.SERVER] = 1024
    """Requests that wait at most; further ones are told when to come back."""
    api_key: Annotated[KeyDigests, Group.SERVER] = ()
    """The keys that clients must send one of, with commas between them. A key, or sha256: and its
    hex SHA-256. Others on the machine may see a command line: prefer the variable or the file.
    Unset: all who reach the port may ask."""
    api_keys_file: Annotated[FilePath | None, Group.SERVER] = None
    """A file with further keys, one a line; behind a key may stand its limits, as
    max_in_flight=8 tokens_per_minute=60000 weight=2."""
    ssl_mode: Annotated[SSLModeName, Group.SERVER] = SSLMode.DISABLED
    """DISABLED (plain HTTP), TLS, or MTLS, which asks clients for a certificate, too."""
    ssl_key_path: Annotated[FilePath | None, Group.SERVER] = None
    """The server's private key: a PEM file without a password."""
    ssl_certs_path: Annotated[FilePath | None, Group.SERVER] = None
    """The server's certificate: a PEM file, with what leads up to a known authority after it."""
    ssl_ca_certs_path: Annotated[FilePath | None, Group.SERVER] = None
    """The authorities whose certificates clients may show: a PEM file, for MTLS."""
    cors_allow_origins: Annotated[Origins, Group.SERVER] = ()
    """Origins whose pages may ask from a browser, with commas between them; * is all. Unset: only
    the server's own page."""
    cors_allow_methods: Annotated[Names, Group.SERVER] = ("GET", "POST", "DELETE")
    """HTTP methods that they may use."""
    cors_allow_headers: Annotated[Names, Group.SERVER] = ("*",)
    """Headers that they may send; * is all."""
    cors_expose_headers: Annotated[Names, Group.SERVER] = ("X-Request-Id", "Retry-After")
    """Headers of an answer that they may read."""
    cors_max_age: Annotated[Seconds, Group.SERVER] = 600
    """Seconds for which a browser may remember all this."""
    engine_process: Annotated[bool | None, Group.SERVER] = None
    """1: the engine runs in a process of its own, and one that is killed, crashes or hangs is
    started again; 0: in a thread of the server's, which takes less memory, and where only an error
    in a step is survived. Unset: 1 on a GPU, 0 on a CPU."""
    engine_timeout: Annotated[Count, Group.SERVER] = 300
    """Seconds that a step may take: over them the engine's process hangs, and is ended and started
    again."""
    tool_call_parser: Annotated[ToolCallParserName | None, Group.SERVER] = None
    """How the model writes calls of tools: hermes, llama3_json, pythonic, mistral, granite,
    granite-20b-fc, phi4_mini_json, nemotron, qwen3_coder or jamba. Unset: as its chat template
    says."""
    reasoning_parser: Annotated[ReasoningParserName | None, Group.SERVER] = None
    """How the model marks its thoughts: think (`<think>`), brackets (`[THINK]`) or none. Unset:
    as its chat template says."""
    specdec_enable: Annotated[bool, Group.SERVER] = False
    """Guess tokens from what came before in the text and check them together: faster where answers
    repeat parts of their prompts, and the answers stay the same."""
    num_speculative_tokens: Annotated[Count, Group.SERVER] = 8
    """Tokens that it guesses for one sequence in a step, at most; fewer where more would not
    pay."""
    cache_path: Annotated[FilePath, Group.GENERAL] = field(default_factory=default_cache_path)
    """Directory of downloads and built engines."""
    cache_max_bytes: Annotated[Bytes | None, Group.GENERAL] = None
    """What the cache directory may hold: 50000000000, 50 GB or 46.5 GiB. Over it, engines that no
    process uses are removed, the longest unused first. Unset: all is kept."""
    offline: Annotated[bool, Group.GENERAL] = False
    """Make no network request: what is not in the cache is an error."""
    download_connections: Annotated[Count, Group.GENERAL] = 8
    """Connections that a download opens at once, over files and over the parts of large ones."""
    machine: Annotated[str | None, Group.GENERAL] = None
    """A recorded machine to decide for instead of this one. The name of one in profiles/machines,
    or a file that `nimlite probe --save` wrote. Nothing is run for it: add --dry-run."""
    config_file: Annotated[FilePath | None, Group.GENERAL] = None
    """A file of settings: .yaml, .json or .toml, with these names as keys."""
    log_level: Annotated[Level, Group.GENERAL] = LogLevel.DEFAULT
    """TRACE, DEBUG, DEFAULT (as INFO), INFO, WARNING, ERROR or CRITICAL."""
    jsonl_logging: Annotated[bool, Group.GENERAL] = False
    """Log one JSON object a line."""
    given: Mapping[str, Given] = field(default_factory=dict)
    """By field: what is not at its default, as it was given."""

    def origin(self, name: str) -> Origin:
        """The layer that the value of field `name` comes from."""
        if name in self.given:
            return self.given[name].origin
        by_profile = getattr(self, name) is None and name in members(Group.LIMITS)
        return Origin.PROFILE if by_profile else Origin.DEFAULT

    def named(self, name: str) -> str:
        """The value as the user knows it: NIM_MAX_MODEL_LEN=16384, or --max-model-len=16384."""
        if name in self.given:
            return said(name, self.given[name])
        return f"NIM_{name.upper()}={shown(getattr(self, name))}"


FIELDS = tuple(f.name for f in fields(Settings) if f.name != "given")
"""The settings, in their order."""


SECRETS = ("api_key",)
"""Settings whose texts are printed nowhere; their values are digests."""


def said(name: str, given: Given) -> str:
    """Of setting `name`, as it can stand in a sentence."""
    return given.place if name in SECRETS else str(given)


def members(group: Group) -> tuple[str, ...]:
    """The settings of a group, in their order."""
    return tuple(n for n in FIELDS if group in get_args(Settings.__annotations__[n]))
