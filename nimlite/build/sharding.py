"""A rank's share of each engine tensor (layers/shard.py says which that is)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from nimlite.errors import ModelError
from nimlite.layers.shard import Shard, refusal
from nimlite.models.spec import ModelSpec, WeightSource
from nimlite.quant.rounded import RoundedMatrix


def shard_sources(
    sources: Mapping[str, WeightSource], spec: ModelSpec, shard: Shard
) -> dict[str, WeightSource]:
    """Those that the rank's stage holds. Where ranks' products are summed, one adds the bias."""
    return {
        name: source
        for name, source in sources.items()
        if shard.holds(name, spec.num_layers, tied=spec.tie_embeddings)
        and not (shard.rank > 0 and _is_bias_of_a_sum(name, sources))
    }


def require_shares(spec: ModelSpec, shard: Shard) -> None:
    """Raises ModelError where the model can't be split over so many ranks."""
    if shard.world * shard.stages > 1 and (spec.encoder is not None or not spec.causal):
        raise ModelError(
            f"A {spec.architecture} has an encoder, and only decoders can be split over ranks: take"
            " tp=1, pp=1."
        )
    inner = spec.intermediate_size
    if spec.moe is not None:
        inner = min(spec.moe.intermediate_size, spec.moe.shared_size or inner)
    count = shard.world * shard.stages
    if problem := refusal(
        spec.num_heads,
        spec.num_kv_heads,
        inner,
        spec.num_layers,
        tp=shard.world,
        pp=shard.stages,
    ):
        raise ModelError(f"This model can't be split over {count} ranks: {problem}")


def take_shard(parts: Sequence[torch.Tensor], source: WeightSource, shard: Shard) -> torch.Tensor:
    """The rank's share of every part, concatenated along the rows."""
    if source.shard == "none" or shard.world == 1:
        return torch.cat(list(parts))
    dimension = 0 if source.shard == "rows" else 1
    ranges = _ranges(source, [part.shape[dimension] for part in parts], shard)
    return torch.cat(
        [part.narrow(dimension, r.start, len(r)) for part, r in zip(parts, ranges, strict=True)]
    )


def shard_shape(source: WeightSource, shard: Shard) -> tuple[int, ...]:
    """Of the rank's share."""
    if source.shard == "none" or shard.world == 1:
        return source.shape
    if source.shard == "columns":
        return (source.shape[0], len(_ranges(source, source.shape[1:], shard)[0]))
    sizes = [size for stored in source.tensors for size in stored.part_rows]
    return (sum(map(len, _ranges(source, sizes, shard))), *source.shape[1:])


def take_rounded(
    whole: RoundedMatrix, parts: Sequence[torch.Tensor], source: WeightSource, shard: Shard
) -> RoundedMatrix:
    """The same of all parts, concatenated and rounded. A group that would be cut is given new
    scales: one a column."""
    if source.shard == "none" or shard.world == 1:
        return whole
    if source.shard == "rows":
        sizes = [len(part) for part in parts]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        ranges = _ranges(source, sizes, shard)
        rows = [torch.arange(s + r.start, s + r.stop) for s, r in zip(starts, ranges, strict=True)]
        return whole.reordered(torch.cat(rows))
    columns = _ranges(source, [parts[0].shape[1]], shard)[0]
    return _uncut(whole, columns).columns(columns.start, columns.stop)


def _uncut(whole: RoundedMatrix, columns: range) -> RoundedMatrix:
    """With a scale for each column where groups of columns can't be taken apart by `columns`."""
    size = whole.group_size
    is_whole = columns.start % size == 0 and columns.stop % size == 0
    if whole.order_C is None and (whole.scales_NG.shape[1] == 1 or is_whole):
        return whole
    values_NC = whole.values_NC
    scales_NC = whole.scales_NG.repeat_interleave(size, 1)
    zeros_NC = whole.zeros().repeat_interleave(size, 1)
    if whole.order_C is not None:
        place_C = whole.order_C.argsort()
        values_NC, scales_NC, zeros_NC = (
            tensor.index_select(1, place_C) for tensor in (values_NC, scales_NC, zeros_NC)
        )
    has_zeros = whole.zeros_NG is not None
    return replace(
        whole,
        values_NC=values_NC,
        scales_NG=scales_NC,
        zeros_NG=zeros_NC if has_zeros else None,
        order_C=None,
    )


def _ranges(source: WeightSource, sizes: Sequence[int], shard: Shard) -> list[range]:
    """Of each part, of so many rows or columns."""
    if source.heads is None:
        return [shard.features(size) for size in sizes]
    num_heads, num_kv_heads = source.heads
    queries, keys = shard.heads(num_heads, num_kv_heads), shard.kv_heads(num_kv_heads)
    held = ((queries, num_heads), (keys, num_kv_heads), (keys, num_kv_heads))
    return [
        range(heads.start * size // count, heads.stop * size // count)
        for size, (heads, count) in zip(sizes, held, strict=False)
    ]


def _is_bias_of_a_sum(name: str, sources: Mapping[str, WeightSource]) -> bool:
    weight, dot, _ = name.rpartition(".bias")
    return bool(dot) and weight in sources and sources[weight].shard == "columns"
