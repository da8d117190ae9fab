"""Texts read into values, leniently: what can only mean one thing is understood."""

import enum
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer


class Goal(enum.StrEnum):
    """What NIM_PROFILE_GOAL takes."""

    LATENCY = "latency"
    """Each stream as fast as can be."""
    THROUGHPUT = "throughput"
    """All streams together as fast as can be."""
    MEMORY = "memory"
    """The least memory."""


class DenseBackend(enum.StrEnum):
    """What NIM_BACKEND takes."""

    TORCH = "torch"
    """nimlite's own kernels, with torch's products."""
    TENSORRT = "tensorrt"
    """Plans of TensorRT, or an error."""
    AUTO = "auto"
    """Plans of TensorRT where they run and agree with torch; else torch."""


class LogLevel(enum.StrEnum):
    """What NIM_LOG_LEVEL takes: Python's levels and NIM's two further names."""

    TRACE = "TRACE"
    DEBUG = "DEBUG"
    DEFAULT = "DEFAULT"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class ToolCallParser(enum.StrEnum):
    """What NIM_TOOL_CALL_PARSER takes."""

    HERMES = "hermes"
    LLAMA3_JSON = "llama3_json"
    PYTHONIC = "pythonic"
    MISTRAL = "mistral"
    GRANITE = "granite"
    GRANITE_20B = "granite-20b-fc"
    PHI4_MINI = "phi4_mini_json"
    NEMOTRON = "nemotron"
    QWEN3_CODER = "qwen3_coder"
    JAMBA = "jamba"


class ReasoningParser(enum.StrEnum):
    """What NIM_REASONING_PARSER takes."""

    THINK = "think"
    BRACKETS = "brackets"
    NONE = "none"


class SSLMode(enum.StrEnum):
    """What NIM_SSL_MODE takes."""

    DISABLED = "DISABLED"
    TLS = "TLS"
    """The server shows a certificate."""
    MTLS = "MTLS"
    """Clients show one, too."""


def default_cache_path() -> Path:
    """~/.cache/nimlite, or a temporary folder of this user's where there is no home that can be
    written."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(home) and _can_be_made(home):
        return Path(home) / "nimlite"
    return Path(tempfile.gettempdir()) / f"nimlite-{os.getuid()}"


def _can_be_made(directory: str) -> bool:
    existing = directory
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    return os.path.isdir(existing) and os.access(existing, os.W_OK, effective_ids=True)


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _split(value: object) -> object:
    """a,b -> (a, b)"""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def key_digest(key: str) -> str:
    """The hex SHA-256 of an API key, which may itself be given as `sha256:` and that."""
    if found := re.fullmatch(r"sha256:([0-9a-f]{64})", key):
        return found[1]
    if not re.fullmatch(r"(?!sha256:)[\x21-\x2b\x2d-\x7e]{16,256}", key):
        raise ValueError(
            "16 to 256 ASCII characters without spaces and commas (`openssl rand -hex 32` makes "
            "some), or sha256: and the hex SHA-256 of such a key"
        )
    return hashlib.sha256(key.encode()).hexdigest()


def _digests(value: object) -> object:
    keys = _split(value)
    if not isinstance(keys, list | tuple):
        return value
    return tuple(key_digest(str(key)) for key in keys)


def _origins(value: object) -> object:
    origins = _split(value)
    for origin in origins if isinstance(origins, list | tuple) else ():
        if origin != "*" and not re.fullmatch(r"https?://[^/\s*?#]+", str(origin)):
            raise ValueError("*, or origins like https://chat.example.com, without a path")
    return origins


def _split_tags(value: object) -> object:
    """key=value,key=value -> a mapping; tags are text, whatever a file's syntax takes them for."""
    if isinstance(value, dict):
        return {str(key): _tag(tag) for key, tag in value.items()}
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if not all(key.strip() and separator and tag.strip() for key, separator, tag in pairs):
        raise ValueError("key=value pairs with commas between them")
    return {key.strip(): tag.strip() for key, _, tag in pairs}


def _tag(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _precision(value: object) -> object:
    """float16 -> fp16, as checkpoints and TensorRT-LLM's --dtype name it; auto: not given."""
    text = _lower(value)
    if text == "auto":
        return None
    dtypes = {"float32": "fp32", "float": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    dtypes |= {"fp8_e4m3": "fp8", "float8_e4m3fn": "fp8"}
    return dtypes.get(text, text) if isinstance(text, str) else text


def _kv_precision(value: object) -> object:
    text = _precision(value)
    if text not in (None, "fp32", "bf16", "fp16", "fp8"):
        raise ValueError("fp32, bf16, fp16 or fp8")
    return text


def _thousands(value: object) -> object:
    """16k -> 16384: of tokens, as models' names count them."""
    found = re.fullmatch(r"(\d{1,9})\s*k", value.strip(), re.I) if isinstance(value, str) else None
    return int(found[1]) * 1024 if found else value


def _bytes(value: object) -> object:
    """50 GB -> 50,000,000,000; 50 GiB -> 53,687,091,200."""
    text = value.strip() if isinstance(value, str) else ""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt])(i?)b?", text, re.I)
    if not found:
        return value
    return int(
        float(found[1]) * (1024 if found[3] else 1000) ** ("kmgt".index(found[2].lower()) + 1)
    )


def _share(value: object) -> object:
    """90 % and 90 -> 0.9. What is between 1 and 2 may be meant either way, and stays as it is."""
    text = str(value).strip()
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?)\s*(%?)", text)
    if found and (found[2] or 2 <= float(found[1]) <= 100):
        return float(found[1]) / 100
    return value


def _path(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError("a path whose ~user exists") from error


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
Tokens = Annotated[int, BeforeValidator(_thousands), Field(ge=1)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_share), Field(gt=0, le=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
KeyDigests = Annotated[
    tuple[str, ...],
    BeforeValidator(_digests),
    PlainSerializer(lambda digests: [f"sha256:{digest}" for digest in digests]),
]
Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
Seconds = Annotated[int, Field(ge=0)]
SSLModeName = Annotated[SSLMode, BeforeValidator(_upper)]
Tags = Annotated[dict[str, str], BeforeValidator(_split_tags)]
FilePath = Annotated[Path, BeforeValidator(_path)]
PrecisionName = Annotated[str | None, BeforeValidator(_precision)]
BackendName = Annotated[DenseBackend, BeforeValidator(_lower)]
KVPrecision = Annotated[str | None, BeforeValidator(_kv_precision)]
GoalName = Annotated[Goal, BeforeValidator(_lower)]
Level = Annotated[LogLevel, BeforeValidator(_upper)]
ToolCallParserName = Annotated[ToolCallParser, BeforeValidator(_lower)]
ReasoningParserName = Annotated[ReasoningParser, BeforeValidator(_lower)]
