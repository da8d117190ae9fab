"""Quantized checkpoints as others publish them.

AutoAWQ and AutoGPTQ can't be installed beside this transformers: their tensors are packed here,
field by field, in the layout of AutoAWQ 0.2.9's WQLinear_GEMM and AutoGPTQ's QuantLinear.
compressed-tensors writes its own.
"""

import json
from pathlib import Path
from typing import Any

import torch
from compressed_tensors import ModelCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_awq(values_CN: torch.Tensor) -> torch.Tensor:
    """Fields of 4 bits: the i-th of an int32 is column _AWQ_ORDER[i] of its eight."""
    packed = torch.zeros(values_CN.shape[0], values_CN.shape[1] // 8, dtype=torch.int64)
    for column in range(packed.shape[1]):
        for i, offset in enumerate(_AWQ_ORDER):
            packed[:, column] |= values_CN[:, column * 8 + offset].long() << (4 * i)
    return _int32(packed)


def pack_rows(values: torch.Tensor, bits: int) -> torch.Tensor:
    """GPTQ's qweight: an int32 holds 32 / bits rows, the first one lowest."""
    per_word = 32 // bits
    packed = torch.zeros(values.shape[0] // per_word, values.shape[1], dtype=torch.int64)
    for row in range(values.shape[0]):
        packed[row // per_word] |= values[row].long() << (bits * (row % per_word))
    return _int32(packed)


def rewrite(home: Path, tensors: dict[str, torch.Tensor], settings: dict[str, Any] | None) -> None:
    """Put other weights and, where given, a quantization_config into a checkpoint."""
    save_file(tensors, home / "model.safetensors")
    config = json.loads((home / "config.json").read_text())
    if settings is not None:
        config["quantization_config"] = settings
    (home / "config.json").write_text(json.dumps(config))


def quantize_linears(
    home: Path, quantize: Any, settings: dict[str, Any] | None
) -> dict[str, torch.Tensor]:
    """Replace each linear layer's weight by what `quantize(weight_NC)` returns: the tensors to
    store by part, and the weight that they stand for. Returns these by name."""
    stored, expected = {}, {}
    for name, tensor in load_file(home / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            stored[name] = tensor
            continue
        parts, expected[name] = quantize(tensor)
        for part, value in parts.items():
            stored[f"{name.removesuffix('weight')}{part}"] = value.contiguous()
    rewrite(home, stored, settings)
    return expected


def compress(
    home: Path, target: Path, weights: QuantizationArgs, inputs: QuantizationArgs | None = None
) -> dict[str, torch.Tensor]:
    """`home` as compressed-tensors saves it to `target`, each scale from its weights' range.
    Returns what compressed-tensors itself makes of its linear layers, by name."""
    model = AutoModelForCausalLM.from_pretrained(home, dtype=torch.bfloat16)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head", "embed_out"])
    apply_quantization_config(model, config)
    modules = {n: m for n, m in model.named_modules() if hasattr(m, "quantization_scheme")}
    for module in modules.values():
        scale = module.weight_scale
        blocks = _blocks(module.weight.detach().float(), scale.shape, weights)
        scales, zeros = calculate_qparams(blocks.amin(-1), blocks.amax(-1), weights)
        scale.data.copy_(scales.reshape(scale.shape))
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data.copy_(zeros.reshape(scale.shape))
        if hasattr(module, "input_scale"):
            module.input_scale.data.fill_(0.5)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    target.mkdir()
    state = {n: t.contiguous() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    save_file(state, target / "model.safetensors")
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (target / file).write_bytes((home / file).read_bytes())
    compressor.update_config(str(target))
    compressor.decompress_model(model)
    return {f"{name}.weight": module.weight.detach().float() for name, module in modules.items()}


def _blocks(
    weight_NC: torch.Tensor, shape: tuple[int, ...], weights: QuantizationArgs
) -> torch.Tensor:
    """What shares a scale, along the last dimension."""
    if weights.block_structure:
        rows, columns = weights.block_structure
        tiles = weight_NC.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
        return tiles.transpose(1, 2).flatten(2)
    if len(shape) == 2:
        return weight_NC.unflatten(1, (shape[1], -1))
    return weight_NC.reshape(1, -1)


def _int32(packed: torch.Tensor) -> torch.Tensor:
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)
