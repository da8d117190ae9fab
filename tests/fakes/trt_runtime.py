"""TensorRT where there is no GPU for it: the module `tensorrt_rtx`, whose plans are really built,
with a runtime that computes their networks in torch, on the addresses that it is given.

It holds to the binding's methods (`BINDING` names what each class of it stands for), and refuses
what TensorRT refuses: a shape outside of the context's profile, a tensor without an address, a
context without memory.
"""

import ctypes
import math
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorrt_rtx as trt
import torch
from fakes.trt_network import InterpretedSegment

from nimlite.models.spec import ModelSpec
from nimlite.tensorrt.executor import TORCH_TYPES
from nimlite.tensorrt.plans import PlanSet
from nimlite.tensorrt.segment import TOKENS, Port, Segment

STREAM = 4711
"""The handle that work must go to."""
SCRATCH_BYTES = 4096
REFUSAL = "The engine cannot run on this GPU, which has compute capability 9.0."


class FakeTensorRT(ModuleType):
    """All of tensorrt_rtx but its runtime."""

    def __init__(self, name: str = "tensorrt_rtx", *, error: float = 0.0) -> None:
        """`error`: what is added to every output, relatively."""
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__version__ = trt.__version__
        self.error = error
        self.segments: dict[bytes, Segment] = {}
        self.refuses = False
        self.is_recordable = True
        self.contexts: list[FakeContext] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(trt, name)

    def Runtime(self, logger: Any) -> "FakeRuntime":  # noqa: N802 - TensorRT's own name
        return FakeRuntime(self)

    def know(self, directory: Path, plans: PlanSet, spec: ModelSpec) -> None:
        """What the plans in the directory were built of: it can't be read from them."""
        for segment in plans.segments(spec):
            self.segments[(directory / plans.files[segment.kind]).read_bytes()] = segment

    def runs(self, segment: Segment, tokens: Iterable[int]) -> bool:
        """Whether the contexts of a segment have run steps of just so many tokens."""
        done = [n for c in self.contexts if c.segment == segment for n in c.token_counts]
        return sorted(set(done)) == sorted(tokens)


class FakeRuntime:
    def __init__(self, module: FakeTensorRT) -> None:
        self._module = module
        self.error_recorder: Any = None

    def deserialize_cuda_engine(self, plan: bytes) -> "FakeCudaEngine | None":
        if self._module.refuses or plan not in self._module.segments:
            code = trt.ErrorCodeTRT.INTERNAL_ERROR
            self.error_recorder.report_error(code, REFUSAL)
            return None
        return FakeCudaEngine(self._module, self._module.segments[plan])


class FakeCudaEngine:
    device_memory_size_v2 = SCRATCH_BYTES

    def __init__(self, module: FakeTensorRT, segment: Segment) -> None:
        self._module = module
        self._segment = segment
        self._interpreted = InterpretedSegment(segment)

    def create_runtime_config(self) -> "FakeConfig":
        return FakeConfig()

    def create_execution_context(self, runtime_config: "FakeConfig") -> "FakeContext":
        context = FakeContext(self._module, self._segment, self._interpreted, runtime_config)
        self._module.contexts.append(context)
        return context


class FakeConfig:
    dynamic_shapes_kernel_specialization_strategy: Any = None

    def __init__(self) -> None:
        self.strategy: Any = None
        self.cache: FakeRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> "FakeRuntimeCache":
        return FakeRuntimeCache()

    def set_runtime_cache(self, cache: "FakeRuntimeCache") -> bool:
        self.cache = cache
        return True


class FakeRuntimeCache:
    def __init__(self) -> None:
        self._content = b"compiled"

    def serialize(self) -> bytes:
        return self._content

    def deserialize(self, blob: bytes) -> bool:
        self._content = blob + b", again"
        return True


class FakeContext:
    error_recorder: Any = None

    def __init__(
        self,
        module: FakeTensorRT,
        segment: Segment,
        interpreted: InterpretedSegment,
        config: FakeConfig,
    ) -> None:
        self.segment = segment
        self.config = config
        self.profile: int | None = None
        self.token_counts: list[int] = []
        self._module = module
        self._interpreted = interpreted
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return stream_handle == STREAM

    def is_stream_capturable(self, stream: int) -> bool:
        assert self.token_counts, "it knows when it has run"
        return self._module.is_recordable and stream == STREAM

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory = size if memory else 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        port = next(port for port in self.segment.inputs if port.name == name)
        least, _, most = self.segment.token_ranges[self.profile]
        self._shapes[name] = shape
        return least <= shape[0] <= most and tuple(port.shape[1:]) == shape[1:]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0

    @torch.inference_mode()
    def execute_async_v3(self, stream_handle: int) -> bool:
        if stream_handle != STREAM or self._memory < SCRATCH_BYTES:
            return False
        counts = {shape[0] for shape in self._shapes.values()}
        assert len(counts) == 1, "all of a step's tensors have its tokens"
        (num_tokens,) = counts
        self.token_counts.append(num_tokens)
        inputs = {port.name: self._tensor(port, num_tokens) for port in self.segment.inputs}
        outputs = self._interpreted(inputs)
        for port in self.segment.outputs:
            target = self._tensor(port, num_tokens)
            target.copy_(outputs[port.name] * (1 + self._module.error))
        return True

    def _tensor(self, port: Port, num_tokens: int) -> torch.Tensor:
        """What lies at the address that was given for a tensor."""
        shape = [num_tokens if size == TOKENS else size for size in port.shape]
        if port.dtype == "int4":
            shape[-1] //= 2
        dtype = TORCH_TYPES[port.dtype]
        num_bytes = math.prod(shape) * dtype.itemsize
        memory = (ctypes.c_char * num_bytes).from_address(self._addresses[port.name])
        return torch.frombuffer(memory, dtype=dtype).reshape(shape)


BINDING = {
    FakeRuntime: trt.Runtime,
    FakeCudaEngine: trt.ICudaEngine,
    FakeConfig: trt.IRuntimeConfig,
    FakeRuntimeCache: trt.IRuntimeCache,
    FakeContext: trt.IExecutionContext,
}
