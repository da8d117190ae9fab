"""Manifests: which profiles a model family has. Plain data; reading YAML is `load.py`."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Precision(enum.StrEnum):
    """How the weights of the linear layers are held."""

    FP32 = "fp32"
    BF16 = "bf16"
    INT8 = "int8"
    """Weight-only, symmetric, groups of 32."""
    INT4 = "int4"
    """Weight-only, asymmetric, groups of 32 in the layers; embedding and head int8."""


class Device(enum.StrEnum):
    """What a profile runs on."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file (or a directory) of the model and where it comes from."""

    uri: str
    """pypi://name==version?file=member, hf://org/name@revision, file:///path, https://…"""
    sha256: str | None = None
    """Digest of the file after extraction, pinned in the manifest."""
    size: int | None = None
    """Bytes, for the progress bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way to run the model. `id` is the sha256 of everything else in it."""

    id: str
    family: str
    device: Device
    precision: Precision
    tp: int = 1
    pp: int = 1
    kv_precision: Precision
    max_model_len: int
    max_batch_size: int
    """Sequences that may run at once."""
    max_num_tokens: int
    """The token budget of one step."""
    block_size: int
    kv_cache_bytes: int | None = None
    """None: whatever `NIM_KVCACHE_PERCENT` leaves."""
    relative_speed: float = 1.0
    """Rank between profiles of one device that fit, higher first; measured figures are in docs/performance.md."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """NIM's tags as `NIM_TAGS_SELECTOR` reads them: llm_engine, precision, tp, pp, profile, …"""

    @property
    def name(self) -> str:
        """The display name, such as nimlite-int4-tp1-pp1-cpu."""
        return f"nimlite-{self.precision}-tp{self.tp}-pp{self.pp}-{self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A model family: its artifact and its profiles."""

    family: str
    display_name: str
    served_name: str
    """The name in /v1/models unless NIM_SERVED_MODEL_NAME says otherwise."""
    license: str
    artifact: Artifact
    profiles: tuple[Profile, ...]
    num_parameters: int
