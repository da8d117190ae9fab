"""AWQ against rounding to nearest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_samples import activations, output_error, weight

from nimlite.quant.awq import ScaledWeights, awq
from nimlite.quant.rtn import nearest_int4


def error(x_TC: torch.Tensor, weights_NC: list[torch.Tensor], scaled: ScaledWeights) -> list[float]:
    """Each weight's output error when x is divided by the scales, as its producer does."""
    return [
        output_error(x_TC / scaled.scales_C, weight_NC * scaled.scales_C, matrix)
        for weight_NC, matrix in zip(weights_NC, scaled.matrices, strict=True)
    ]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("num_columns", "group_size"), [(256, 128), (288, 32)])
def test_the_output_is_nearer_than_rounded_to_nearest(
    num_columns: int, group_size: int, symmetric: bool
) -> None:
    x_TC = activations(1536, num_columns)
    weights_NC = [weight(48, num_columns, seed=1), weight(16, num_columns, seed=2)]
    seen_TC, unseen_TC = x_TC[:1024], x_TC[1024:]
    scaled = awq(
        weights_NC, seen_TC, seen_TC.abs().mean(0), group_size=group_size, symmetric=symmetric
    )
    for sample_TC in (seen_TC, unseen_TC):
        for weight_NC, found in zip(weights_NC, error(sample_TC, weights_NC, scaled), strict=True):
            nearest = nearest_int4(weight_NC, group_size=group_size, symmetric=symmetric)
            assert found < 0.9 * output_error(sample_TC, weight_NC, nearest)


def test_large_features_are_scaled_up() -> None:
    x_TC = torch.randn(256, 64)
    x_TC[:, 5] *= 50
    scaled = awq([weight(32, 64)], x_TC, x_TC.abs().mean(0), group_size=32)
    assert scaled.alpha > 0
    assert int(scaled.scales_C.argmax()) == 5


def test_scales_alone_and_clipping_alone_each_help() -> None:
    x_TC, weight_NC = activations(1024, 256), weight(32, 256)
    mean_C = x_TC.abs().mean(0)
    nearest = output_error(x_TC, weight_NC, nearest_int4(weight_NC, group_size=128))
    (unscaled,) = error(x_TC, [weight_NC], awq([weight_NC], x_TC, torch.ones(256), group_size=128))
    (unclipped,) = error(
        x_TC, [weight_NC], awq([weight_NC], x_TC, mean_C, group_size=128, clip=False)
    )
    (both,) = error(x_TC, [weight_NC], awq([weight_NC], x_TC, mean_C, group_size=128))
    assert both < unclipped < nearest
    assert unscaled < nearest


@settings(max_examples=20, deadline=None)
@given(
    num_tokens=st.integers(1, 40),
    group_size=st.sampled_from([4, 12, 24]),
    num_dead=st.integers(0, 24),
    symmetric=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_sample_is_never_further_than_rounded_to_nearest(
    num_tokens: int, group_size: int, num_dead: int, symmetric: bool, seed: int
) -> None:
    x_TC, weight_NC = activations(num_tokens, 24, seed), weight(6, 24, seed)
    x_TC[:, :num_dead] = 0
    scaled = awq([weight_NC], x_TC, x_TC.abs().mean(0), group_size=group_size, symmetric=symmetric)
    assert bool((scaled.scales_C > 0).all())
    assert bool(scaled.matrices[0].dequantized().isfinite().all())
    if num_dead < 24:
        nearest = nearest_int4(weight_NC, group_size=group_size, symmetric=symmetric)
        (found,) = error(x_TC, [weight_NC], scaled)
        assert found <= 1.001 * output_error(x_TC, weight_NC, nearest) + 1e-6


def test_equal_means_have_equal_scales() -> None:
    """What folding scales into the rows of a value head that several query heads read needs."""
    x_TC = activations(256, 64)
    mean_C = x_TC.abs().mean(0).view(4, 16).mean(0).repeat(4)
    scales_C = awq([weight(8, 64)], x_TC, mean_C, group_size=32).scales_C
    assert torch.equal(scales_C.view(4, 16), scales_C[:16].expand(4, 16))


@pytest.mark.parametrize("constant", [0.0, 0.5])
def test_a_constant_group_is_kept(constant: float) -> None:
    x_TC = torch.randn(64, 32)
    weight_NC = weight(4, 32)
    weight_NC[:, :16] = constant
    scaled = awq([weight_NC], x_TC, torch.ones(32), group_size=16)
    torch.testing.assert_close(scaled.matrices[0].dequantized()[:, :16], weight_NC[:, :16])
