"""How many parameters a checkpoint really has, from the headers of its safetensors files."""

import json
import math
import struct
from pathlib import Path

_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""


def count_parameters(directory: Path) -> int | None:
    """Elements of all tensors in `*.safetensors`; None where there is no such file, or one that
    can't be read: the build says what is wrong with it."""
    files = sorted(directory.glob("*.safetensors")) if directory.is_dir() else []
    try:
        return sum(map(_count, files)) or None
    except (OSError, ValueError, AttributeError, KeyError, TypeError, struct.error):
        return None


def _count(file: Path) -> int:
    with file.open("rb") as content:
        (size,) = struct.unpack("<Q", content.read(8))
        if size > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes")
        header = json.loads(content.read(size))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
