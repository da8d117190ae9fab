"""A segment as a strongly typed network of TensorRT.

Every value has the type that it is given here; the residual stream, sums of squares and scales are
in fp32. T, D, E, I, N, C: as in segment.py.
"""

from types import ModuleType
from typing import Any

import numpy as np

from nimlite.tensorrt.segment import DType, Segment

_DTYPES: dict[DType, str] = {
    "bf16": "BF16",
    "fp16": "HALF",
    "fp32": "FLOAT",
    "fp8": "FP8",
    "int8": "INT8",
    "int4": "INT4",
    "int64": "INT64",
}
_LARGEST: dict[DType, float] = {"fp8": 448.0, "int8": 127.0}
"""Of the types that activations are rounded to."""
_LEAST_SCALE = 1e-12
"""A row of zeros is divided by it."""

Tensor = Any
"""An ITensor of whichever module is given."""


class LayerRefusedError(Exception):
    """TensorRT gave no layer. Why, it tells its error recorder."""


def data_type(trt: ModuleType, dtype: DType) -> Any:
    """The module's name for `dtype`."""
    return getattr(trt.DataType, _DTYPES[dtype])


def define(trt: ModuleType, network: Any, segment: Segment) -> list[np.ndarray]:
    """Fill the empty `network` with `segment`: its inputs, layers and outputs.

    Returns the memory of its constants, which must live until the network is compiled. Raises
    LayerRefusedError for a shape that a layer does not take.
    `trt`: the module `tensorrt` or `tensorrt_rtx`; their methods for this have the same names.
    """
    graph = _Graph(trt, network, segment)
    inputs = {
        port.name: network.add_input(port.name, data_type(trt, port.dtype), port.shape)
        for port in segment.inputs
    }
    residual_TD = inputs["residual"]
    if segment.kind != "first":
        residual_TD = graph.from_attention(inputs)
    if segment.kind == "last":
        outputs = [graph.normed(residual_TD, "final_norm", inputs)]
    else:
        outputs = [graph.to_attention(residual_TD, inputs)]
    if segment.kind == "middle":
        outputs.insert(0, residual_TD)
    for port, tensor in zip(segment.outputs, outputs, strict=True):
        tensor.name = port.name
        network.mark_output(tensor)
    return graph.constants


