"""Where the tensors of a safetensors file lie in it.

The format (huggingface/safetensors, README): eight bytes with the length of the header, the header
as JSON, the data.
"""

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nimlite.errors import ModelError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor: `num_bytes` from `begin` on, counted from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class FileLayout:
    """The header of a file."""

    tensors: Mapping[str, TensorPlace]
    metadata: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> "FileLayout":
        """Raises ValueError for a file that is no safetensors file, or too short, OSError, and
        ModelError for a type of tensor that is not read."""
        size = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > size - 8:
                raise ValueError(f"a header of {header_bytes:,} bytes in {size:,}")
            header = json.loads(file.read(header_bytes))
        try:
            metadata = header.pop("__metadata__", {})
            tensors = {
                name: _place(path, name, entry, 8 + header_bytes, size)
                for name, entry in header.items()
            }
        except (AttributeError, TypeError, KeyError) as error:
            raise ValueError(f"its header is damaged: {error}") from error
        return cls(tensors, metadata)


def _place(path: Path, name: str, entry: Any, data_begin: int, size: int) -> TensorPlace:
    """What the header tells of a tensor."""
    if entry["dtype"] not in DTYPES:
        raise ModelError(
            f"{name} in {path} is {entry['dtype']}; read are {', '.join(DTYPES)}. Give the"
            " checkpoint in one of these."
        )
    dtype, shape = DTYPES[entry["dtype"]], tuple(map(operator.index, entry["shape"]))
    begin, end = (data_begin + operator.index(offset) for offset in entry["data_offsets"])
    if end > size:
        raise ValueError(f"{name} ends at byte {end:,} of {size:,}")
    if begin < data_begin or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {end - begin:,} bytes, not those of {list(shape)}")
    return TensorPlace(dtype, shape, begin, end - begin)
