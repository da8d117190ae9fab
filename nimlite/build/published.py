"""The stored tensors of a quantized linear layer, made into a RoundedMatrix.

N, C output and input features   G groups along a row   P integers, each of several fields

The layouts are those of AutoAWQ's WQLinear_GEMM (awq/modules/linear/gemm.py), of AutoGPTQ's
QuantLinear and GPTQModel's second format (zeros as they are), of compressed-tensors' pack_to_int32,
of DeepSeek's fp8 (tiles' scales in weight_scale_inv) and of ModelOpt's export (a scale a matrix).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from nimlite.build.published_config import PublishedFormat
from nimlite.errors import ModelError
from nimlite.quant.rounded import RoundedMatrix

FP8 = torch.float8_e4m3fn
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_WHOLE = (torch.int8, torch.int32, torch.int64)
_AWQ_FIELD_OF_FEATURE = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in an integer eight neighbouring output features lie; field i holds 0 2 4 6 1 3 5 7."""

_MARKS = {
    "awq": ("qweight", "qzeros", "scales"),
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point"),
    "fp8": ("weight_scale_inv", "weight_scale"),
    "modelopt": ("weight_scale",),
}
_PARTS = {
    "awq": _MARKS["awq"],
    "gptq": _MARKS["gptq"],
    "compressed-tensors": (
        *_MARKS["compressed-tensors"],
        "weight",
        "weight_g_idx",
        "input_scale",
        "input_zero_point",
    ),
    "fp8": ("weight", *_MARKS["fp8"], "input_scale"),
    "modelopt": ("weight", *_MARKS["modelopt"], "input_scale"),
}