class _Checked:
    """A network whose refused layers are errors; by itself it gives None for them."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._network, name)

        def checked(*arguments: Any) -> Any:
            layer = method(*arguments)
            if layer is None:
                raise LayerRefusedError(name)
            return layer

        return checked


class _Graph:
    """The parts of segments, as layers added to one network."""

    def __init__(self, trt: ModuleType, network: Any, segment: Segment) -> None:
        self._trt = trt
        self._network = _Checked(network)
        self._segment = segment
        self._spec = segment.spec
        self._dtype = data_type(trt, segment.dtype)
        self.constants: list[np.ndarray] = []

    def from_attention(self, inputs: dict[str, Tensor]) -> Tensor:
        """The residual stream after a layer, [T, D]."""
        block, residual_TD = self._spec.block, inputs["residual"]
        o_TD = self._fp32(self._linear(inputs["attended"], "output", inputs))
        if block == "sandwich":
            o_TD = self._norm(o_TD, "attention_out_norm", inputs)
        attended_TD = self._add(residual_TD, o_TD)
        is_parallel = block in ("parallel", "parallel_shared")
        x_TD = self.normed(residual_TD if is_parallel else attended_TD, "post_norm", inputs)
        y_TD = self._fp32(self._linear(self._inner(x_TD, inputs), "down", inputs))
        if block == "sandwich":
            y_TD = self._norm(y_TD, "mlp_out_norm", inputs)
        return self._add(attended_TD, y_TD)

    def to_attention(self, residual_TD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """q, k and v side by side, before their rotation: qkv_TE."""
        return self._linear(self.normed(residual_TD, "input_norm", inputs), "qkv", inputs)

    def normed(self, x_TD: Tensor, name: str, inputs: dict[str, Tensor]) -> Tensor:
        """The norm of x in the activations' type."""
        return self._cast(self._norm(x_TD, name, inputs), self._dtype)

    def _norm(self, x_TD: Tensor, name: str, inputs: dict[str, Tensor]) -> Tensor:
        """RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467) or LayerNorm (Ba et al., 2016,
        arXiv:1607.06450), in fp32."""
        if self._spec.norm == "layer":
            x_TD = self._binary(x_TD, self._mean(x_TD), self._trt.ElementWiseOperation.SUB)
        eps_11 = self._constant(self._spec.norm_eps, (1, 1))
        shifted_T1 = self._add(self._mean(self._multiply(x_TD, x_TD)), eps_11)
        root_T1 = self._network.add_unary(shifted_T1, self._trt.UnaryOperation.SQRT).get_output(0)
        normed_TD = self._binary(x_TD, root_T1, self._trt.ElementWiseOperation.DIV)
        normed_TD = self._multiply(normed_TD, self._row(inputs[name]))
        bias = inputs.get(f"{name}.bias")
        return normed_TD if bias is None else self._add(normed_TD, self._row(bias))

    def _mean(self, x_TD: Tensor) -> Tensor:
        """Of each row, [T, 1]."""
        mean = self._trt.ReduceOperation.AVG
        return self._network.add_reduce(x_TD, mean, 1 << 1, True).get_output(0)

    def _inner(self, x_TD: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """What the MLP's last product is of, [T, I]."""
        up_TN = self._linear(x_TD, self._spec.up_name, inputs)
        if not self._spec.gated_mlp:
            return self._activation(up_TN)
        inner = self._spec.intermediate_size
        gate_TI, up_TI = self._columns(up_TN, 0, inner), self._columns(up_TN, inner, inner)
        return self._multiply(self._activation(gate_TI), up_TI)

    def _linear(self, x_TC: Tensor, name: str, inputs: dict[str, Tensor]) -> Tensor:
        y_TN = self._weighted(x_TC, name, inputs)
        bias = f"{name}.bias"
        if bias in inputs:
            y_TN = self._add(y_TN, self._cast(self._row(inputs[bias]), self._dtype))
        return y_TN

    def _weighted(self, x_TC: Tensor, name: str, inputs: dict[str, Tensor]) -> Tensor:
        kind = self._segment.weights
        if kind == "dense":
            return self._product(x_TC, inputs[name])
        if kind == "int4":
            return self._product(x_TC, self._widened_groups(name, inputs))
        widen = self._network.add_dequantize(inputs[name], inputs[f"{name}.scales"], self._dtype)
        widen.axis = 0
        weight_NC = widen.get_output(0)
        if kind == "int8":
            return self._product(x_TC, weight_NC)
        if kind == "fp8_static":
            x_TC = self._stepped(x_TC, inputs[f"{name}.input_scale"], "fp8")
            return self._product(x_TC, weight_NC)
        rounded_TC, scale_T1 = self._rounded(x_TC, "fp8" if kind == "fp8" else "int8")
        y_TN = self._multiply(self._fp32(self._product(rounded_TC, weight_NC)), scale_T1)
        return self._cast(y_TN, self._dtype)

    def _widened_groups(self, name: str, inputs: dict[str, Tensor]) -> Tensor:
        """The matrix [N, C] of int4 values with a scale and an offset a group.

        Each group is a row of its own here: TensorRT for RTX takes int4 with scales along rows, and
        refuses it with scales of blocks.
        """
        values = inputs[name]
        widen = self._network.add_dequantize(
            values, inputs[f"{name}.scales"], self._trt.DataType.FLOAT
        )
        widen.axis = 0
        groups, size = values.shape
        offsets = self._shaped(inputs[f"{name}.offsets"], groups, 1)
        shifted = self._cast(self._add(widen.get_output(0), offsets), self._dtype)
        rows, columns = self._segment.matrix(name)
        assert groups * size == rows * columns
        return self._shaped(shifted, rows, columns)

    def _product(self, x_TC: Tensor, weight_NC: Tensor) -> Tensor:
        """x @ weight.T, [T, N]."""
        matrix = self._trt.MatrixOperation
        layer = self._network.add_matrix_multiply(x_TC, matrix.NONE, weight_NC, matrix.TRANSPOSE)
        return layer.get_output(0)

    def _rounded(self, x_TC: Tensor, dtype: DType) -> tuple[Tensor, Tensor]:
        """x in steps of `dtype`, each row divided by its own scale, and these scales.

        Divided before it is quantized, since TensorRT takes no scales along a dimension that is
        not fixed.
        """
        trt = self._trt
        x_TC = self._fp32(x_TC)
        size_TC = self._network.add_unary(x_TC, trt.UnaryOperation.ABS).get_output(0)
        largest = self._network.add_reduce(size_TC, trt.ReduceOperation.MAX, 1 << 1, True)
        steps_T1 = self._multiply(
            largest.get_output(0), self._constant(1 / _LARGEST[dtype], (1, 1))
        )
        least_11 = self._constant(_LEAST_SCALE, (1, 1))
        scale_T1 = self._binary(steps_T1, least_11, trt.ElementWiseOperation.MAX)
        divided_TC = self._binary(x_TC, scale_T1, trt.ElementWiseOperation.DIV)
        return self._stepped(divided_TC, self._constant(1.0, ()), dtype), scale_T1

    def _stepped(self, x_TC: Tensor, scale: Tensor, dtype: DType) -> Tensor:
        """x in steps of `scale`, as many as `dtype` has."""
        narrow = self._network.add_quantize(x_TC, scale, data_type(self._trt, dtype))
        widen = self._network.add_dequantize(narrow.get_output(0), scale, self._dtype)
        return widen.get_output(0)

    def _activation(self, x_TI: Tensor) -> Tensor:
        kinds = self._trt.ActivationType
        if self._spec.activation == "silu":
            gate = self._network.add_activation(x_TI, kinds.SIGMOID)
            return self._multiply(x_TI, gate.get_output(0))
        plain = {
            "gelu": kinds.GELU_ERF,
            "gelu_tanh": kinds.GELU_TANH,
            "relu": kinds.RELU,
            "relu2": kinds.RELU,
        }
        x_TI = self._network.add_activation(x_TI, plain[self._spec.activation]).get_output(0)
        return self._multiply(x_TI, x_TI) if self._spec.activation == "relu2" else x_TI

    def _columns(self, x_TN: Tensor, begin: int, count: int) -> Tensor:
        network = self._network
        # The number of rows is known at run time only, so that the size is a tensor.
        rows_1 = network.add_slice(network.add_shape(x_TN).get_output(0), (0,), (1,), (1,))
        count_1 = self._constant(count, (1,), "int64")
        size_2 = network.add_concatenation([rows_1.get_output(0), count_1]).get_output(0)
        layer = network.add_slice(x_TN, (0, begin), (0, count), (1, 1))
        layer.set_input(2, size_2)
        return layer.get_output(0)

    def _row(self, x_N: Tensor) -> Tensor:
        return self._shaped(x_N, 1, *x_N.shape)

    def _shaped(self, x: Tensor, *shape: int) -> Tensor:
        layer = self._network.add_shuffle(x)
        layer.reshape_dims = shape
        return layer.get_output(0)

    def _constant(self, value: float, shape: tuple[int, ...], dtype: DType = "fp32") -> Tensor:
        array = np.full(shape, value, {"fp32": np.float32, "int64": np.int64}[dtype])
        self.constants.append(array)
        return self._network.add_constant(shape, self._trt.Weights(array)).get_output(0)

    def _fp32(self, x: Tensor) -> Tensor:
        return self._cast(x, self._trt.DataType.FLOAT)

    def _cast(self, x: Tensor, dtype: Any) -> Tensor:
        return self._network.add_cast(x, dtype).get_output(0)

    def _add(self, a: Tensor, b: Tensor) -> Tensor:
        return self._binary(a, b, self._trt.ElementWiseOperation.SUM)

    def _multiply(self, a: Tensor, b: Tensor) -> Tensor:
        return self._binary(a, b, self._trt.ElementWiseOperation.PROD)

    def _binary(self, a: Tensor, b: Tensor, operation: Any) -> Tensor:
        return self._network.add_elementwise(a, b, operation).get_output(0)
