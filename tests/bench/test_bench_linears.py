"""What is printed of a layer's products; timing them needs a GPU."""

import json
from dataclasses import replace

from nimlite.bench.linears import TimedProduct, table
from nimlite.kernels.triton.linear import LinearConfig
from nimlite.profiles.manifest import Precision

CONFIG = LinearConfig(block_n=64, block_c=512, split=2, num_warps=4, num_stages=6)
QKV = TimedProduct(
    name="qkv",
    precision=Precision.INT4_AWQ,
    num_rows=4,
    num_bytes=9_000_000,
    error=0.0021,
    microseconds=((4.0, CONFIG), (8.0, None)),
)
DOWN = replace(QKV, name="down", num_bytes=18_000_000, microseconds=((8.0, None),))


def test_a_row_a_product_and_one_for_the_layer() -> None:
    assert table([QKV, DOWN]).splitlines()[2:] == [
        "| int4_awq | 4 | qkv | 4.0 | 2,250 | 50% | 2.1e-03 | 64x512 / 2, 4 warps, 6 stages |",
        "| int4_awq | 4 | down | 8.0 | 2,250 | 50% | 2.1e-03 | library |",
        "| int4_awq | 4 | all | 12.0 | 2,250 | 50% | | |",
    ]
    assert len(table([QKV], variants=2).splitlines()) == 5


def test_every_configuration_is_kept_as_json() -> None:
    line = json.loads(QKV.json_line())
    assert (line["floor_us"], line["q"], line["rows"]) == (2.0, "int4_awq", 4)
    (taken, config), library = line["us"]
    assert taken == 4.0 and LinearConfig(**config) == CONFIG
    assert library == [8.0, None]
