"""One operation as a plain record: the mirror of op.h."""

import ctypes
import enum
from collections.abc import Sequence

import torch


class OpCode(enum.IntEnum):
    """What to do. The fields of each operation are in `CpuKernels`, and in run.cpp."""

    EMBED = 0
    RMS_NORM = 1
    ADD_RMS_NORM = 2
    LINEAR = 3
    ROPE_AND_CACHE = 4
    ATTENTION = 5
    GATED_ACTIVATION = 6
    TAKE_ROWS = 7
    ACTIVATION = 8
    LAYER_NORM = 9
    ADD_LAYER_NORM = 10
    ADD = 11
    ADD_POSITIONS = 12
    SOFT_CAP = 13
    CLIP = 14
    NORM_HEADS = 15
    MOE = 16
    ADD_GATED = 17


class Rows(enum.IntEnum):
    """Which count of the step is the number of rows."""

    TOKENS = 0
    LOGITS = 1


SCHEMES = {"fp32": 0, "bf16": 1, "int8": 2, "int4": 3, "int8_wo": 4, "int4_wo": 5, "fp8": 6}
KV_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float8_e4m3fn: 2}
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3, "relu2": 4}


class Op(ctypes.Structure):
    """`struct Op` of op.h."""

    _fields_ = (
        ("code", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("pointers", ctypes.c_void_p * 10),
        ("sizes", ctypes.c_int64 * 16),
        ("scalars", ctypes.c_float * 2),
    )

    @classmethod
    def of(
        cls,
        code: OpCode,
        rows: Rows,
        tensors: Sequence[torch.Tensor | None],
        sizes: Sequence[int],
        scalars: Sequence[float] = (),
    ) -> "Op":
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        return cls(
            code,
            rows,
            (ctypes.c_void_p * 10)(*pointers),
            (ctypes.c_int64 * 16)(*sizes),
            (ctypes.c_float * 2)(*scalars),
        )


class RunCounts(ctypes.Structure):
    """`struct Counts` of op.h."""

    _fields_ = (
        ("tokens", ctypes.c_int64),
        ("sequences", ctypes.c_int64),
        ("logits", ctypes.c_int64),
    )
