"""How many bytes a profile takes: pure arithmetic on shapes, per device, and on the CPU in RAM.

The largest rank counts. What can't be computed is a constant here, measured (docs/performance.md).
"""

import bisect
import math
from dataclasses import dataclass, replace

from nimlite.profiles.manifest import Device, Precision, Profile
from nimlite.profiles.shape import ModelShape

_MIB = 1 << 20
WEIGHT_BYTES = {
    Precision.FP32: 4.0,
    Precision.BF16: 2.0,
    Precision.FP16: 2.0,
    Precision.FP8: 1.0,
    Precision.INT8_SQ: 1.0,
    Precision.INT8_WO: 1.0,
    Precision.INT8: 1 + 2 / 32,
    Precision.INT4_AWQ: 0.5 + 3 / 128,
    Precision.INT4_GPTQ: 0.5 + 3 / 128,
    Precision.INT4: 0.5 + 4 / 32,
}
"""Bytes a weight, with the scale (and the zero or minimum) that its group shares; a scale a row is
nothing beside it."""
_VOCABULARY = {Precision.FP32: Precision.FP32, Precision.INT8: Precision.INT8}
_VOCABULARY |= {Precision.INT4: Precision.INT8}
"""How the embedding and the head are held; else in 16 bits."""
_WIDENED = (Precision.INT8_WO, Precision.INT4_AWQ, Precision.INT4_GPTQ)
"""Whose matrices a GPU may widen to 16 bits, one at a time, for a step of many tokens."""
_WIDENED_FROM = 128
"""Tokens; fewer are multiplied as the matrix is held."""
_KV_BYTES = {Precision.FP32: 4.0, Precision.BF16: 2.0, Precision.FP16: 2.0, Precision.FP8: 1.0}
_RUNTIME_BYTES = {Device.CPU: 384 * _MIB, Device.GPU: 1024 * _MIB}
"""Python and torch with their libraries; on a GPU the CUDA context and the kernels' code."""
_WORKSPACE_BYTES = 96 * _MIB
"""cuBLAS, the products' partial sums, decode attention's partial sums."""
_GRAPH_BYTES = 2 * _MIB
"""What a recorded graph takes beside its memory."""
_LEAST_GRAPHS = 512 * _MIB
"""What the engine keeps for graphs and the sampler, however few there are (engine/gpu.py)."""
_SAMPLING_BYTES = 11
"""Of a logit: which tokens a sequence with penalties has seen, a copy with the penalties, and
log-probabilities."""
_COMMUNICATION_BYTES = 256 * _MIB
"""NCCL's channels and the peers' buffers of a rank."""
_SLACK = 0.25
"""Of a GPU's buffers: blocks that the allocator can't hand out again in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What goes where, in bytes a device."""

    weights: int
    activations: int
    """Buffers of one step at its largest, and what the allocator loses on them."""
    graphs: int = 0
    """Recorded decode steps."""
    communication: int = 0
    """Between the ranks."""
    runtime: int
    kv_minimum: int
    """Keys and values of one request of full length: with less the engine can't start."""
    kv_cache: int
    """The pool that the engine will make: a whole number of blocks."""
    budget: int
    """What all of it may take together."""

    @property
    def fixed(self) -> int:
        """All but keys and values."""
        return self.weights + self.activations + self.graphs + self.communication + self.runtime

    @property
    def needed(self) -> int:
        """The least that the profile runs in."""
        return self.fixed + self.kv_minimum

    @property
    def total(self) -> int:
        """What it will take."""
        return self.fixed + self.kv_cache

    @property
    def fits(self) -> bool:
        return self.needed <= self.budget


