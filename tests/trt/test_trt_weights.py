"""What a GPU's kernels hold, as the ports of segments."""

from dataclasses import replace

import pytest
import torch
from fakes.trt_network import nibbles

from nimlite.kernels.triton.weights import BF16_ROWS, FP8_ROWS, FP16_ROWS, INT8_ROWS, W4A16, W8A16
from nimlite.quant.base import Scheme
from nimlite.quant.rtn import nearest_int4, nearest_int8
from nimlite.tensorrt.runtime import UnavailableError
from nimlite.tensorrt.segment import WeightFormat
from nimlite.tensorrt.weights import binder

torch.manual_seed(0)
MATRIX_NC = torch.randn(24, 384)


@pytest.mark.parametrize(
    ("scheme", "weights"),
    [
        (BF16_ROWS, "dense"),
        (FP16_ROWS, "dense"),
        (FP8_ROWS, "fp8"),
        (INT8_ROWS, "int8_dynamic"),
    ],
)
def test_rows_are_bound_where_they_lie(scheme: Scheme, weights: WeightFormat) -> None:
    packed = scheme.pack(MATRIX_NC)
    ports = binder(weights)(packed)
    assert ports[""] is packed.tensors["weight"]
    matrix_NC = ports[""].float()
    if weights != "dense":
        matrix_NC = matrix_NC * ports[".scales"].unsqueeze(1)
    assert torch.equal(matrix_NC, scheme.unpack(packed))


def test_words_of_8_bits_become_rows() -> None:
    packed = W8A16.pack(MATRIX_NC)
    ports = binder("int8")(packed)
    assert ports[""].dtype is torch.int8 and ports[""].is_contiguous()
    assert torch.equal(ports[""] * ports[".scales"].unsqueeze(1), W8A16.unpack(packed))


@pytest.mark.parametrize(("size", "symmetric"), [(128, False), (128, True), (32, False)])
def test_words_of_4_bits_become_a_row_for_each_group(size: int, symmetric: bool) -> None:
    packed = W4A16.pack_rounded(nearest_int4(MATRIX_NC, group_size=size, symmetric=symmetric))
    ports = binder("int4", size)(packed)
    assert ports[""].shape == (24 * 384 // size, size // 2) and ports[""].is_contiguous()
    scales, offsets = (ports[name].unsqueeze(1) for name in (".scales", ".offsets"))
    matrix_NC = (nibbles(ports[""]) * scales + offsets).reshape(24, 384)
    assert torch.allclose(matrix_NC, W4A16.unpack(packed), atol=1e-5)


def test_weights_in_another_format_are_refused() -> None:
    with pytest.raises(UnavailableError) as refusal:
        binder("int4")(W8A16.pack(MATRIX_NC))
    assert str(refusal.value) == "its plans take int4 weights, and some are w8a16"


def test_other_groups_are_refused() -> None:
    packed = W4A16.pack_rounded(nearest_int4(MATRIX_NC, group_size=32))
    with pytest.raises(UnavailableError) as refusal:
        binder("int4")(packed)
    assert str(refusal.value) == (
        "its plans take 3 scales for a row of 384 int4 weights, and some have 12"
    )
    rounded = nearest_int8(MATRIX_NC)
    grouped = W8A16.pack_rounded(replace(rounded, scales_NG=rounded.scales_NG.repeat(1, 6)))
    with pytest.raises(UnavailableError, match="take 1 scales for a row of 384 int8 weights"):
        binder("int8")(grouped)
