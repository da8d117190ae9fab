"""A checkpoint's tensors made into engine tensors: fused, sharded, packed."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import torch

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.parts import parts_of, sources_of
from nimlite.build.recipe import AS_IT_IS, Recipe
from nimlite.build.staging import Staging
from nimlite.build.target import Packing
from nimlite.build.weights_file import WeightsWriter, weights_name
from nimlite.errors import ModelError
from nimlite.layers.linear import Weights
from nimlite.layers.shard import Shard
from nimlite.models.spec import ModelSpec, Stored, WeightSource
from nimlite.observe.progress import Progress
from nimlite.quant.base import PackedWeight

_THREADS = 4
"""Each holds a few tensors of the checkpoint on the device."""


def convert(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    target: Packing,
    world: int,
    directory: Path,
    progress: Progress,
    recipe: Recipe = AS_IT_IS,
) -> None:
    """Write every rank's weights file into `directory`. One engine tensor is in memory at a time.

    Raises ModelError where the checkpoint lacks a tensor, one has the wrong shape, or the ranks do
    not divide it.
    """
    sources = _sources(checkpoint, spec)
    staging = Staging()
    with ExitStack() as stack:
        writers = [
            stack.enter_context(WeightsWriter(directory / weights_name(rank), len(sources)))
            for rank in range(world)
        ]
        task = stack.enter_context(progress.task("Convert the weights", 4 * spec.num_parameters))
        for name, source in sources.items():
            parts = _read_parts(checkpoint, name, source, staging, recipe)
            for rank, writer in enumerate(writers):
                tensor = take_shard(parts, source, Shard(rank, world))
                writer.add(name, _engine_tensor(tensor.float(), name, source, target, recipe))
            if source.quantize:
                task.advance(4 * sum(part.numel() for part in parts))


def convert_on_device(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    target: Packing,
    shard: Shard,
    progress: Progress,
    recipe: Recipe = AS_IT_IS,
) -> Weights:
    """One rank's engine tensors in memory of the target's device, read by several threads.

    Raises as `convert` does.
    """
    sources = _sources(checkpoint, spec)
    mine = threading.local()

    def work(item: tuple[str, WeightSource]) -> PackedWeight | torch.Tensor:
        name, source = item
        if not hasattr(mine, "staging"):
            mine.staging = Staging(target.device)
        staging: Staging = mine.staging
        with staging.on_device():
            parts = _read_parts(checkpoint, name, source, staging, recipe)
            whole = take_shard(parts, source, shard)
            tensor = _engine_tensor(whole, name, source, target, recipe)
        staging.wait()
        return tensor

    title = "Read and convert the weights"
    weights = {}
    with (
        ThreadPoolExecutor(_THREADS) as threads,
        progress.task(title, 4 * spec.num_parameters) as task,
    ):
        for name, tensor in zip(sources, threads.map(work, sources.items()), strict=True):
            weights[name] = tensor
            if isinstance(tensor, PackedWeight):
                task.advance(4 * tensor.num_rows * tensor.num_columns)
    return weights


def _sources(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, WeightSource]:
    sources = sources_of(checkpoint, spec)
    missing = [n for source in sources.values() for n in source.names if n not in checkpoint.names]
    if missing:
        raise ModelError(
            f"The checkpoint lacks {len(missing)} tensors of a {spec.architecture}, such as"
            f" {missing[0]}: it is"
            " incomplete, or its config.json is another model's."
        )
    return sources


def read_parts(
    checkpoint: Checkpoint, source: WeightSource, staging: Staging
) -> list[torch.Tensor]:
    """The parts of an engine tensor, as `parts_of` has them, on the device of `staging`. Raises
    ModelError where a tensor's shape is not the config's."""
    tensors = [_read(checkpoint, stored, staging) for stored in source.tensors]
    return parts_of(source, tensors)


def _read(checkpoint: Checkpoint, stored: Stored, staging: Staging) -> torch.Tensor:
    tensor = checkpoint.stored(stored.name, staging)
    if stored.shape != tuple(tensor.shape):
        raise ModelError(
            f"{stored.name} has the shape {list(tensor.shape)}, but the config asks for"
            f" {list(stored.shape)}: the weights and config.json belong to different models."
        )
    return tensor


def take_shard(parts: Sequence[torch.Tensor], source: WeightSource, shard: Shard) -> torch.Tensor:
    """One rank's share of every part, concatenated along the rows.

    Raises ModelError where the ranks do not divide the units.
    """
    if source.shard == "none" or shard.world == 1:
        return torch.cat(list(parts))
    dimension = 0 if source.shard == "rows" else 1
    units = source.units or tuple(part.shape[dimension] for part in parts)
    shares = []
    for part, count in zip(parts, units, strict=True):
        if count % shard.world and shard.world % count:
            raise ModelError(
                f"{source.names[0]} has {count} units (heads or rows), which {shard.world} ranks"
                " do not divide:"
                " choose a profile with another tensor parallelism."
            )
        size = part.shape[dimension] // count
        first = shard.rank * count // shard.world
        length = max(1, count // shard.world)
        shares.append(part.narrow(dimension, first * size, length * size))
    return torch.cat(shares)


def _read_parts(
    checkpoint: Checkpoint, name: str, source: WeightSource, staging: Staging, recipe: Recipe
) -> list[torch.Tensor]:
    return [recipe.scaled(name, part) for part in read_parts(checkpoint, source, staging)]


def _engine_tensor(
    tensor: torch.Tensor, name: str, source: WeightSource, target: Packing, recipe: Recipe
) -> PackedWeight | torch.Tensor:
    if not source.quantize:
        return tensor.float()
    scheme = target.scheme(name, tensor.shape[1])
    rounded = recipe.rounded(name, tensor)
    return scheme.pack(tensor) if rounded is None else scheme.pack_rounded(rounded)
