"""Softmax taken a tile of keys at a time, in powers of two.

Milakov and Gimelshein, 2018, arXiv:1805.02867.
"""

import triton
import triton.language as tl


@triton.jit
def scores(q, k, scale, soft_cap, SOFT_CAP: tl.constexpr):
    """q k^T scaled, capped where asked, times log2(e). q [M, K], k [N, K]."""
    s = tl.dot(q, tl.trans(k)) * scale
    if SOFT_CAP:
        # cap * tanh(s / cap)
        s = soft_cap * (2.0 * tl.sigmoid(2.0 * s / soft_cap) - 1.0)
    return s * 1.4426950408889634


@triton.jit
def accumulate(s, v, maximum, total, acc):
    """Take in scores s [M, N] (-inf where masked) and values v [N, K]."""
    new_maximum = tl.maximum(maximum, tl.max(s, axis=1))
    # a row that has seen nothing yet must not give inf - inf
    shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
    p = tl.exp2(s - shift[:, None])
    keep = tl.exp2(maximum - shift)
    total = total * keep + tl.sum(p, axis=1)
    acc = tl.dot(p.to(v.dtype), v, acc * keep[:, None])
    return new_maximum, total, acc
