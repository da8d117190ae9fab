"""rankN.safetensors: one rank's engine tensors.

A plain safetensors file. Its metadata has an entry for every packed weight (scheme, logical shape,
parts), whose parts are
the tensors `<name>.<part>`. Small tensors named padding.* keep every other one on a cache line,
since a mapped file is used
where it lies.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import safe_open

from nimlite.build.safetensors_layout import DTYPES, FileLayout
from nimlite.build.staging import Staging
from nimlite.layers.linear import Weights
from nimlite.quant.base import PackedWeight
from nimlite.store.block_digest import BLOCK_BYTES, BlockDigests

_ALIGNMENT = 64
_PADDING = "padding."
_HEADER_BYTES_PER_TENSOR = 1024
_MAX_THREADS = 16
"""That read or write. On 16 cores, 8 read without checking at 38 GB/s, 16 read and check at 13."""
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def weights_name(rank: int) -> str:
    """The file that holds a rank's weights."""
    return f"rank{rank}.safetensors"


def is_weights_name(name: str) -> bool:
    """Whether a file of that name holds a rank's weights."""
    return re.fullmatch(r"rank\d+\.safetensors", name) is not None


class DamagedBlockError(Exception):
    """A block of a weights file is not what was written."""


def load_weights(directory: Path, rank: int = 0) -> Weights:
    """A rank's engine tensors, mapped from the file: memory is used as they are touched."""
    with safe_open(directory / weights_name(rank), framework="pt", device="cpu") as file:
        return _assemble(file.metadata(), file.keys(), file.get_tensor)


def stream_weights(path: Path, digests: BlockDigests, device: torch.device) -> Weights:
    """The engine tensors of a file in memory of `device`, read and checked by several threads.

    Raises DamagedBlockError for a block that is not as `digests` say.
    """
    content_B = torch.empty(digests.size, dtype=torch.uint8, device=device)
    numbers = iter(range(digests.num_blocks))  # shared: a quick thread takes more of them
    with path.open("rb") as file, ThreadPoolExecutor(_num_threads()) as threads:

        def work() -> None:
            staging = Staging(device, digests.block_bytes)
            for number in numbers:
                begin = number * digests.block_bytes
                target_B = content_B[begin : begin + digests.block_bytes]

                def check(block: memoryview, number: int = number) -> None:
                    if problem := digests.mismatch(number, block):
                        raise DamagedBlockError(problem)

                staging.read(file.fileno(), begin, target_B, check)
            staging.wait()

        for done in [threads.submit(work) for _ in range(_num_threads())]:
            done.result()
    return _views(path, content_B)


def _num_threads() -> int:
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


def _views(path: Path, content_B: torch.Tensor) -> Weights:
    """The tensors of a safetensors file whose bytes are `content_B`."""
    layout = FileLayout.read(path)

    def tensor(name: str) -> torch.Tensor:
        place = layout.tensors[name]
        part_B = content_B[place.begin : place.begin + place.num_bytes]
        return part_B.view(place.dtype).view(place.shape)

    return _assemble(layout.metadata, layout.tensors, tensor)


def _assemble(
    packed: Mapping[str, str], names: Iterable[str], tensor: Callable[[str], torch.Tensor]
) -> Weights:
    """`packed`: the entries of the metadata; `names`: all tensors of the file."""
    entries = {name: json.loads(text) for name, text in packed.items()}
    parts = {f"{name}.{part}" for name, entry in entries.items() for part in entry["parts"]}
    weights: dict[str, PackedWeight | torch.Tensor] = {}
    for name, entry in entries.items():
        tensors = {part: tensor(f"{name}.{part}") for part in entry["parts"]}
        weights[name] = PackedWeight(entry["scheme"], entry["rows"], entry["columns"], tensors)
    for name in names:
        if name not in parts and not name.startswith(_PADDING):
            weights[name] = tensor(name)
    return weights


def write_weights(path: Path, weights: Weights, device: torch.device) -> None:
    """Write a rank's tensors, which are on `device`, by several threads."""
    layout = _Layout(len(weights))
    placed = [place for name, weight in weights.items() for place in layout.add(name, weight)]
    pieces = iter(
        [
            (offset + first, bytes_B[first : first + BLOCK_BYTES])
            for offset, tensor in placed
            for bytes_B in [tensor.view(-1).view(torch.uint8)]
            for first in range(0, len(bytes_B), BLOCK_BYTES)
        ]
    )
    with path.open("wb") as file, ThreadPoolExecutor(_num_threads()) as threads:
        file.write(layout.header())
        file.flush()

        def work() -> None:
            staging = Staging(device)
            for offset, piece_B in pieces:
                staging.write(file.fileno(), offset, piece_B)

        for done in [threads.submit(work) for _ in range(_num_threads())]:
            done.result()
        os.fsync(file.fileno())  # here, where others compute meanwhile


class WeightsWriter:
    """Writes the file tensor by tensor, so that only one need be in memory.

    The header, which names every tensor's place, comes first in the file: room for it is left, and
    filled in at the end.
    """

    def __init__(self, path: Path, num_tensors: int) -> None:
        self._file = path.open("wb")
        self._layout = _Layout(num_tensors)

    def __enter__(self) -> "WeightsWriter":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._file.seek(0)
            self._file.write(self._layout.header())
        self._file.close()

    def add(self, name: str, weight: PackedWeight | torch.Tensor) -> None:
        """Append an engine tensor."""
        for offset, tensor in self._layout.add(name, weight):
            self._file.seek(offset)
            self._file.write(tensor.contiguous().view(torch.uint8).cpu().numpy().data)


class _Layout:
    """Places tensors one behind the other, and makes the header that says where they are."""

    def __init__(self, num_tensors: int) -> None:
        # safetensors lets the header end in spaces; pages of 4 KiB keep what follows aligned.
        self._data_start = -(-num_tensors * _HEADER_BYTES_PER_TENSOR // 4096) * 4096
        self._header: dict[str, Any] = {}
        self._packed: dict[str, str] = {}
        self._size = 0

    def add(self, name: str, weight: PackedWeight | torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Where each of its tensors goes, in bytes from the start of the file."""
        if isinstance(weight, torch.Tensor):
            return [(self._append(name, weight), weight)]
        entry = {
            "scheme": weight.scheme,
            "rows": weight.num_rows,
            "columns": weight.num_columns,
            "parts": list(weight.tensors),
        }
        self._packed[name] = json.dumps(entry)
        return [
            (self._append(f"{name}.{part}", tensor), tensor)
            for part, tensor in weight.tensors.items()
        ]

    def header(self) -> bytes:
        """What stands before the first tensor."""
        header = json.dumps({"__metadata__": self._packed, **self._header}).encode()
        room = self._data_start - 8
        assert len(header) <= room, f"a header of {len(header)} bytes does not fit into {room}"
        return room.to_bytes(8, "little") + header.ljust(room)

    def _append(self, name: str, tensor: torch.Tensor) -> int:
        if padding := -self._size % _ALIGNMENT:  # nothing is written there: a file's gaps are zeros
            self._enter(f"{_PADDING}{len(self._header)}", "U8", [padding], padding)
        name_of_type = _DTYPE_NAMES[tensor.dtype]
        return self._enter(name, name_of_type, list(tensor.shape), tensor.nbytes)

    def _enter(self, name: str, dtype: str, shape: list[int], num_bytes: int) -> int:
        begin = self._size
        self._size += num_bytes
        offsets = [begin, self._size]
        self._header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        return self._data_start + begin
