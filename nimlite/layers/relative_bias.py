"""T5's relative positions: a learned value for each bucket of distances, as a table by distance."""

import math

import torch

from nimlite.models.spec import RelativeBias


def bias_by_distance(bias: RelativeBias, values_HN: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """`Scores.bias_HP` of the learned values of each head's buckets."""
    reach = bias.max_distance
    distances_P = torch.arange(-reach, reach + 1, device=values_HN.device)
    return values_HN[:, buckets(bias, distances_P, causal=causal)].contiguous()


def buckets(bias: RelativeBias, distances_P: torch.Tensor, *, causal: bool) -> torch.Tensor:
    """int64: the bucket of each distance by which a key stands before its query.

    Small distances have one each, larger ones share them by their logarithm (Raffel et al., 2019,
    arXiv:1910.10683, section 2.1). Where keys may stand behind, those have a half of their own.
    """
    count = bias.num_buckets if causal else bias.num_buckets // 2
    lengths_P = distances_P.clamp(min=0) if causal else distances_P.abs()
    exact = count // 2
    growth_P = torch.log(lengths_P.clamp(min=exact).float() / exact)
    # in fp32, as transformers computes it: a rounding may decide between two buckets
    shared_P = growth_P / math.log(bias.max_distance / exact) * (count - exact)
    large_P = (exact + shared_P.to(torch.int64)).clamp(max=count - 1)
    found_P = torch.where(lengths_P < exact, lengths_P, large_P)
    return found_P if causal else found_P + count * (distances_P < 0)
