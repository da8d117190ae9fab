"""Every NIM_* variable, typed and read once, with the place each value came from.

The layers, highest first: command-line flag, environment variable, profile, default. The profile's
layer is for `None`: a field whose default is None is decided later, by the profile or the machine.
A field named `server_port` is the variable NIM_SERVER_PORT, but for those in `_VARIABLES`.
"""

import difflib
import enum
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from nimlite.errors import SettingError


class Origin(enum.StrEnum):
    """Where a value came from."""

    DEFAULT = "default"
    PROFILE = "profile"
    ENVIRONMENT = "environment"
    FLAG = "flag"


class Goal(enum.StrEnum):
    """What NIM_PROFILE_GOAL takes."""

    LATENCY = "latency"
    """Each stream as fast as can be."""
    THROUGHPUT = "throughput"
    """All streams together as fast as can be."""
    MEMORY = "memory"
    """The least memory."""


class LogLevel(enum.StrEnum):
    """What NIM_LOG_LEVEL takes: Python's levels and NIM's two further names."""

    TRACE = "TRACE"
    DEBUG = "DEBUG"
    DEFAULT = "DEFAULT"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


def default_cache_path() -> Path:
    """~/.cache/nimlite, or a temporary folder of this user's where HOME can't be written."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    existing = home
    while not existing.exists():
        existing = existing.parent
    if existing.is_dir() and os.access(existing, os.W_OK):
        return home / "nimlite"
    return Path(tempfile.gettempdir()) / f"nimlite-{os.getuid()}"


def _split(value: object) -> object:
    """a,b -> (a, b)"""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _split_tags(value: object) -> object:
    """key=value,key=value -> a mapping"""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(key.strip() and separator and tag.strip() for key, separator, tag in pairs):
        raise ValueError("key=value pairs with commas between them")
    return {key.strip(): tag.strip() for key, _, tag in pairs}


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _expand(value: object) -> object:
    return Path(value).expanduser() if isinstance(value, str) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user asked for. Every field is one variable; its docstring is its manual."""

    model_path: str | None = None
    """The model: a profile family, a Hugging Face directory, a GGUF file, an engine directory or
    hf://org/name. None: the embedded SmolLM2-135M-Instruct."""
    model_profile: str | None = None
    """The profile to use: its id, a unique beginning of it, or its name. None: the best here."""
    tags_selector: Annotated[dict[str, str], BeforeValidator(_split_tags)] = field(
        default_factory=dict
    )
    """Choose only among profiles with these tags: precision=fp32,tp=1."""
    profile_goal: Annotated[Goal, BeforeValidator(_lower)] | None = None
    """What the choice of a profile aims at: latency, throughput or memory. None: latency."""
    slo_ttft_ms: Annotated[float, Field(gt=0)] | None = None
    """The first token of a request should come within so many milliseconds: the cheapest profile
    that is predicted to keep it is chosen."""
    slo_itl_ms: Annotated[float, Field(gt=0)] | None = None
    """Each further token should come within so many milliseconds, likewise."""
    concurrency: Annotated[int, Field(ge=1)] | None = None
    """Requests at a time that the choice of a profile is made for. None: what the goal implies."""
    input_length: Annotated[int, Field(ge=1)] | None = None
    """Tokens of a typical prompt, for the same choice."""
    output_length: Annotated[int, Field(ge=1)] | None = None
    """Tokens of a typical answer, for the same choice."""
    random_weights: bool = False
    """Serve the model's shapes with random weights, which need no download: for benchmarks."""
    served_model_name: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """The model's names in the API, with commas between them; the first is the main one."""
    cache_path: Annotated[Path, BeforeValidator(_expand)] = field(
        default_factory=default_cache_path
    )
    """Directory of downloads and built engines."""
    offline: bool = False
    """Make no network request: what is not in the cache is an error."""
    server_host: str = "0.0.0.0"
    """Address to listen on."""
    server_port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """TCP port to listen on."""
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    """Context of one request in tokens, prompt and answer together."""
    max_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Sequences that run at once; the others wait."""
    max_num_tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens that one step of the engine computes at most."""
    kvcache_percent: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the free memory that weights, buffers and KV cache may take together. None: 0.9,
    with the KV cache not larger than the profile says."""
    enable_kv_cache_reuse: bool = True
    """Keep the KV blocks of finished requests for later ones that begin alike."""
    num_threads: Annotated[int, Field(ge=1)] | None = None
    """Compute threads on the CPU. None: one less than the usable cores."""
    log_level: Annotated[LogLevel, BeforeValidator(_upper)] = LogLevel.DEFAULT
    """TRACE, DEBUG, DEFAULT (as INFO), INFO, WARNING, ERROR or CRITICAL."""
    jsonl_logging: bool = False
    """Log one JSON object a line."""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    """Where each field that is not at its default came from."""

    def origin(self, name: str) -> Origin:
        """Where the value of field `name` comes from."""
        undecided = Origin.PROFILE if getattr(self, name) is None else Origin.DEFAULT
        return self.origins.get(name, undecided)


_VARIABLES = {
    "model_path": ("NIM_MODEL_PATH", "NIM_MODEL_NAME"),
    "offline": ("NIM_OFFLINE", "HF_HUB_OFFLINE"),
}
_FIELDS = tuple(f.name for f in fields(Settings) if f.name != "origins")
_ADAPTER = TypeAdapter(Settings)


def variables(name: str) -> tuple[str, ...]:
    """The environment variables of field `name`, the main one first."""
    return _VARIABLES.get(name, (f"NIM_{name.upper()}",))


def read_settings(
    environ: Mapping[str, str], flags: Mapping[str, object] | None = None
) -> Settings:
    """Settings from the environment and from flags by field name, where None means not given.

    An empty variable counts as unset. Raises SettingError for the first bad value or contradiction.
    """
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    origins: dict[str, Origin] = {}
    for name in _FIELDS:
        if found := _from_environment(name, environ):
            sources[name], values[name] = found
            origins[name] = Origin.ENVIRONMENT
        if (flag := (flags or {}).get(name)) is not None:
            sources[name], values[name] = _flag(name), flag
            origins[name] = Origin.FLAG
    try:
        return _ADAPTER.validate_python({**values, "origins": origins})
    except ValidationError as error:
        raise _explain(error.errors(include_url=False)[0], values, sources) from None


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each NIM_* or NIMLITE_* variable that means nothing here."""
    known = [variable for name in _FIELDS for variable in variables(name)]
    sentences = []
    for name in sorted(environ):
        if name.startswith(("NIM_", "NIMLITE_")) and name not in known:
            nearest = difflib.get_close_matches(name.replace("NIMLITE_", "NIM_"), known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else "."
            sentences.append(f"{name} is set but nimlite has no such setting{hint}")
    return tuple(sentences)


def _from_environment(name: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    given = [(v, environ[v].strip()) for v in variables(name) if environ.get(v, "").strip()]
    ours = [(variable, value) for variable, value in given if variable.startswith("NIM_")]
    if len({value for _, value in ours}) > 1:
        both = " and ".join(f"{variable}={value}" for variable, value in ours)
        raise SettingError(f"{both} contradict each other: set only one of them.")
    return given[0] if given else None


def _flag(name: str) -> str:
    return "--" + name.removeprefix("server_").replace("_", "-")


_EXPECTED = {
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "bool_parsing": "1 or 0",
    "value_error": "{error}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "enum": "{expected}",
}
"""By pydantic's error type; what the type knows is in its context."""


def _explain(
    error: Mapping[str, Any], values: Mapping[str, object], sources: Mapping[str, str]
) -> SettingError:
    name = str(error["loc"][0])
    template = _EXPECTED.get(error["type"])
    expected = template.format(**error.get("ctx", {})) if template else error["msg"]
    return SettingError(f"{sources[name]}={values[name]} can't be used. Allowed: {expected}.")
