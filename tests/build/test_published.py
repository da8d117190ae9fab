"""Each published format equals its own dequantization."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from fakes.llama import random_llama
from fakes.published import compress, pack_awq, pack_rows, quantize_linears, rewrite
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from nimlite.build.checkpoint import Checkpoint, open_checkpoint
from nimlite.build.huggingface import HuggingFaceCheckpoint
from nimlite.build.reference import Reference
from nimlite.build.staging import Staging
from nimlite.errors import ModelError
from nimlite.models.registry import read_spec

_Q_PROJ = "model.layers.0.self_attn.q_proj"
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    random_llama(tmp_path, intermediate_size=128)
    return tmp_path / "checkpoint"


def _grid(
    weight_NC: torch.Tensor, group_C: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """values_CN, zeros_GN and scales_GN of the smallest grid over each group, and their weight."""
    num_groups = int(group_C.max()) + 1
    lows, highs = (
        torch.stack([f(weight_NC[:, group_C == g], dim=1) for g in range(num_groups)])
        for f in (torch.amin, torch.amax)
    )
    scales_GN = ((highs.clamp(min=0) - lows.clamp(max=0)) / (2**bits - 1)).half()
    zeros_GN = (-lows.clamp(max=0) / scales_GN.float()).round().clamp(0, 2**bits - 1)
    values_CN = (weight_NC.T / scales_GN[group_C].float() + zeros_GN[group_C]).round()
    values_CN = values_CN.clamp(0, 2**bits - 1)
    weight_CN = (values_CN - zeros_GN[group_C]) * scales_GN[group_C].float()
    return values_CN, zeros_GN, scales_GN, weight_CN.T


def _in_groups(num_inputs: int, size: int) -> torch.Tensor:
    return torch.arange(num_inputs) // size


def _awq(weight_NC: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    values, zeros, scales, weight = _grid(weight_NC, _in_groups(weight_NC.shape[1], 32), 4)
    return {"qweight": pack_awq(values), "qzeros": pack_awq(zeros), "scales": scales}, weight


def _equal(checkpoint: Checkpoint, expected: dict[str, torch.Tensor]) -> None:
    assert expected
    for name, weight in expected.items():
        assert torch.equal(checkpoint.tensor(name), weight), name


def test_awq(home: Path) -> None:
    plain = open_checkpoint(home)
    names = plain.names
    expected = quantize_linears(home, _awq, _AWQ)
    read = open_checkpoint(home)
    assert read.names == names
    _equal(read, expected)
    assert "rounded as awq has it" in read.provenance


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("group_size", [32, -1])
@pytest.mark.parametrize("desc_act", [False, True])
def test_gptq(home: Path, bits: int, layout: str, group_size: int, desc_act: bool) -> None:
    def quantize(weight_NC: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        num_inputs = weight_NC.shape[1]
        group_C = _in_groups(num_inputs, num_inputs if group_size == -1 else group_size)
        if desc_act:
            group_C = group_C[torch.randperm(num_inputs)]
        values, zeros, scales, weight = _grid(weight_NC, group_C, bits)
        stored = (zeros.long() - int(layout == "gptq")) % 2**bits
        parts = {
            "qweight": pack_rows(values, bits),
            "qzeros": pack_rows(stored.T, bits).T,
            "scales": scales,
            "g_idx": group_C.int(),
        }
        return parts, weight

    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "desc_act": desc_act,
        "sym": False,
        "checkpoint_format": layout,
    }
    expected = quantize_linears(home, quantize, settings)
    read = open_checkpoint(home)
    _equal(read, expected)
    assert isinstance(read, HuggingFaceCheckpoint)
    rounded = read.rounded(f"{_Q_PROJ}.weight", Staging())
    assert rounded is not None and rounded.kind == f"int{bits}"
    assert (rounded.order_C is not None) == (desc_act and group_size != -1)


@pytest.mark.parametrize("group_size", ["q_group_size", "group_size"])
def test_a_tool_may_say_it_in_a_file_of_its_own(home: Path, group_size: str) -> None:
    expected = quantize_linears(home, _awq, None)
    settings = {"zero_point": True, group_size: 32, "w_bit": 4, "version": "GEMM"}
    (home / "quant_config.json").write_text(json.dumps(settings))
    _equal(open_checkpoint(home), expected)


def test_modelopt_may_say_that_nothing_is_rounded(home: Path) -> None:
    (home / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": null}}')
    assert open_checkpoint(home).tensor(f"{_Q_PROJ}.weight").shape == (64, 64)


def test_a_type_of_tensor_that_is_not_read_is_named(home: Path) -> None:
    tensors = load_file(home / "model.safetensors")
    save_file({n: t.to(torch.float8_e5m2) for n, t in tensors.items()}, home / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"^model\.\S+ in .*model\.safetensors is F8_E5M2; read are F64,"
    ):
        open_checkpoint(home).names  # noqa: B018


_STATIC = {"strategy": "tensor", "dynamic": False}


@pytest.mark.parametrize(
    ("weights", "inputs", "kind"),
    [
        ({"num_bits": 4, "strategy": "group", "group_size": 32}, None, "int4"),
        ({"num_bits": 4, "strategy": "group", "group_size": 32, "symmetric": False}, None, "int4"),
        ({"num_bits": 4, "strategy": "channel"}, None, "int4"),
        ({"num_bits": 8, "strategy": "group", "group_size": 64}, None, "int8"),
        ({"num_bits": 8, "strategy": "channel"}, {"strategy": "token", "dynamic": True}, "int8"),
        ({"num_bits": 8, "strategy": "channel"}, _STATIC, "int8"),
        ({"type": "float", "strategy": "tensor"}, {"type": "float", **_STATIC}, "fp8"),
        (
            {"type": "float", "strategy": "channel"},
            {"type": "float", "strategy": "token", "dynamic": True},
            "fp8",
        ),
        (
            {"type": "float", "strategy": "block", "block_structure": [32, 32]},
            {"type": "float", "strategy": "token", "dynamic": True},
            "fp8",
        ),
    ],
)
def test_compressed_tensors(
    home: Path, weights: dict[str, Any], inputs: dict[str, Any] | None, kind: str
) -> None:
    given = None if inputs is None else QuantizationArgs(**inputs)
    target = home.parent / "compressed"
    expected = compress(home, target, QuantizationArgs(**weights), given)
    read = open_checkpoint(target)
    assert read.names == open_checkpoint(home).names
    for name, weight in expected.items():  # it multiplies in the scale's bf16, and we in fp32
        assert torch.equal(read.tensor(name).bfloat16().float(), weight), name
    assert isinstance(read, HuggingFaceCheckpoint)
    rounded = read.rounded(f"{_Q_PROJ}.weight", Staging())
    assert rounded is not None and rounded.kind == kind
    is_static = inputs is not None and not inputs.get("dynamic")
    assert rounded.input_scale == (0.5 if is_static else None)
    assert read.rounded("model.norm.weight", Staging()) is None


def _fp8(weight_NC: torch.Tensor, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight rounded by these scales (they may be of any shape that fits it), and what it is
    then."""
    rounded_NC = (weight_NC / scales).to(torch.float8_e4m3fn)
    return rounded_NC, rounded_NC.float() * scales


