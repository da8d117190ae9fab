"""The twin's products: as precise as their weights."""

import pytest
from kernel_cases import random, relative_error

from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.quant import SCHEMES, unpack

WORST_ERROR = {"fp32": 1e-6} | dict.fromkeys(SCHEMES.keys() - {"fp32"}, 4e-3)


@pytest.mark.parametrize("name", SCHEMES)
def test_products_have_the_precision_of_their_weight(name: str) -> None:
    weight, x_TC = SCHEMES[name].pack(random(64, 96)), random(5, 96, seed=1)
    exact = x_TC.double() @ unpack(weight).double().T
    y_TN = TorchKernels().linear(x_TC, weight, None)
    assert y_TN.dtype == x_TC.dtype
    assert relative_error(y_TN, exact) <= WORST_ERROR[name]