def quantized_modules(method: str, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The linear layers that are rounded, each with its stored tensors by what follows its name.
    One that lacks some is among them: `rounded_matrix` says what it lacks."""
    modules: dict[str, dict[str, str]] = {}
    for name in names:
        module, _, part = name.rpartition(".")
        if part in _PARTS[method]:
            modules.setdefault(module, {})[part] = name
    marks = _MARKS[method]
    return {m: parts for m, parts in modules.items() if any(mark in parts for mark in marks)}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModule:
    """A quantized linear layer as it is stored."""

    name: str
    directory: Path
    files: Mapping[str, str]
    """In which file each part lies."""
    tensors: Mapping[str, torch.Tensor]
    """By what follows the name: qweight, scales, …"""

    def tensor(self, part: str, dtypes: tuple[torch.dtype, ...]) -> torch.Tensor:
        """Raises ModelError where it is missing or of another type."""
        if part not in self.tensors:
            raise ModelError(
                f"{self.directory} has no {self.name}.{part}, but has"
                f" {', '.join(f'{self.name}.{p}' for p in sorted(self.tensors))}: it is incomplete,"
                " or its quantization_config is another checkpoint's. Download it again."
            )
        tensor = self.tensors[part]
        if tensor.dtype not in dtypes:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            raise self.wrong(part, f"is {str(tensor.dtype).removeprefix('torch.')}, not {names}")
        return tensor

    def shaped(
        self, part: str, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...] | None = None
    ) -> torch.Tensor:
        """Raises as `tensor` does, and where the shape is not this (a matrix, if none is given)."""
        tensor = self.tensor(part, dtypes)
        if shape is None and tensor.ndim != 2:
            raise self.wrong(part, f"has the shape {list(tensor.shape)}, which is no matrix")
        if shape is not None and tuple(tensor.shape) != shape:
            raise self.wrong(part, f"has the shape {list(tensor.shape)}, not {list(shape)}")
        return tensor

    def wrong(self, part: str, text: str) -> ModelError:
        return ModelError(
            f"{self.name}.{part} in {self.directory / self.files[part]} {text}: its"
            " quantization_config is another checkpoint's, or the file is damaged. Download both"
            " again, or give the checkpoint in bf16."
        )


def rounded_matrix(stored: StoredModule, form: PublishedFormat) -> RoundedMatrix:
    """The weight that `stored` holds. Raises ModelError naming the tensor that is not as `form`
    says."""
    match form.method:
        case "awq":
            return _awq(stored, form)
        case "gptq":
            return _gptq(stored, form)
    if form.method == "compressed-tensors" and "weight" not in stored.tensors:
        return _packed(stored)
    return _scaled(stored, form)


def _awq(stored: StoredModule, form: PublishedFormat) -> RoundedMatrix:
    qweight_CP = stored.shaped("qweight", (torch.int32,))
    num_inputs, num_fields = qweight_CP.shape
    num_outputs, num_groups = num_fields * 8, _num_groups(stored, form, num_inputs)
    scales_GN = stored.shaped("scales", _FLOATS, (num_groups, num_outputs))
    qzeros_GP = stored.shaped("qzeros", (torch.int32,), (num_groups, num_fields))
    values_CN, zeros_GN = (
        _fields(packed, 4).reshape(len(packed), -1, 8)[..., _AWQ_FIELD_OF_FEATURE].flatten(1)
        for packed in (qweight_CP, qzeros_GP)
    )
    return _whole_numbers(4, values_CN.T, scales_GN.T, zeros_GN.T, None)


def _gptq(stored: StoredModule, form: PublishedFormat) -> RoundedMatrix:
    values_NC = _fields(stored.shaped("qweight", (torch.int32,)).T, form.bits)
    num_outputs, num_inputs = values_NC.shape
    num_groups = _num_groups(stored, form, num_inputs)
    scales_GN = stored.shaped("scales", _FLOATS, (num_groups, num_outputs))
    packed_zeros = (num_groups, num_outputs * form.bits // 32)
    zeros_GN = _fields(stored.shaped("qzeros", (torch.int32,), packed_zeros), form.bits)
    if form.zeros_less_one:
        # A zero of 0 is stored as the largest field: it comes round.
        zeros_GN = (zeros_GN + 1) & (2**form.bits - 1)
    return _whole_numbers(
        form.bits, values_NC, scales_GN.T, zeros_GN.T, _order(stored, "g_idx", values_NC, scales_GN)
    )


def _packed(stored: StoredModule) -> RoundedMatrix:
    shape = stored.shaped("weight_shape", _WHOLE, (2,))
    num_outputs, num_inputs = shape.tolist()
    packed_NP = stored.shaped("weight_packed", (torch.int32,))
    widths = {-(-num_inputs * bits // 32): bits for bits in (4, 8)}
    if packed_NP.shape[0] != num_outputs or packed_NP.shape[1] not in widths:
        raise stored.wrong(
            "weight_packed",
            f"has the shape {list(packed_NP.shape)}, which is not 4 or 8 bits of"
            f" {[num_outputs, num_inputs]}",
        )
    bits = widths[packed_NP.shape[1]]
    values_NC = _fields(packed_NP, bits)[:, :num_inputs]
    scales_NG = _row_scales(stored, "weight_scale", _FLOATS, (num_outputs, num_inputs))
    zeros_NG = None
    if "weight_zero_point" in stored.tensors:
        packed = (-(-num_outputs * bits // 32), scales_NG.shape[1])
        zeros_PG = stored.shaped("weight_zero_point", (torch.int32,), packed)
        zeros_NG = _fields(zeros_PG.T, bits).T[:num_outputs]
    order_C = _order(stored, "weight_g_idx", values_NC, scales_NG.T)
    return _whole_numbers(bits, values_NC, scales_NG, zeros_NG, order_C)


def _scaled(stored: StoredModule, form: PublishedFormat) -> RoundedMatrix:
    weight_NC = stored.shaped("weight", (FP8, torch.int8))
    shape = (weight_NC.shape[0], weight_NC.shape[1])
    part = "weight_scale_inv" if "weight_scale_inv" in stored.tensors else "weight_scale"
    input_scale = None
    if "input_scale" in stored.tensors and "input_zero_point" not in stored.tensors:
        scale = stored.tensors["input_scale"]
        input_scale = float(scale) if scale.numel() == 1 else None
    zeros_NG = None
    if "weight_zero_point" in stored.tensors and weight_NC.dtype is torch.int8:
        zeros_NG = _row_scales(stored, "weight_zero_point", _WHOLE, shape, form.block)
    return RoundedMatrix(
        kind="fp8" if weight_NC.dtype is FP8 else "int8",
        values_NC=weight_NC,
        scales_NG=_row_scales(stored, part, _FLOATS, shape, form.block),
        zeros_NG=zeros_NG,
        input_scale=input_scale,
    )


def _row_scales(
    stored: StoredModule,
    part: str,
    dtypes: tuple[torch.dtype, ...],
    shape: tuple[int, int],
    block: tuple[int, int] | None = None,
) -> torch.Tensor:
    """What is stored a matrix, row, group or tile, as fp32 a row and group."""
    num_outputs, num_inputs = shape
    given = stored.tensor(part, dtypes)
    if given.numel() == 1:
        return given.float().reshape(1, 1).expand(num_outputs, 1).contiguous()
    if given.ndim == 1:
        given = given.unsqueeze(1)
    rows, groups = (given.shape[0], given.shape[1]) if given.ndim == 2 else (0, 0)
    if block is not None and (rows, groups) == (-(-num_outputs // block[0]), num_inputs / block[1]):
        return given.float().repeat_interleave(block[0], dim=0)[:num_outputs]
    if rows == num_outputs and groups and num_inputs % groups == 0:
        return given.float().contiguous()
    raise stored.wrong(
        part,
        f"has the shape {list(given.shape)}, which are not the scales of a matrix, of rows, of"
        f" equal groups{f' or of whole tiles of {list(block)}' if block else ''} of"
        f" {[num_outputs, num_inputs]}",
    )


def _order(
    stored: StoredModule, part: str, values_NC: torch.Tensor, scales_GN: torch.Tensor
) -> torch.Tensor | None:
    """The input features sorted by the groups that `part` puts them in. None: they are already."""
    if part not in stored.tensors:
        return None
    num_inputs, num_groups = values_NC.shape[1], len(scales_GN)
    group_C = stored.shaped(part, _WHOLE, (num_inputs,)).long()
    order_C = torch.argsort(group_C, stable=True)
    even_C = torch.arange(num_inputs, device=group_C.device) // (num_inputs // num_groups)
    if not torch.equal(group_C[order_C], even_C):
        raise stored.wrong(
            part, f"does not put {num_inputs} input features into {num_groups} groups of one size"
        )
    return None if torch.equal(group_C, even_C) else order_C


def _num_groups(stored: StoredModule, form: PublishedFormat, num_inputs: int) -> int:
    if form.group_size == -1:
        return 1
    if num_inputs % form.group_size:
        raise stored.wrong(
            "qweight", f"has {num_inputs} input features, not whole groups of {form.group_size}"
        )
    return num_inputs // form.group_size


def _whole_numbers(
    bits: int,
    values_NC: torch.Tensor,
    scales_NG: torch.Tensor,
    zeros_NG: torch.Tensor | None,
    order_C: torch.Tensor | None,
) -> RoundedMatrix:
    """Of fields 0 … 2^bits - 1. Without zeros, zero is their middle."""
    middle = 128 if bits == 8 else 0
    if order_C is not None:
        values_NC = values_NC[:, order_C]
    return RoundedMatrix(
        kind="int8" if bits == 8 else "int4",
        values_NC=(values_NC - middle).to(torch.int8 if bits == 8 else torch.uint8).contiguous(),
        scales_NG=scales_NG.float().contiguous(),
        zeros_NG=None if zeros_NG is None else (zeros_NG - middle).float().contiguous(),
        order_C=order_C,
    )


def _fields(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The fields of each row's int32s, lowest bits first, one after the other, as int16."""
    shifts = torch.arange(0, 32, bits, device=packed.device, dtype=torch.int32)
    fields: torch.Tensor = (packed.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return fields.to(torch.int16).flatten(1)
