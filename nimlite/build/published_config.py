"""How a published checkpoint says that its weights are rounded: `quantization_config` in
config.json, or a file of its tool's own beside it. (Without torch.)"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimlite.errors import ModelError

OWN_FILES = {
    "hf_quant_config.json": "modelopt",
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
}
"""Where ModelOpt, AutoGPTQ and AutoAWQ say it when config.json does not."""
_WAY_OUT = (
    "Read are AutoAWQ (gemm), GPTQ (v1, v2) of 4 or 8 bits, compressed-tensors (pack-, int-,"
    " float- and naive-quantized), fp8 and ModelOpt FP8. Give one of these, or the checkpoint in"
    " bf16, fp16 or fp32: the profile's precision is made from it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFormat:
    """What the tensors alone do not tell."""

    method: str
    """awq, gptq, compressed-tensors, fp8 or modelopt."""
    bits: int = 8
    """awq, gptq: 4 or 8."""
    group_size: int = -1
    """awq, gptq: input features that share a scale; -1: all."""
    zeros_less_one: bool = False
    """gptq: whether zeros are stored one less than they are (its first format)."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale, where they are tiles."""


def published_format(directory: Path, settings: Mapping[str, Any]) -> PublishedFormat:
    """What a `quantization_config` says. Raises ModelError for what is not read."""
    try:
        return _format(directory, settings)
    except ModelError:
        raise
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise ModelError(
            f"The quantization_config of {directory} is not as any tool writes it ({error}):"
            " download config.json again."
        ) from error


def _format(directory: Path, settings: Mapping[str, Any]) -> PublishedFormat:
    method = settings.get("quant_method", "unknown")
    match method:
        case "awq":
            version = str(settings.get("version", "gemm")).lower()
            _refuse_other(directory, "AWQ version", version, ("gemm",))
            return _grouped(directory, settings, method, (4,))
        case "gptq":
            layout = settings.get("checkpoint_format") or "gptq"
            _refuse_other(directory, "GPTQ format", layout, ("gptq", "gptq_v2"))
            return _grouped(directory, settings, method, (4, 8), layout == "gptq")
        case "compressed-tensors":
            return _compressed_tensors(directory, settings)
        case "fp8":
            return PublishedFormat(method=method, block=_block(settings.get("weight_block_size")))
        case "modelopt":
            algorithm = settings.get("quant_algo", "unknown")
            _refuse_other(directory, "ModelOpt algorithm", algorithm, ("FP8",))
            return PublishedFormat(method=method)
    raise ModelError(f"{directory} holds weights quantized by {method!r}. {_WAY_OUT}")


def _grouped(
    directory: Path,
    settings: Mapping[str, Any],
    method: str,
    allowed_bits: tuple[int, ...],
    zeros_less_one: bool = False,
) -> PublishedFormat:
    bits = settings.get("bits", settings.get("w_bit"))  # the latter in AutoAWQ's own file
    group_size = settings.get("group_size", settings.get("q_group_size"))
    _refuse_other(directory, f"{method} of bits", bits, allowed_bits)
    if not isinstance(group_size, int) or (group_size <= 0 and group_size != -1):
        raise ModelError(
            f"The quantization_config of {directory} has the group_size {group_size!r}: it must be"
            " a positive number, or -1 for one group a row. Download config.json again."
        )
    return PublishedFormat(
        method=method, bits=int(bits or 0), group_size=group_size, zeros_less_one=zeros_less_one
    )


def _compressed_tensors(directory: Path, settings: Mapping[str, Any]) -> PublishedFormat:
    groups = list(settings.get("config_groups", {}).values())
    default = settings.get("format", "unknown")
    layouts = {group.get("format") or default for group in groups} or {default}
    for layout in sorted(layouts):
        _refuse_other(
            directory,
            "compressed-tensors format",
            layout,
            ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized"),
        )
    sparsity = (settings.get("sparsity_config") or {}).get("format", "dense")
    _refuse_other(directory, "compressed-tensors sparsity", sparsity, ("dense",))
    if (settings.get("transform_config") or {}).get("config_groups"):
        _refuse_other(directory, "compressed-tensors transform", "transform_config", ())
    blocks = {_block((group.get("weights") or {}).get("block_structure")) for group in groups}
    return PublishedFormat(
        method="compressed-tensors", block=blocks.pop() if len(blocks) == 1 else None
    )


def _block(sizes: Any) -> tuple[int, int] | None:
    return None if sizes is None else (int(sizes[0]), int(sizes[1]))


def _refuse_other(directory: Path, what: str, given: object, allowed: tuple[object, ...]) -> None:
    if given not in allowed:
        raise ModelError(f"{directory} holds weights in the {what} {given!r}. {_WAY_OUT}")