def test_fp8_by_tiles(home: Path) -> None:
    def quantize(weight_NC: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        rows, columns = weight_NC.shape[0] // 32, weight_NC.shape[1] // 64
        scales = 0.01 * (1 + torch.rand(rows, columns))
        each = scales.repeat_interleave(32, 0).repeat_interleave(64, 1)
        rounded_NC, weight_NC = _fp8(weight_NC, each)
        return {"weight": rounded_NC, "weight_scale_inv": scales}, weight_NC

    settings = {"quant_method": "fp8", "weight_block_size": [32, 64]}
    _equal(open_checkpoint(home), quantize_linears(home, quantize, settings))


def _modelopt(weight_NC: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    scale = weight_NC.abs().max() / 448
    rounded_NC, weight_NC = _fp8(weight_NC, scale)
    stored = {"weight": rounded_NC, "weight_scale": scale, "input_scale": torch.tensor(0.25)}
    return stored, weight_NC


def test_modelopt_fp8(home: Path) -> None:
    names = open_checkpoint(home).names
    expected = quantize_linears(home, _modelopt, None)
    before = open_checkpoint(home).digest
    algorithm = {"quant_algo": "FP8", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}
    settings = {"producer": {"name": "modelopt"}, "quantization": algorithm}
    (home / "hf_quant_config.json").write_text(json.dumps(settings))
    read = open_checkpoint(home)
    assert read.names == names and read.digest != before
    _equal(read, expected)
    assert isinstance(read, HuggingFaceCheckpoint)
    rounded = read.rounded(f"{_Q_PROJ}.weight", Staging())
    assert rounded is not None and rounded.input_scale == 0.25


@pytest.mark.parametrize(
    "weights",
    [
        {"num_bits": 4, "strategy": "group", "group_size": 32},
        {"num_bits": 8, "strategy": "channel"},
        {"type": "float", "strategy": "channel"},
    ],
)
def test_the_model_is_what_transformers_reads(home: Path, weights: dict[str, Any]) -> None:
    target = home.parent / "compressed"
    compress(home, target, QuantizationArgs(**weights))
    read = open_checkpoint(target)
    (logits_TV,) = Reference(read, read_spec(read.config))([range(8)])
    theirs = LlamaForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected_TV = theirs(torch.arange(8)[None]).logits[0]
    # They keep the weight in the scales' bf16.
    assert (logits_TV - expected_TV).norm() < 0.02 * expected_TV.norm()


@pytest.mark.parametrize(
    ("part", "change", "text"),
    [
        ("qzeros", None, r"has no {0}\.qzeros, but has {0}\.qweight, {0}\.scales: .*again\."),
        ("qweight", None, r"has no {0}\.qweight, but has .* Download it again\."),
        (
            "scales",
            lambda t: t[:1],
            r"{0}\.scales in .*model\.safetensors has the shape \[1, 64\],",
        ),
        ("qweight", lambda t: t.half(), r"{0}\.qweight in .* is float16, not int32: .* in bf16"),
        ("qweight", lambda t: t[0], r"{0}\.qweight in .* has the shape \[8\], which is no matrix"),
        ("qweight", lambda t: t[:50], r"qweight in .* has 50 input features, not whole groups of"),
    ],
)
def test_a_part_that_is_not_as_it_must_be_is_named(
    home: Path, part: str, change: Any, text: str
) -> None:
    quantize_linears(home, _awq, _AWQ)
    tensors = load_file(home / "model.safetensors")
    tensor = tensors.pop(f"{_Q_PROJ}.{part}")
    if change is not None:
        tensors[f"{_Q_PROJ}.{part}"] = change(tensor).contiguous()
    rewrite(home, tensors, _AWQ)
    with pytest.raises(ModelError, match=text.format(_Q_PROJ.replace(".", r"\."))):
        open_checkpoint(home).tensor(f"{_Q_PROJ}.weight")


@pytest.mark.parametrize(
    ("weights", "part", "change", "text"),
    [
        (
            {"num_bits": 4, "strategy": "channel"},
            "weight_packed",
            lambda t: t[:, :3],
            r"weight_packed in .* shape \[64, 3\], which is not 4 or 8 bits of \[64, 64\]",
        ),
        (
            {"num_bits": 4, "strategy": "group", "group_size": 16},
            "weight_scale",
            lambda t: t[:, :3],
            r"weight_scale in .* shape \[64, 3\], which are not the scales .* of \[64, 64\]",
        ),
        (
            {"type": "float", "strategy": "block", "block_structure": [32, 32]},
            "weight_scale",
            lambda t: t[:1],
            r"weight_scale in .* or of whole tiles of \[32, 32\] of \[64, 64\]: .*again",
        ),
    ],
)
def test_scales_that_do_not_fit_are_named(
    home: Path, weights: dict[str, Any], part: str, change: Any, text: str
) -> None:
    target = home.parent / "compressed"
    compress(home, target, QuantizationArgs(**weights))
    tensors = load_file(target / "model.safetensors")
    tensors[f"{_Q_PROJ}.{part}"] = change(tensors[f"{_Q_PROJ}.{part}"]).contiguous()
    save_file(tensors, target / "model.safetensors")
    with pytest.raises(ModelError, match=text):
        open_checkpoint(target).tensor(f"{_Q_PROJ}.weight")


def test_groups_of_unequal_sizes_are_refused(home: Path) -> None:
    def quantize(weight_NC: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        values, zeros, scales, weight = _grid(weight_NC, _in_groups(weight_NC.shape[1], 32), 4)
        group_C = _in_groups(weight_NC.shape[1], 32)
        group_C[0] = 1
        qweight, qzeros = pack_rows(values, 4), pack_rows(zeros.T, 4).T
        parts = {"qweight": qweight, "qzeros": qzeros, "scales": scales, "g_idx": group_C}
        return parts, weight

    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    quantize_linears(home, quantize, settings)
    with pytest.raises(
        ModelError, match=r"g_idx in .* does not put 64 input features into 2 groups of one size"
    ):
        open_checkpoint(home).tensor(f"{_Q_PROJ}.weight")


def test_a_truncated_file_is_named(home: Path) -> None:
    quantize_linears(home, _awq, _AWQ)
    weights = home / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors can't be read .* truncated"):
        open_checkpoint(home).names  # noqa: B018


def test_a_rounded_weight_without_its_scale_is_not_read(home: Path) -> None:
    quantize_linears(home, _modelopt, None)
    with pytest.raises(
        ModelError,
        match=rf"{_Q_PROJ}\.weight in .*model\.safetensors is float8_e4m3fn without a scale .*bf16",
    ):
        open_checkpoint(home).tensor(f"{_Q_PROJ}.weight")
