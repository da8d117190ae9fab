"""Softmax taken a tile of keys at a time, in powers of two.

Milakov and Gimelshein, 2018, arXiv:1805.02867.
"""

import triton
import triton.language as tl

UNSEEN = tl.constexpr(-1e30)
"""The maximum of no scores: finite, so that nothing becomes inf - inf."""


@triton.jit
def capped(s, soft_cap):
    """soft_cap * tanh(s / soft_cap)."""
    return soft_cap * (2.0 * tl.sigmoid(2.0 * s / soft_cap) - 1.0)


@triton.jit
def accumulate(s, peak, v, maximum, total, acc, factor):
    """Take in scores s [M, N] (-inf where masked) and values v [N, K].

    `factor` is log2(e) times what the scores still lack; they are compared without it.
    """
    new_maximum = tl.maximum(maximum, peak)
    p = tl.exp2(s * factor - (new_maximum * factor)[:, None])
    keep = tl.exp2((maximum - new_maximum) * factor)
    total = total * keep + tl.sum(p, axis=1)
    acc = tl.dot(p.to(v.dtype), v, acc * keep[:, None])
    return new_maximum, total, acc
