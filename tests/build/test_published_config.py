"""What is not read is refused before a tensor is, by a sentence that says what is."""

from pathlib import Path
from typing import Any

import pytest

from nimlite.build.published_config import published_format
from nimlite.errors import ModelError

_CT = {"quant_method": "compressed-tensors", "format": "pack-quantized"}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"quant_method": "hqq"}, "weights quantized by 'hqq'"),
        ({}, "weights quantized by 'unknown'"),
        ({"quant_method": "awq", "version": "gemv"}, "the AWQ version 'gemv'"),
        ({"quant_method": "awq", "bits": 3, "group_size": 128}, "the awq of bits 3"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "the gptq of bits 3"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "the GPTQ format 'marlin'"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "the ModelOpt algorithm 'NVFP4'"),
        (_CT | {"format": "marlin-24"}, "the compressed-tensors format 'marlin-24'"),
        (
            _CT | {"config_groups": {"group_0": {"format": "nvfp4-pack-quantized"}}},
            "the compressed-tensors format 'nvfp4-pack-quantized'",
        ),
        (
            _CT | {"sparsity_config": {"format": "sparse-24-bitmask"}},
            "the compressed-tensors sparsity 'sparse-24-bitmask'",
        ),
        (
            _CT | {"transform_config": {"config_groups": {"u": {}}}},
            "the compressed-tensors transform 'transform_config'",
        ),
    ],
)
def test_what_is_not_read_is_named(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError) as raised:
        published_format(Path("/models/x"), settings)
    assert str(raised.value).startswith("/models/x holds weights ")
    assert text in str(raised.value)
    assert "Read are AutoAWQ (gemm), GPTQ" in str(raised.value)
    assert str(raised.value).endswith("the profile's precision is made from it.")


@pytest.mark.parametrize("size", [0, -2, None, "128"])
def test_a_group_size_that_is_none(size: object) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": size}
    with pytest.raises(ModelError, match=r"of /models/x has the group_size .* positive number"):
        published_format(Path("/models/x"), settings)


@pytest.mark.parametrize(
    "settings",
    [
        3,
        [],
        {"quant_method": "fp8", "weight_block_size": 3},
        _CT | {"config_groups": []},
        _CT | {"config_groups": {"group_0": 3}},
    ],
)
def test_what_no_tool_writes_is_told(settings: Any) -> None:
    with pytest.raises(ModelError, match=r"^The quantization_config of /models/x is not as any"):
        published_format(Path("/models/x"), settings)
