"""The compact form of profiles: a list in a row stands for one profile each.

`{precision: [fp8, bf16], tp: [1, 2]}` is four profiles, the last key changing fastest.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

_KV_PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "fp8": "fp8"}
"""Of the keys and values, by the weights' precision; else bf16."""


def expand(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All profiles of a row, each with the precision of its KV cache."""
    columns = [value if isinstance(value, list) else [value] for value in row.values()]
    rows = (dict(zip(row, values, strict=True)) for values in product(*columns))
    return [{"kv_precision": kv_precision(row.get("precision")), **row} for row in rows]


def kv_precision(precision: object) -> str:
    """What the keys and values are held in where a manifest does not say."""
    return _KV_PRECISIONS.get(str(precision), "bf16")
