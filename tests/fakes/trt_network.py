"""A network of TensorRT, computed by torch: each layer as TensorRT's documentation defines it.

Plans can't run without a GPU that TensorRT supports; what was defined can be checked all the same.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorrt_rtx as trt
import torch

from nimlite.models.spec import ModelSpec
from nimlite.tensorrt.decoder import RunSegment
from nimlite.tensorrt.network import define
from nimlite.tensorrt.segment import Segment

TINY_SPEC = ModelSpec(
    architecture="LlamaForCausalLM",
    num_layers=3,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=320,
    max_positions=128,
    norm_eps=1e-5,
)
DTYPES = {
    trt.DataType.FLOAT: torch.float32,
    trt.DataType.HALF: torch.float16,
    trt.DataType.BF16: torch.bfloat16,
    trt.DataType.FP8: torch.float8_e4m3fn,
    trt.DataType.INT8: torch.int8,
    trt.DataType.INT4: torch.uint8,
    trt.DataType.INT64: torch.int64,
}
_UNARY = {trt.UnaryOperation.SQRT: torch.sqrt, trt.UnaryOperation.ABS: torch.abs}
_BINARY = {
    trt.ElementWiseOperation.SUM: torch.add,
    trt.ElementWiseOperation.SUB: torch.sub,
    trt.ElementWiseOperation.PROD: torch.mul,
    trt.ElementWiseOperation.DIV: torch.div,
    trt.ElementWiseOperation.MAX: torch.maximum,
}
_ACTIVATIONS = {
    trt.ActivationType.SIGMOID: torch.sigmoid,
    trt.ActivationType.RELU: torch.relu,
    trt.ActivationType.GELU_ERF: torch.nn.functional.gelu,
    trt.ActivationType.GELU_TANH: lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


class InterpretedSegment:
    """A segment's own network, computed by torch: it stands where a plan would run."""

    def __init__(self, segment: Segment) -> None:
        self._builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.network = self._builder.create_network(1 << int(flag))
        self._constants = define(trt, self.network, segment)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return run_network(self.network, inputs)


def interpreted(*parts: Segment) -> dict[str, RunSegment]:
    """By kind."""
    return {part.kind: InterpretedSegment(part) for part in parts}


def run_network(network: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of `network`, each in the type that it declares."""
    values: dict[str, torch.Tensor] = {}
    for index in range(network.num_inputs):
        port = network.get_input(index)
        value = inputs[port.name]
        assert value.dtype is DTYPES[port.dtype], port.name
        if port.dtype == trt.DataType.INT4:
            value = nibbles(value)
        declared = tuple(port.shape)
        assert len(declared) == value.ndim, port.name
        assert all(d in (-1, n) for d, n in zip(declared, value.shape, strict=True)), port.name
        values[port.name] = value
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        arguments = [
            values[layer.get_input(i).name]
            for i in range(layer.num_inputs)
            if layer.get_input(i) is not None
        ]
        output = layer.get_output(0)
        result = _COMPUTE[layer.type](layer, arguments)
        assert result.dtype is DTYPES[output.dtype], (layer.name, result.dtype, output.dtype)
        values[output.name] = result
    return {
        network.get_output(i).name: values[network.get_output(i).name]
        for i in range(network.num_outputs)
    }


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """int4, two in a byte with the first in its lower half, as int8."""
    pairs = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).to(torch.int8)
    return torch.where(pairs > 7, pairs - 16, pairs)


def _as(layer: Any, kind: type) -> Any:
    layer.__class__ = kind  # how the bindings give a layer's own attributes
    return layer


def _constant(layer: Any, _: list[torch.Tensor]) -> torch.Tensor:
    layer = _as(layer, trt.IConstantLayer)
    return torch.from_numpy(np.array(layer.weights).reshape(tuple(layer.shape)))


def _reduce(layer: Any, arguments: list[torch.Tensor]) -> torch.Tensor:
    layer = _as(layer, trt.IReduceLayer)
    assert layer.axes == 1 << 1 and layer.keep_dims
    if layer.op == trt.ReduceOperation.AVG:
        return arguments[0].mean(1, keepdim=True)
    assert layer.op == trt.ReduceOperation.MAX
    return arguments[0].amax(1, keepdim=True)


def _matrix_multiply(layer: Any, arguments: list[torch.Tensor]) -> torch.Tensor:
    layer = _as(layer, trt.IMatrixMultiplyLayer)
    assert layer.op0 == trt.MatrixOperation.NONE and layer.op1 == trt.MatrixOperation.TRANSPOSE
    x_TC, weight_NC = arguments
    assert x_TC.dtype is weight_NC.dtype
    return (x_TC.float() @ weight_NC.float().T).to(x_TC.dtype)


def _binary(layer: Any, arguments: list[torch.Tensor]) -> torch.Tensor:
    a, b = arguments
    assert a.dtype is b.dtype and a.ndim == b.ndim, "TensorRT widens neither types nor ranks"
    return _BINARY[_as(layer, trt.IElementWiseLayer).op](a, b)


def _slice(layer: Any, arguments: list[torch.Tensor]) -> torch.Tensor:
    layer = _as(layer, trt.ISliceLayer)
    size = arguments[1].tolist() if len(arguments) > 1 else list(layer.shape)
    assert set(layer.stride) == {1}
    ends = zip(layer.start, size, strict=True)
    return arguments[0][tuple(slice(begin, begin + count) for begin, count in ends)]


def _quantize(layer: Any, arguments: list[torch.Tensor]) -> torch.Tensor:
    x, scale = arguments
    assert scale.ndim == 0
    if layer.get_output(0).dtype == trt.DataType.INT8:
        return (x.float() / scale).round().clamp(-128, 127).to(torch.int8)
    return (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)


def _dequantize(layer: Any, arguments: list[torch.Tensor]) -> torch.Tensor:
    layer = _as(layer, trt.IDequantizeLayer)
    x, scale = arguments
    if scale.ndim:
        assert layer.axis == 0
        scale = scale.unsqueeze(1)
    return (x.float() * scale).to(DTYPES[layer.get_output(0).dtype])


_COMPUTE = {
    trt.LayerType.CONSTANT: _constant,
    trt.LayerType.REDUCE: _reduce,
    trt.LayerType.MATRIX_MULTIPLY: _matrix_multiply,
    trt.LayerType.ELEMENTWISE: _binary,
    trt.LayerType.SLICE: _slice,
    trt.LayerType.QUANTIZE: _quantize,
    trt.LayerType.DEQUANTIZE: _dequantize,
    trt.LayerType.CAST: lambda layer, a: a[0].to(DTYPES[layer.get_output(0).dtype]),
    trt.LayerType.UNARY: lambda layer, a: _UNARY[_as(layer, trt.IUnaryLayer).op](a[0]),
    trt.LayerType.ACTIVATION: lambda layer, a: _ACTIVATIONS[_as(layer, trt.IActivationLayer).type](
        a[0]
    ),
    trt.LayerType.SHUFFLE: lambda layer, a: a[0].reshape(
        tuple(_as(layer, trt.IShuffleLayer).reshape_dims)
    ),
    trt.LayerType.SHAPE: lambda layer, a: torch.tensor(a[0].shape, dtype=torch.int64),
    trt.LayerType.CONCATENATION: lambda layer, a: torch.cat(a),
}
