"""Recorded steps: equal to eager ones, in buffers that layers share."""

import gc

import pytest
import torch
from kernel_cases import Heads, ragged_batch, random

from nimlite.kernels.base import Batch, Counts, Scores
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.graph import BufferPool
from nimlite.quant import SCHEMES

HEADS = Heads(num_heads=4, num_kv_heads=2, head_dim=16)
SCORES = Scores(scale=0.1)
MAX = Counts(num_tokens=40, num_sequences=5, num_rows=5)
LAYERS = 3


class Model:
    """A decoder in miniature that touches every operation."""

    def __init__(self, kernels: CpuKernels) -> None:
        self.kernels, self.layout = kernels, HEADS.layout(20)
        self.kv = kernels.allocate_kv(LAYERS, self.layout)
        self.cos_sin_PK = random(200, HEADS.head_dim)
        self.norm_D = torch.ones(64)
        self.embedding = SCHEMES["int8"].pack(random(50, 64))
        self.qkv = SCHEMES["int4"].pack(random(HEADS.qkv_size, 64))
        self.gate_up = SCHEMES["bf16"].pack(random(256, 64))
        self.down = SCHEMES["fp32"].pack(random(64, 128))

    def forward(self, batch: Batch) -> torch.Tensor:
        k = self.kernels
        residual_TD = k.embed(self.embedding, batch.token_ids_T)
        x_TD = k.rms_norm(residual_TD, self.norm_D, 1e-5)
        for layer in range(LAYERS):
            qkv_TE = k.linear(x_TD, self.qkv, None)
            k.rope_and_cache(qkv_TE, self.cos_sin_PK, self.kv[layer], batch, self.layout)
            o_TD = k.attention(qkv_TE, self.kv[layer], batch, self.layout, HEADS.num_heads, SCORES)
            x_TD = k.add_rms_norm(o_TD, residual_TD, self.norm_D, 1e-5)
            y_TI = k.gated_activation(k.linear(x_TD, self.gate_up, random(256)), "silu")
            x_TD = k.add_rms_norm(k.linear(y_TI, self.down, None), residual_TD, self.norm_D, 1e-5)
        return k.linear(k.take_rows(x_TD, batch.logit_rows_R), self.embedding, None)


def static_batch() -> Batch:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int32)

    tokens, sequences = MAX.num_tokens, MAX.num_sequences
    return Batch(
        zeros(tokens),
        zeros(tokens),
        zeros(tokens),
        zeros(sequences + 1),
        zeros(sequences),
        zeros(sequences, 8),
        zeros(MAX.num_rows),
    )


def fill(static: Batch, batch: Batch) -> Counts:
    for name in Batch.__slots__:
        source = getattr(batch, name)
        if source is None:  # there is no encoder
            continue
        getattr(static, name)[tuple(slice(size) for size in source.shape)] = source
    return Counts(len(batch.token_ids_T), len(batch.context_lens_S), len(batch.logit_rows_R))


STEPS = [[(0, 20), (0, 1)], [(0, 1)], [(3, 1), (0, 7), (0, 30)], [(0, 8)] * 5]


def test_replay_equals_eager_bit_for_bit(kernels: CpuKernels) -> None:
    recorded, eager = Model(kernels), Model(kernels)
    static = static_batch()
    step = kernels.capture(recorded.forward, static)
    gc.collect()  # what the recording needs must be kept by it
    for seed, chunks in enumerate(STEPS):
        batch, _ = ragged_batch(chunks, 16, torch.Generator().manual_seed(seed))
        logits_RV = step(fill(static, batch))
        assert torch.equal(logits_RV, eager.forward(batch))
        assert torch.equal(recorded.kv, eager.kv)


def test_layers_share_buffers(kernels: CpuKernels) -> None:
    model = Model(kernels)
    with kernels.record(static_batch()) as graph:
        model.forward(static_batch())
    floats_per_token = graph.num_bytes / 4 / MAX.num_tokens
    one_layer = 3 * 64 + HEADS.qkv_size + 256 + 128 + 64 + 256
    assert floats_per_token < one_layer + 2 * 64


def test_a_buffer_is_reused_only_after_every_view_of_it_is_gone() -> None:
    pool = BufferPool()
    buffer = pool.empty(4, 8)
    address = buffer.data_ptr()
    view = buffer[1:]
    del buffer
    assert pool.empty(4, 8).data_ptr() != address
    del view
    assert address in {pool.empty(8, 4).data_ptr(), pool.empty(4, 8).data_ptr()}


def test_recording_ends_with_its_block_even_after_an_error(kernels: CpuKernels) -> None:
    with pytest.raises(KeyError), kernels.record(static_batch()):
        raise KeyError
    x_TD = random(2, 64)
    assert torch.isfinite(kernels.rms_norm(x_TD, torch.ones(64), 1e-5)).all()


def test_more_than_was_recorded_is_refused(kernels: CpuKernels) -> None:
    static = static_batch()
    step = kernels.capture(Model(kernels).forward, static)
    with pytest.raises(AssertionError):
        step(Counts(MAX.num_tokens + 1, 1, 1))
