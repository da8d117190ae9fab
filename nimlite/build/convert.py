"""A checkpoint's tensors made into engine tensors: fused, sharded, packed."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.weights_file import WeightsWriter, weights_name
from nimlite.errors import ModelError
from nimlite.layers.shard import Shard
from nimlite.models.registry import weight_sources
from nimlite.models.shapes import checkpoint_shape
from nimlite.models.spec import ModelSpec, WeightSource
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Precision
from nimlite.quant import scheme_for
from nimlite.quant.base import PackedWeight


def convert(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    precision: Precision,
    world: int,
    directory: Path,
    progress: Progress,
) -> None:
    """Write every rank's weights file into `directory`. One checkpoint tensor is in memory at a
    time.

    Raises ModelError where the checkpoint lacks a tensor, one has the wrong shape, or the ranks do
    not divide it.
    """
    sources = weight_sources(spec)
    missing = [n for source in sources.values() for n in source.names if n not in checkpoint.names]
    if missing:
        raise ModelError(
            f"The checkpoint lacks {len(missing)} tensors of a {spec.architecture}, such as"
            f" {missing[0]}: it is"
            " incomplete, or its config.json is another model's."
        )
    with ExitStack() as stack:
        writers = [
            stack.enter_context(WeightsWriter(directory / weights_name(rank), len(sources)))
            for rank in range(world)
        ]
        task = stack.enter_context(
            progress.task(f"Convert to {precision}", 4 * spec.num_parameters)
        )
        for name, source in sources.items():
            parts = [read_tensor(checkpoint, spec, part) for part in source.names]
            for rank, writer in enumerate(writers):
                tensor = take_shard(parts, source, Shard(rank, world))
                writer.add(name, _pack(tensor, precision, name) if source.quantize else tensor)
            if source.quantize:
                task.advance(sum(part.nbytes for part in parts))


def read_tensor(checkpoint: Checkpoint, spec: ModelSpec, name: str) -> torch.Tensor:
    """A checkpoint tensor in fp32. Raises ModelError where its shape is not the config's."""
    tensor = checkpoint.tensor(name)
    if (expected := checkpoint_shape(spec, name)) != tuple(tensor.shape):
        raise ModelError(
            f"{name} has the shape {list(tensor.shape)}, but the config asks for {list(expected)}:"
            " the"
            " weights and config.json belong to different models."
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


def _pack(weight_NC: torch.Tensor, precision: Precision, name: str) -> PackedWeight:
    # The embedding and the head decide between tokens directly: int4 costs 5 % of perplexity there.
    is_vocabulary = name in ("embedding", "head")
    scheme = Precision.INT8 if precision is Precision.INT4 and is_vocabulary else precision
    return scheme_for(scheme, weight_NC.shape[1]).pack(weight_NC)
