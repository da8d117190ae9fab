"""When a system answered, and the figures that follow. Times are seconds on one monotonic clock."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nimlite.bench.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTiming:
    """One request as its client saw it."""

    sent: float
    arrivals: tuple[float, ...]
    """When text came; a system may send several tokens together."""
    num_prompt_tokens: int
    num_output_tokens: int

    @property
    def time_to_first_token(self) -> float:
        return self.arrivals[0] - self.sent

    @property
    def decode_rate(self) -> float:
        """Tokens after the first, a second; infinite where all came at once."""
        seconds = self.arrivals[-1] - self.arrivals[0]
        return (self.num_output_tokens - 1) / seconds if seconds else math.inf

    @property
    def gaps(self) -> tuple[float, ...]:
        """Between one arrival and the next."""
        return tuple(b - a for a, b in itertools.pairwise(self.arrivals))


@dataclass(frozen=True, slots=True)
class Percentiles:
    """In milliseconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Percentiles":
        """Of at least one duration; p99 interpolates, as few requests allow no better."""
        ranked = sorted(seconds)
        p99 = statistics.quantiles(ranked, n=100, method="inclusive")[98] if ranked[1:] else 0
        return cls(round(statistics.median(ranked) * 1e3, 2), round((p99 or ranked[0]) * 1e3, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of one workload on one system."""

    system: str
    """What answered, e.g. nimlite."""
    variant: str
    """How it was set up, above all its precision, e.g. int4."""
    workload: Workload
    seconds: float
    """From the first request sent to the last answer complete."""
    num_prompt_tokens: int
    num_output_tokens: int
    decode_tok_s: float
    """Of one request while it decodes: the median."""
    time_to_first_token_ms: Percentiles
    inter_token_ms: Percentiles
    client_cpu_s: float
    """Processor time that the client took from the machine; 0 where the system is its own."""

    @property
    def output_tok_s(self) -> float:
        """Output tokens of all requests over the whole time, prefill included."""
        return self.num_output_tokens / self.seconds


def summarize(
    system: str,
    variant: str,
    workload: Workload,
    timings: Sequence[RequestTiming],
    client_cpu_s: float = 0.0,
) -> Measurement:
    """The figures of a run, from its requests."""
    # No gap: every answer came at once.
    gaps = [gap for timing in timings for gap in timing.gaps] or [0.0]
    return Measurement(
        system=system,
        variant=variant,
        workload=workload,
        seconds=max(t.arrivals[-1] for t in timings) - min(t.sent for t in timings),
        num_prompt_tokens=sum(t.num_prompt_tokens for t in timings),
        num_output_tokens=sum(t.num_output_tokens for t in timings),
        decode_tok_s=statistics.median(t.decode_rate for t in timings),
        time_to_first_token_ms=Percentiles.of([t.time_to_first_token for t in timings]),
        inter_token_ms=Percentiles.of(gaps),
        client_cpu_s=client_cpu_s,
    )


def best(runs: Sequence[Measurement]) -> Measurement:
    """The run with the highest throughput: neighbours on a machine only ever take from it."""
    return max(runs, key=lambda run: run.output_tok_s)
