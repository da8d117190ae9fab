"""How steep each head's loss with distance is (Press et al., 2021, arXiv:2108.12409)."""

import math


def published_slopes(num_heads: int) -> tuple[float, ...]:
    """2^(-8 i / n), of n heads; where n is no power of two, of the next smaller one, and the rest
    from between those of the next larger one."""
    smaller = 2 ** math.floor(math.log2(num_heads))
    between = _geometric(2 * smaller)[::2]
    return (*_geometric(smaller), *between)[:num_heads]


def mpt_slopes(num_heads: int, largest_exponent: float = 8.0) -> tuple[float, ...]:
    """The same where n is a power of two; else every second of the next larger one's, then the
    others."""
    larger = 2 ** math.ceil(math.log2(num_heads))
    slopes = _geometric(larger, largest_exponent)
    if larger == num_heads:
        return slopes
    return (*slopes[1::2], *slopes[::2])[:num_heads]


def _geometric(count: int, largest_exponent: float = 8.0) -> tuple[float, ...]:
    return tuple(2.0 ** (-largest_exponent * (i + 1) / count) for i in range(count))
