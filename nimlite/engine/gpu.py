"""An engine on one GPU: weights there, a KV pool of what they leave, tokens sampled there."""

import dataclasses

import torch

from nimlite.engine.device_sampler import DeviceSampler
from nimlite.engine.engine import Engine, kv_layout
from nimlite.kernels.base import Batch, KVLayout
from nimlite.kernels.triton.kernels import TritonKernels
from nimlite.kernels.triton.tuning import choose
from nimlite.kernels.triton.weights import BF16_ROWS, FP8_ROWS, SCHEMES
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.models.registry import weight_sources
from nimlite.models.shapes import checkpoint_shape
from nimlite.models.spec import ModelSpec
from nimlite.profiles.manifest import Precision, Profile
from nimlite.quant.base import PackedWeight, Scheme

_MEMORY_SHARE = 0.92
"""Of the device's memory, for everything; the rest is for graphs and the sampler."""


def gpu_scheme(name: str, precision: Precision) -> Scheme:
    """How the engine tensor `name` is held: fp8 leaves the embedding and the head in bf16."""
    in_fp8 = precision is Precision.FP8 and name not in ("embedding", "head")
    return FP8_ROWS if in_fp8 else BF16_ROWS


def random_weights(spec: ModelSpec, precision: Precision, device: torch.device) -> Weights:
    """Normally distributed weights in the shape of `spec`, made on the device."""
    generator = torch.Generator(device).manual_seed(0)
    weights: dict[str, PackedWeight | torch.Tensor] = {}
    for name, source in weight_sources(spec).items():
        shapes = [checkpoint_shape(spec, part) for part in source.names]
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if not source.quantize:
            weights[name] = torch.ones(shape, device=device)
            continue
        tensor_NC = torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
        weights[name] = gpu_scheme(name, precision).pack(tensor_NC.mul_(0.02))
    return weights


def gpu_engine(
    spec: ModelSpec,
    weights: Weights,
    profile: Profile,
    device: torch.device,
    *,
    prefix_caching: bool = True,
) -> Engine:
    """`profile.kv_cache_bytes` None: as much as the largest step leaves."""
    choices = choose(_products(weights), device, torch.bfloat16)
    kernels = TritonKernels(device, torch.bfloat16, profile.max_batch_size, choices)
    if profile.kv_cache_bytes is None:
        num_bytes = measure_kv_bytes(spec, weights, profile, kernels, device)
        profile = dataclasses.replace(profile, kv_cache_bytes=num_bytes)
    return Engine(
        spec=spec,
        weights=weights,
        profile=profile,
        kernels=kernels,
        eos_token_ids=(),
        prefix_caching=prefix_caching,
        sampler=DeviceSampler(profile.max_batch_size, device),
    )


def _products(weights: Weights) -> list[tuple[Scheme, int, int]]:
    """The scheme and the shape of every matrix that is multiplied with."""
    return [
        (SCHEMES[weight.scheme], weight.num_rows, weight.num_columns)
        for name, weight in weights.items()
        if isinstance(weight, PackedWeight) and name != "embedding"
    ]


@torch.inference_mode()
def measure_kv_bytes(
    spec: ModelSpec,
    weights: Weights,
    profile: Profile,
    kernels: TritonKernels,
    device: torch.device,
) -> int:
    """What the largest step leaves for the pool: it is run once, over a pool of a few blocks."""
    small = dataclasses.replace(profile, kv_cache_bytes=0)
    layout = dataclasses.replace(kv_layout(spec, small), num_blocks=profile.max_batch_size)
    model = Decoder.load(spec, weights, layout)
    kv = kernels.allocate_kv(spec.num_layers, layout)
    batch = largest_step(profile, layout, device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model(batch, kv, kernels)
    step_bytes = torch.cuda.max_memory_allocated() - before
    del kv, batch
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return free - step_bytes - round((1 - _MEMORY_SHARE) * total)


def largest_step(profile: Profile, layout: KVLayout, device: torch.device) -> Batch:
    """As many tokens as a step takes, over as many sequences, each in one block of its own."""
    num_sequences = profile.max_batch_size
    length = min(profile.max_num_tokens // num_sequences, layout.block_size)

    def indices(count: int) -> torch.Tensor:
        return torch.arange(count, dtype=torch.int32, device=device)

    sequences_S1, positions_T = indices(num_sequences), indices(length).repeat(num_sequences)
    blocks_T = sequences_S1.repeat_interleave(length)
    return Batch(
        token_ids_T=torch.zeros_like(positions_T),
        positions_T=positions_T,
        slots_T=blocks_T * layout.block_size + positions_T,
        query_starts_S1=indices(num_sequences + 1) * length,
        context_lens_S=torch.full_like(sequences_S1, length),
        block_tables_SB=sequences_S1.unsqueeze(1).contiguous(),
        logit_rows_R=(sequences_S1 + 1) * length - 1,
    )
