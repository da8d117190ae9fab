"""What the user wants, as a load and a score."""

import math
from dataclasses import dataclass

from nimlite.profiles.manifest import Manifest, Precision, Profile
from nimlite.profiles.memory import MemoryPlan, stream_bytes
from nimlite.profiles.roofline import Load, Prediction
from nimlite.profiles.shape import ModelShape
from nimlite.settings import Goal, Settings

_INPUT_LENGTH = 1024
_OUTPUT_LENGTH = 256
_TWICE_THE_GPUS = {Goal.LATENCY: 1.3, Goal.THROUGHPUT: 2.2}
"""How many times as fast a request, or all of them together, must become before another doubling of
the GPUs is worth it: two replicas give twice the throughput without."""

WORTH = {
    Precision.FP32: 1.0,
    Precision.BF16: 1.0,
    Precision.FP16: 1.02,
    Precision.FP8: 1.15,
    Precision.INT8: 1.15,
    Precision.INT8_SQ: 1.25,
    Precision.INT8_WO: 1.25,
    Precision.INT4_AWQ: 1.6,
    Precision.INT4_GPTQ: 1.65,
    Precision.INT4: 2.0,
}
"""How many times as good as bf16 a precision must be before what it rounds away is worth it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """The goal and its numbers."""

    goal: Goal
    ttft: float | None
    """Seconds, at most."""
    itl: float | None
    concurrency: int | None
    input_length: int
    output_length: int

    @classmethod
    def of(cls, settings: Settings) -> "Aim":
        """Without a goal: throughput, which takes no more GPUs than the model needs; with service
        levels alone, one request at a time."""
        has_levels = settings.slo_ttft_ms is not None or settings.slo_itl_ms is not None
        return cls(
            goal=settings.profile_goal or Goal.THROUGHPUT,
            ttft=settings.slo_ttft_ms and settings.slo_ttft_ms / 1e3,
            itl=settings.slo_itl_ms and settings.slo_itl_ms / 1e3,
            concurrency=settings.concurrency or (1 if has_levels else None),
            input_length=settings.input_length or _INPUT_LENGTH,
            output_length=settings.output_length or _OUTPUT_LENGTH,
        )

    @property
    def has_levels(self) -> bool:
        """Whether numbers must be kept."""
        return self.ttft is not None or self.itl is not None

    def lengths(self, max_model_len: int) -> tuple[int, int]:
        """Tokens of prompt and answer, cut in proportion to a context that is shorter."""
        together = self.input_length + self.output_length
        if together <= max_model_len:
            return self.input_length, self.output_length
        output = max(1, self.output_length * max_model_len // together)
        return max(1, max_model_len - output), output

    def load(self, shape: ModelShape, serving: Profile, memory: MemoryPlan, cap: int) -> Load:
        """As many streams as are asked for, or as the goal implies, but not more than the batch and
        the KV cache hold. `cap`: the context that the lengths are cut to."""
        input_length, output_length = self.lengths(cap)
        each = stream_bytes(shape, serving, input_length, output_length)
        most = max(1, min(serving.max_batch_size, memory.kv_cache // each))
        alone = 1 if self.goal is Goal.LATENCY else most
        concurrency = min(self.concurrency or alone, most)
        return Load(concurrency=concurrency, input_length=input_length, output_length=output_length)

    def score(
        self, manifest: Manifest, profile: Profile, memory: MemoryPlan, prediction: Prediction
    ) -> float:
        """Higher is better: the speed of all requests or of one, with a price on further GPUs and
        on what the precision rounds away; or the inverse of the memory."""
        gpus = profile.num_gpus or 1
        if self.goal is Goal.MEMORY:
            return 1e9 / (needed_for(manifest.shape, profile, memory, prediction.load) * gpus)
        price = math.pow(gpus, math.log2(_TWICE_THE_GPUS[self.goal]))
        if self.goal is Goal.THROUGHPUT:
            speed = prediction.total_tok_s
        else:
            running = prediction.load.concurrency
            # the others wait: Little's law
            speed = running / (self.concurrency or running) / prediction.request_seconds
        return speed / price / worth(manifest, profile.precision)

    def meets(self, prediction: Prediction) -> bool:
        """Whether the service levels are kept, for as many streams as were asked for."""
        return (
            (self.ttft is None or prediction.ttft <= self.ttft)
            and (self.itl is None or prediction.itl <= self.itl)
            and (self.concurrency is None or prediction.load.concurrency >= self.concurrency)
        )


def needed_for(shape: ModelShape, profile: Profile, memory: MemoryPlan, load: Load) -> int:
    """Bytes a device with one request of the load: the same however much there is."""
    return memory.fixed + stream_bytes(shape, profile, load.input_length, load.output_length)


def worth(manifest: Manifest, precision: Precision) -> float:
    """The gain that a precision must bring; 1 where the checkpoint is no finer itself."""
    return 1.0 if precision is manifest.checkpoint_precision else WORTH[precision]
