"""rankN.safetensors: one rank's engine tensors.

A plain safetensors file. Its metadata has an entry for every packed weight (scheme, logical shape,
parts), whose parts are
the tensors `<name>.<part>`. Small tensors named padding.* keep every other one on a cache line,
since a mapped file is used
where it lies.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open

from nimlite.layers.linear import Weights
from nimlite.quant.base import PackedWeight

_ALIGNMENT = 64
_PADDING = "padding."
_HEADER_BYTES_PER_TENSOR = 1024
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8"}


def weights_name(rank: int) -> str:
    """The file that holds a rank's weights."""
    return f"rank{rank}.safetensors"


def load_weights(directory: Path, rank: int = 0) -> Weights:
    """A rank's engine tensors, mapped from the file: memory is used as they are touched."""
    weights: dict[str, PackedWeight | torch.Tensor] = {}
    with safe_open(directory / weights_name(rank), framework="pt", device="cpu") as file:
        packed = {name: json.loads(text) for name, text in file.metadata().items()}
        parts = {f"{name}.{part}" for name, entry in packed.items() for part in entry["parts"]}
        for name, entry in packed.items():
            tensors = {part: file.get_tensor(f"{name}.{part}") for part in entry["parts"]}
            weights[name] = PackedWeight(entry["scheme"], entry["rows"], entry["columns"], tensors)
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            if name not in parts and not name.startswith(_PADDING):
                weights[name] = file.get_tensor(name)
    return weights


class WeightsWriter:
    """Writes the file tensor by tensor, so that only one need be in memory.

    The header, which names every tensor's place, comes first in the file: room for it is left, and
    filled in at the end.
    """

    def __init__(self, path: Path, num_tensors: int) -> None:
        self._file = path.open("wb")
        # safetensors lets the header end in spaces; pages of 4 KiB keep what follows aligned.
        self._data_start = -(-num_tensors * _HEADER_BYTES_PER_TENSOR // 4096) * 4096
        self._file.seek(self._data_start)
        self._header: dict[str, Any] = {}
        self._packed: dict[str, str] = {}
        self._size = 0

    def __enter__(self) -> "WeightsWriter":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._write_header()
        self._file.close()

    def add(self, name: str, weight: PackedWeight | torch.Tensor) -> None:
        """Append an engine tensor."""
        if isinstance(weight, torch.Tensor):
            self._append(name, weight)
            return
        entry = {
            "scheme": weight.scheme,
            "rows": weight.num_rows,
            "columns": weight.num_columns,
            "parts": list(weight.tensors),
        }
        self._packed[name] = json.dumps(entry)
        for part, tensor in weight.tensors.items():
            self._append(f"{name}.{part}", tensor)

    def _append(self, name: str, tensor: torch.Tensor) -> None:
        if padding := -self._size % _ALIGNMENT:
            self._write(f"{_PADDING}{len(self._header)}", torch.zeros(padding, dtype=torch.uint8))
        self._write(name, tensor.contiguous())

    def _write(self, name: str, tensor: torch.Tensor) -> None:
        data = tensor.view(torch.uint8).numpy()
        self._header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self._size, self._size + data.nbytes],
        }
        self._file.write(data.data)
        self._size += data.nbytes

    def _write_header(self) -> None:
        header = json.dumps({"__metadata__": self._packed, **self._header}).encode()
        room = self._data_start - 8
        assert len(header) <= room, f"a header of {len(header)} bytes does not fit into {room}"
        self._file.seek(0)
        self._file.write(room.to_bytes(8, "little") + header.ljust(room))
