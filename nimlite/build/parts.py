"""A checkpoint's tensors taken apart, and put in the order in which an engine holds them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from nimlite.build.checkpoint import Checkpoint
from nimlite.models.registry import weight_sources
from nimlite.models.spec import HeadPairs, ModelSpec, Stored, WeightSource


def sources_of(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, WeightSource]:
    """How every engine tensor is made, by the names that the checkpoint has.

    One that was saved without its head (GPT-2's, BLOOM's) leaves out the first part of each name.
    """

    def found(stored: Stored) -> Stored:
        if stored.otherwise and stored.name not in checkpoint.names:
            return found(replace(stored, name=stored.otherwise, otherwise=""))
        short = stored.name.partition(".")[2]
        is_short = stored.name not in checkpoint.names and short in checkpoint.names
        return replace(stored, name=short) if is_short else stored

    return {
        name: replace(source, tensors=tuple(found(stored) for stored in source.tensors))
        for name, source in weight_sources(spec).items()
    }


def parts_of(source: WeightSource, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The parts of an engine tensor, of the checkpoint tensors that its source names: rows [N, C]
    (or [N]) each, with the values that the engine holds."""
    rows = [
        tensor.T if stored.transposed else tensor
        for stored, tensor in zip(source.tensors, tensors, strict=True)
    ]
    parts = _ordered(source, rows)
    if source.offset:
        parts = [part.float() + source.offset for part in parts]
    if source.scale != 1.0:
        parts = [part.float() * source.scale for part in parts]
    if source.unit_rows:
        parts = [torch.nn.functional.normalize(part.float()) for part in parts]
    return parts


def row_order(source: WeightSource) -> torch.Tensor | None:
    """int64: which row of the concatenated checkpoint tensors each row of the engine tensor is;
    None: they are in order."""
    if not any(stored.sizes or stored.skip for stored in source.tensors) and source.pairs is None:
        return None
    counts = [stored.skip + sum(stored.part_rows) for stored in source.tensors]
    return torch.cat(_ordered(source, torch.split(torch.arange(sum(counts)), counts)))


def _ordered(source: WeightSource, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The parts, from the rows of each checkpoint tensor."""
    parts = [
        part
        for stored, of_one in zip(source.tensors, rows, strict=True)
        for part in _split(stored, of_one)
    ]
    if source.alternate:
        half = len(parts) // 2
        parts = [part for both in zip(parts[:half], parts[half:], strict=True) for part in both]
    if source.pairs is not None:
        parts[:2] = [_halves(part, source.pairs) for part in parts[:2]]
    return parts


def _split(stored: Stored, rows: torch.Tensor) -> Iterator[torch.Tensor]:
    rows = rows[stored.skip :]
    if not stored.sizes:
        yield rows
        return
    grouped = rows.reshape(stored.groups, -1, *rows.shape[1:])
    for part in torch.split(grouped, list(stored.sizes), dim=1):
        yield part.flatten(0, 1).T if stored.turned else part.flatten(0, 1)


def _halves(part: torch.Tensor, pairs: HeadPairs) -> torch.Tensor:
    """Each head's pairs put half of what turns apart."""
    heads = part.reshape(-1, pairs.head_dim, *part.shape[1:])
    turned, rest = heads[:, : pairs.rotary_dim], heads[:, pairs.rotary_dim :]
    return torch.cat([turned[:, ::2], turned[:, 1::2], rest], dim=1).flatten(0, 1)
