"""A checkpoint's tensors made into engine tensors: fused, sharded, packed."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.parts import parts_of, sources_of
from nimlite.build.recipe import AS_IT_IS, Recipe
from nimlite.build.sharding import require_shares, shard_sources, take_rounded, take_shard
from nimlite.build.staging import Staging
from nimlite.build.target import Packing
from nimlite.build.weights_file import WeightsWriter, weights_name
from nimlite.errors import ModelError
from nimlite.layers.linear import Weights
from nimlite.layers.shard import Shard
from nimlite.models.spec import ModelSpec, Stored, WeightSource
from nimlite.observe.progress import Progress
from nimlite.quant.base import PackedWeight
from nimlite.quant.rounded import RoundedMatrix

_THREADS = 4
"""Each holds a few tensors of the checkpoint on the device."""


def convert(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    target: Packing,
    tp: int,
    directory: Path,
    progress: Progress,
    recipe: Recipe = AS_IT_IS,
    *,
    pp: int = 1,
) -> None:
    """Write the weights files of tp * pp ranks into `directory`. One engine tensor is in memory at
    a time.

    Raises ModelError where the checkpoint lacks a tensor, one has the wrong shape, or the ranks
    can't share the model.
    """
    shards = [Shard.of(rank, tp, pp) for rank in range(tp * pp)]
    require_shares(spec, shards[0])
    sources = _sources(checkpoint, spec)
    # A GPU's format can be made without one, too.
    staging = Staging(target.device if torch.cuda.is_available() else torch.device("cpu"))
    with ExitStack() as stack:
        held = [shard_sources(sources, spec, shard) for shard in shards]
        writers = [
            stack.enter_context(WeightsWriter(directory / weights_name(rank), len(mine)))
            for rank, mine in enumerate(held)
        ]
        task = stack.enter_context(progress.task("Convert the weights", 4 * spec.num_parameters))
        for name, source in sources.items():
            with staging.on_device():
                whole = _Whole.read(checkpoint, name, source, staging, recipe)
            staging.wait()
            for shard, mine, writer in zip(shards, held, writers, strict=True):
                if name in mine:
                    writer.add(name, whole.share(shard, target))
            if source.quantize:
                task.advance(4 * sum(part.numel() for part in whole.parts))


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
    require_shares(spec, shard)
    sources = shard_sources(_sources(checkpoint, spec), spec, shard)
    mine = threading.local()

    def work(item: tuple[str, WeightSource]) -> PackedWeight | torch.Tensor:
        name, source = item
        if not hasattr(mine, "staging"):
            mine.staging = Staging(target.device)
        staging: Staging = mine.staging
        with staging.on_device():
            whole = _Whole.read(checkpoint, name, source, staging, recipe)
            tensor = whole.share(shard, target)
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
    needed = [t.name for s in sources.values() for t in s.tensors if not t.optional]
    missing = [name for name in needed if name not in checkpoint.names]
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
    if stored.optional and stored.name not in checkpoint.names:
        return torch.zeros(stored.shape, device=staging.device)
    tensor = checkpoint.stored(stored.name, staging)
    if stored.shape != tuple(tensor.shape):
        raise ModelError(
            f"{stored.name} has the shape {list(tensor.shape)}, but the config asks for"
            f" {list(stored.shape)}: the weights and config.json belong to different models."
        )
    return tensor


@dataclass(frozen=True, slots=True)
class _Whole:
    """An engine tensor before ranks take their shares."""

    held_as: str
    """The engine tensor whose format it has: its own, or the head's where a recipe keeps it."""
    source: WeightSource
    parts: Sequence[torch.Tensor]
    rounded: RoundedMatrix | None
    """All parts, where the recipe rounds them."""

    @classmethod
    def read(
        cls,
        checkpoint: Checkpoint,
        name: str,
        source: WeightSource,
        staging: Staging,
        recipe: Recipe,
    ) -> "_Whole":
        parts = [recipe.scaled(name, part) for part in read_parts(checkpoint, source, staging)]
        rounded = recipe.rounded(name, torch.cat(parts)) if source.quantize else None
        held_as = "head" if name in recipe.kept else name
        return cls(held_as, source, parts, rounded)

    def share(self, shard: Shard, target: Packing) -> PackedWeight | torch.Tensor:
        tensor = take_shard(self.parts, self.source, shard)
        if not self.source.quantize:
            return tensor.float()
        scheme = target.scheme(self.held_as, tensor.shape[1])
        if self.rounded is None:
            return scheme.pack(tensor.float() if tensor.device.type == "cpu" else tensor)
        rounded = take_rounded(self.rounded, self.parts, self.source, shard)
        return scheme.pack_rounded(rounded)
