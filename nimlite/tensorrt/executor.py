"""Plans on a GPU, on torch's current stream.

A plan has one context for each optimization profile, so that no context ever changes its profile:
what a CUDA graph records of a call stays true. All contexts of an engine work in one scratch
buffer, for they never run at the same time.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch

from nimlite.tensorrt.decoder import Tensors
from nimlite.tensorrt.recorder import error_recorder
from nimlite.tensorrt.segment import TOKENS, DType, Kind, Segment
from nimlite.tensorrt.target import RTX

TORCH_TYPES: Mapping[DType, torch.dtype] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp8": torch.float8_e4m3fn,
    "int8": torch.int8,
    "int4": torch.uint8,
}
"""int4 lies two in a byte, the first in its lower half."""
_DECODED = 64
"""Up to so many tokens, steps are recorded as CUDA graphs, and TensorRT for RTX compiles kernels
for each number of tokens when it first comes; beyond it, one kernel serves all."""


class PlanRefusedError(Exception):
    """TensorRT does not run a plan here; in its own words."""


class Executor:
    """One segment's plan, ready to run. Not thread-safe."""

    def __init__(self, runtime: "PlanRuntime", segment: Segment, plan: bytes) -> None:
        """Raises PlanRefusedError."""
        self._runtime = runtime
        self._segment = segment
        self._engine = runtime.deserialize(plan)
        self._scratch_B: torch.Tensor | None = None
        self._contexts = [
            runtime.context(self._engine, index, largest <= _DECODED)
            for index, (_, _, largest) in enumerate(segment.token_ranges)
        ]

    @property
    def scratch_bytes(self) -> int:
        """What each of its contexts works in."""
        size: int = self._engine.device_memory_size_v2
        return size

    def work_in(self, scratch_B: torch.Tensor) -> None:
        """Let all contexts work in this memory of the device; they know only its address."""
        self._scratch_B = scratch_B
        for context in self._contexts:
            context.set_device_memory(scratch_B.data_ptr(), scratch_B.nbytes)

    def __call__(self, inputs: Tensors) -> Tensors:
        """The outputs by name. Raises PlanRefusedError."""
        num_tokens = len(inputs["residual"])
        context = self._contexts[self._profile(num_tokens)]
        require = self._runtime.require
        for port in self._segment.inputs:
            tensor = inputs[port.name]
            assert tensor.is_contiguous() and tensor.dtype is TORCH_TYPES[port.dtype], port.name
            if TOKENS in port.shape:
                require(context.set_input_shape(port.name, tuple(tensor.shape)))
            require(context.set_tensor_address(port.name, tensor.data_ptr()))
        outputs = {
            port.name: torch.empty(
                (num_tokens, *port.shape[1:]),
                dtype=TORCH_TYPES[port.dtype],
                device=self._runtime.device,
            )
            for port in self._segment.outputs
        }
        for name, tensor in outputs.items():
            require(context.set_tensor_address(name, tensor.data_ptr()))
        require(context.execute_async_v3(self._runtime.stream()))
        return outputs

    def _profile(self, num_tokens: int) -> int:
        ranges = enumerate(self._segment.token_ranges)
        return next(index for index, (_, _, largest) in ranges if num_tokens <= largest)


class PlanRuntime:
    """What plans share on one GPU: TensorRT's runtime, its errors, and the kernels that it has
    compiled."""

    def __init__(
        self,
        trt: ModuleType,
        device: torch.device,
        stream: Callable[[], int],
        compiled: bytes = b"",
    ) -> None:
        """`stream`: the handle of the stream to run on now. `compiled`: as the property of that
        name was once, on this GPU; anything else is ignored."""
        self.device = device
        self.stream = stream
        self._trt = trt
        self._recorder = error_recorder(trt)
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
        self._runtime.error_recorder = self._recorder
        self._known = compiled
        self._cache: Any = None
        self._configs: list[Any] = []  # contexts point at them
        self._recorded: list[Any] = []

    @property
    def compiled(self) -> bytes:
        """What TensorRT for RTX has compiled until now (its runtime cache); else nothing."""
        return b"" if self._cache is None else bytes(self._cache.serialize())

    def deserialize(self, plan: bytes) -> Any:
        """Its ICudaEngine. Raises PlanRefusedError."""
        return self.require(self._runtime.deserialize_cuda_engine(plan))

    def context(self, engine: Any, profile: int, decodes: bool) -> Any:
        """A context for one profile, without memory to work in. Raises PlanRefusedError.

        `decodes`: its steps are recorded.
        """
        config = self.require(engine.create_runtime_config())
        config.set_execution_context_allocation_strategy(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if self._trt.__name__ == RTX:
            kinds = self._trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = (
                kinds.EAGER if decodes else kinds.NONE
            )
            self.require(config.set_runtime_cache(self._runtime_cache(config)))
        self._configs.append(config)
        context = self.require(engine.create_execution_context(config))
        context.error_recorder = self._recorder
        self.require(context.set_optimization_profile_async(profile, self.stream()))
        if decodes:
            self._recorded.append(context)
        return context

    def require_recordable(self) -> None:
        """After a step of each profile. Raises PlanRefusedError where TensorRT for RTX says that a
        CUDA graph can't hold what it runs."""
        if self._trt.__name__ != RTX:
            return
        if not all(context.is_stream_capturable(self.stream()) for context in self._recorded):
            raise PlanRefusedError("a CUDA graph can't hold what it runs")

    def require(self, result: Any) -> Any:
        """The result of a call, where None and False say that TensorRT refused. Raises
        PlanRefusedError."""
        if result is None or result is False:
            words = self._recorder.descriptions
            raise PlanRefusedError(words[0] if words else "it gave no reason")
        return result

    def _runtime_cache(self, config: Any) -> Any:
        """The one of all contexts."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._known:
                self._cache.deserialize(self._known)
        return self._cache


def load_executors(
    runtime: PlanRuntime, plans: Mapping[Kind, tuple[Segment, bytes]]
) -> dict[Kind, Executor]:
    """All segments of a decoder, ready to run. Raises PlanRefusedError."""
    executors = {kind: Executor(runtime, *plan) for kind, plan in plans.items()}
    scratch_B = torch.empty(
        max(1, *(executor.scratch_bytes for executor in executors.values())),
        dtype=torch.uint8,
        device=runtime.device,
    )
    for executor in executors.values():
        executor.work_in(scratch_B)
    return executors