def plan_memory(shape: ModelShape, profile: Profile, budget: int) -> MemoryPlan:
    """Split `budget`: the KV pool gets what the rest leaves, but not more than the profile wants
    (or one request of full length needs)."""
    block = kv_block_bytes(shape, profile)
    minimum = kv_bytes(shape, profile, profile.max_model_len)
    plan = MemoryPlan(
        weights=weight_bytes(shape, profile),
        activations=activation_bytes(shape, profile),
        graphs=graph_bytes(shape, profile),
        communication=_COMMUNICATION_BYTES if profile.num_gpus > 1 else 0,
        runtime=_RUNTIME_BYTES[profile.device],
        kv_minimum=minimum,
        kv_cache=0,
        budget=budget,
    )
    left = budget - plan.fixed
    if not shape.causal:  # scratch for the largest step
        largest_step = profile.max_num_tokens // profile.block_size + profile.max_batch_size
        profile = replace(profile, kv_cache_bytes=block * largest_step)
    wanted = left if profile.kv_cache_bytes is None else max(profile.kv_cache_bytes, minimum)
    pool = max(0, min(left, wanted))
    # Layers with a window hold fewer blocks: what one request needs may lie between whole ones.
    least = minimum if pool >= minimum else 0
    return replace(plan, kv_cache=max(pool // block * block, least))


def longest_context(shape: ModelShape, profile: Profile, plan: MemoryPlan) -> int:
    """The largest max_model_len that `plan.budget` would hold, in whole blocks; 0 if none."""
    left = plan.budget - plan.fixed
    blocks = range(1, math.ceil(shape.max_positions / profile.block_size) + 1)
    fitting = bisect.bisect_right(
        blocks, left, key=lambda count: kv_bytes(shape, profile, count * profile.block_size)
    )
    return min(fitting * profile.block_size, shape.max_positions)


def weight_bytes(shape: ModelShape, profile: Profile) -> int:
    """Weights of the rank that has most. Norms and biases are in fp32, and so is the rotation."""
    vocabulary = WEIGHT_BYTES[_VOCABULARY.get(profile.precision, Precision.BF16)]
    parameters = shape.layer_parameters + shape.unknown_parameters
    layers = parameters * WEIGHT_BYTES[profile.precision] / profile.tp
    tables = (shape.head_parameters + shape.embedding_parameters) * vocabulary / profile.tp
    if profile.pp > 1:
        # the first stage has the embedding, the last one the head
        layers *= math.ceil(shape.num_layers / profile.pp) / shape.num_layers
        tables = max(shape.head_parameters, shape.embedding_parameters) * vocabulary / profile.tp
    rotation = 0 if shape.learned_positions else shape.max_positions * shape.head_dim
    return math.ceil(layers + tables + 4 * (shape.vector_parameters + rotation))


def read_bytes(shape: ModelShape, profile: Profile, num_tokens: float) -> float:
    """Weights that a step of `num_tokens` reads on one rank: of the decoder every layer's, the
    head's, and of experts those that some token chose, if each chooses alike."""
    size = profile.tp * profile.pp
    vocabulary = WEIGHT_BYTES[_VOCABULARY.get(profile.precision, Precision.BF16)]
    idle_share = math.pow(1 - shape.experts_per_token / shape.num_experts, num_tokens)
    idle = idle_share * shape.num_layers * shape.num_experts * shape.mlp_parameters
    idle += shape.encoder_parameters
    layers = (shape.layer_parameters - idle) * WEIGHT_BYTES[profile.precision]
    return (layers + shape.head_parameters * vocabulary) / size


def kv_bytes(shape: ModelShape, profile: Profile, num_tokens: int) -> int:
    """Keys and values of one request of `num_tokens` on one rank, in whole blocks. An encoder's
    prompt and the answer may have so many each."""
    texts = 2 if shape.num_encoder_layers else 1
    blocks = texts * math.ceil(num_tokens / profile.block_size)
    elements = shape.kv_elements(blocks * profile.block_size)
    return math.ceil(elements * _KV_BYTES[profile.kv_precision] / _kv_shards(shape, profile))


def stream_bytes(shape: ModelShape, profile: Profile, num_prompt: int, num_output: int) -> int:
    """Keys and values that one request keeps on one rank while it is answered: those of its prompt,
    and where every layer has a window, of what follows only what the windows see."""
    held = num_prompt + num_output
    if shape.sliding_window is not None and shape.num_windowed_layers == shape.num_layers:
        held = min(held, max(num_prompt, shape.sliding_window + profile.block_size))
    return kv_bytes(shape, profile, held)


def kv_block_bytes(shape: ModelShape, profile: Profile) -> int:
    """Keys and values of one block on one rank."""
    elements = shape.kv_elements(profile.block_size)
    return math.ceil(elements * _KV_BYTES[profile.kv_precision] / _kv_shards(shape, profile))


def _kv_shards(shape: ModelShape, profile: Profile) -> int:
    """Ranks that the cache is split over; with fewer heads than ranks several hold the same."""
    return min(profile.tp, shape.num_kv_heads) * profile.pp


def activation_bytes(shape: ModelShape, profile: Profile) -> int:
    """The widest tensors of a step for every token, and what sampling takes for every sequence."""
    num_tokens, num_sequences = profile.max_num_tokens, profile.max_batch_size
    if profile.device is Device.CPU:
        # fp32; the sampler works on a copy of the logits
        attention = shape.qkv_size + shape.num_heads * shape.head_dim
        per_token = 4 * shape.hidden_size + attention + _mlp_width(shape)
        if shape.num_encoder_layers:
            per_token *= 2  # which reads beside the recorded step
        return 4 * (num_tokens * per_token + 2 * num_sequences * shape.vocab_size)
    step = 2 * num_tokens * _width(shape, profile.tp)
    step += _widened_bytes(shape, profile)
    sampling = _SAMPLING_BYTES * num_sequences * shape.vocab_size
    return math.ceil((1 + _SLACK) * step) + sampling + _WORKSPACE_BYTES


def graph_bytes(shape: ModelShape, profile: Profile) -> int:
    """Recorded decode steps share the memory of the largest: a token and its logits, which are kept
    in fp32, for every sequence."""
    if profile.device is Device.CPU:
        return 0
    width = _width(shape, profile.tp) + 4 * shape.vocab_size
    graphs = 2 * profile.max_batch_size * width + _num_graphs(profile) * _GRAPH_BYTES
    if profile.max_batch_size > _WIDENED_FROM:
        graphs += _widened_bytes(shape, profile)
    return max(_LEAST_GRAPHS, math.ceil((1 + _SLACK) * graphs))


def _widened_bytes(shape: ModelShape, profile: Profile) -> int:
    """The largest matrix of a layer in 16 bits, where the precision has it widened."""
    if profile.precision not in _WIDENED:
        return 0
    return 2 * 2 * shape.intermediate_size * shape.hidden_size // profile.tp


def _width(shape: ModelShape, tp: int) -> int:
    """16-bit elements a token of what lives at once: residual (fp32), norm, result, and the wider
    of MLP and attention."""
    mlp = _mlp_width(shape)
    attention = shape.qkv_size + 2 * shape.num_heads * shape.head_dim
    return 4 * shape.hidden_size + math.ceil(max(mlp, attention) / tp)


def _mlp_width(shape: ModelShape) -> int:
    """Elements a token of an MLP: gate, up and their product; for each of its experts, with what
    goes in and comes out of it, too."""
    inner = 3 * shape.intermediate_size
    if shape.num_experts == 1:
        return inner
    return shape.experts_per_token * (inner + 2 * max(shape.hidden_size, shape.intermediate_size))


def _num_graphs(profile: Profile) -> int:
    """About as many as kernels/triton/graphs.py records: eight to each doubling of the batch."""
    return 8 * profile.max_batch_size.bit_length()
