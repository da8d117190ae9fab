"""Prometheus metrics under the names of NIM 1.x, so that its dashboards and scaling rules work."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nimlite.engine.request import EngineStats

_LATENCY_S = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceTimes:
    """When things happened to one finished sequence, in seconds of one monotonic clock."""

    arrived: float
    first_token: float | None
    """None where it ended without a token."""
    finished: float
    num_generated_tokens: int


class ServerMetrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        self._model_name = model_name
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_EngineCollector(model_name, stats))
        self.num_request_max = self._gauge("num_request_max", "Sequences that can run at once.")
        self._ttft = self._histogram("time_to_first_token_seconds", "Arrival to first token.")
        self._tpot = self._histogram(
            "time_per_output_token_seconds", "Mean time between the tokens of a sequence."
        )
        self._e2e = self._histogram("e2e_request_latency_seconds", "Arrival to last token.")
        self._prompt = self._histogram("request_prompt_tokens", "Prompt length.", _TOKENS)
        self._generated = self._histogram("request_generation_tokens", "Output length.", _TOKENS)
        self._success = self._counter("request_success", "Requests answered in full.")
        self._failure = self._counter("request_failure", "Requests that ended early.")
        self._finish = Counter(
            "request_finish",
            "Sequences by the reason for which they ended.",
            ("model_name", "finished_reason"),
            registry=self._registry,
        )

    def observe_sequence(self, times: SequenceTimes, finish_reason: str) -> None:
        """One sequence ended."""
        self._finish.labels(self._model_name, finish_reason).inc()
        self._e2e.observe(times.finished - times.arrived)
        self._generated.observe(times.num_generated_tokens)
        if times.first_token is None:
            return
        self._ttft.observe(times.first_token - times.arrived)
        if times.num_generated_tokens > 1:
            decoding = times.finished - times.first_token
            self._tpot.observe(decoding / (times.num_generated_tokens - 1))

    def observe_request(self, *, num_prompt_tokens: int, succeeded: bool) -> None:
        """One HTTP request that reached the engine ended."""
        self._prompt.observe(num_prompt_tokens)
        (self._success if succeeded else self._failure).inc()

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("model_name",), registry=self._registry).labels(self._model_name)

    def _counter(self, name: str, text: str) -> Counter:
        metric = Counter(name, text, ("model_name",), registry=self._registry)
        return metric.labels(self._model_name)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...] = _LATENCY_S
    ) -> Histogram:
        metric = Histogram(name, text, ("model_name",), registry=self._registry, buckets=buckets)
        return metric.labels(self._model_name)


class _EngineCollector(Collector):
    """Reads the engine's own counts when scraped, so that the engine knows nothing of metrics."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]) -> None:
        self._model_name = model_name
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        num_used = stats.num_blocks - stats.num_free_blocks
        yield self._gauge("num_requests_running", "Sequences in the batch.", stats.num_running)
        yield self._gauge("num_requests_waiting", "Sequences in the queue.", stats.num_waiting)
        yield self._gauge(
            "gpu_cache_usage_perc",
            "Share of the KV blocks in use, 0 to 1 (on a CPU, of those in host memory).",
            num_used / stats.num_blocks if stats.num_blocks else 0.0,
        )
        yield self._counter("prompt_tokens", "Prompt tokens seen.", stats.num_prompt_tokens)
        yield self._counter("generation_tokens", "Tokens sampled.", stats.num_generated_tokens)
        yield self._counter("num_preemptions", "Sequences preempted.", stats.num_preemptions)
        yield self._counter(
            "engine_restarts", "Engines that ended and were started again.", stats.num_restarts
        )
        yield self._counter(
            "prefix_cache_queries", "Prompt tokens looked up.", stats.num_prefix_queries
        )
        yield self._counter("prefix_cache_hits", "Prompt tokens found.", stats.num_prefix_hits)
        yield self._counter(
            "spec_decode_num_draft_tokens",
            "Tokens that speculative decoding guessed.",
            stats.num_drafted_tokens,
        )
        yield self._counter(
            "spec_decode_num_accepted_tokens",
            "Of these, the ones that were right.",
            stats.num_accepted_tokens,
        )

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=("model_name",))
        family.add_metric((self._model_name,), value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=("model_name",))
        family.add_metric((self._model_name,), value)
        return family
