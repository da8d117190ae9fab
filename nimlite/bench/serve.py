"""Streaming clients over HTTP against what the engine alone can do: fixed lengths, greedy, random
weights, all requests of a point at once, and the clients in processes of their own."""

import contextlib
import dataclasses
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimlite.bench.chart import Point
from nimlite.bench.client import Target
from nimlite.bench.clients import Clients, running_clients
from nimlite.bench.server import ServerCommand, running
from nimlite.bench.timing import Measurement, summarize
from nimlite.bench.workload import Workload
from nimlite.errors import SettingError

_WARM_UP_TOKENS = 8
_SHAPE = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCase:
    """What every client asks for."""

    num_prompt_tokens: int
    num_output_tokens: int

    def workload(self, concurrency: int, num_output_tokens: int | None = None) -> Workload:
        """A request a client."""
        return Workload(
            concurrency=concurrency,
            num_requests=concurrency,
            num_prompt_tokens=self.num_prompt_tokens,
            num_output_tokens=num_output_tokens or self.num_output_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServePoint:
    """What so many clients at once got."""

    measurement: Measurement
    num_chunks: int
    """Less than the output tokens where several came together."""
    offline_tok_s: float | None
    """What the engine alone gives for the same requests."""

    @property
    def share(self) -> float | None:
        """Of the engine alone."""
        if self.offline_tok_s is None:
            return None
        return self.measurement.output_tok_s / self.offline_tok_s

    def json_line(self) -> str:
        """With the keys of `bench offline` where they mean the same."""
        m = self.measurement
        fields = {
            "peer": m.system,
            "q": m.variant,
            "case": "serve",
            "n": m.workload.concurrency,
            "isl": m.workload.num_prompt_tokens,
            "osl": m.workload.num_output_tokens,
            "s": round(m.seconds, 3),
            "out_tok_s": round(m.output_tok_s, 1),
            "ttft_ms": dataclasses.asdict(m.time_to_first_token_ms),
            "itl_ms": dataclasses.asdict(m.inter_token_ms),
            "tok_per_chunk": round(m.num_output_tokens / self.num_chunks, 2),
            "client_cores": round(m.client_cpu_s / m.seconds, 2),
        }
        if self.share is not None:
            fields["share_of_offline"] = round(self.share, 3)
        return json.dumps(fields)


def serve_command(
    directory: Path, precision: str, max_batch_size: int, *, device: str = "gpu"
) -> ServerCommand:
    """`nimlite serve` with random weights in the shape of the config.json in `directory`, within
    the limits that `bench offline` has."""
    limits = ("--max-model-len", "4096", "--max-num-tokens", "8192")
    return ServerCommand(
        system="nimlite",
        variant=precision,
        arguments=(
            *(sys.executable, "-m", "nimlite", "serve", str(directory), "--random-weights"),
            *("--tags-selector", f"precision={precision},device={device}", *limits),
            *("--max-batch-size", str(max_batch_size), "--host", "127.0.0.1", "--port", "{port}"),
        ),
        model=directory.name,
        ready_path="/v1/health/ready",
    )


@contextlib.contextmanager
def with_words(config: Path) -> Iterator[Path]:
    """A directory with the config.json, and a vocabulary in which every token has a text: of random
    weights every id may come. `config`: the file or its directory."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from nimlite.build.tokenizer_files import SpecialTokens, write_tokenizer

    file = config / "config.json" if config.is_dir() else config
    fields = json.loads(file.read_text(encoding="utf-8"))
    words = {"<|end|>": 0} | {f"Ġ{i:x}": i for i in range(1, fields["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "random-model"
        directory.mkdir()
        special = SpecialTokens(eos_ids=(0,), pad_id=0)
        write_tokenizer(directory, tokenizer, special, fields["max_position_embeddings"])
        (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
        yield directory


def run_serve(
    command: ServerCommand,
    case: ServeCase,
    concurrencies: Sequence[int],
    report: Callable[[ServePoint], None],
    *,
    vocab_size: int,
    num_clients: int,
    offline: Mapping[_SHAPE, float],
) -> None:
    """Start the server, and measure one number of clients after the other. Raises BenchmarkError
    for a server that does not start, or answers with less than was asked for."""
    with running(command) as server, running_clients(num_clients) as clients:
        most = max(concurrencies)
        _measure(clients, server.target, command, case.workload(most, _WARM_UP_TOKENS), vocab_size)
        for concurrency in concurrencies:
            workload = case.workload(concurrency)
            measurement, num_chunks = _measure(
                clients, server.target, command, workload, vocab_size
            )
            shape = (concurrency, case.num_prompt_tokens, case.num_output_tokens)
            report(
                ServePoint(
                    measurement=measurement,
                    num_chunks=num_chunks,
                    offline_tok_s=offline.get(shape),
                )
            )


def _measure(
    clients: Clients, target: Target, command: ServerCommand, workload: Workload, vocab_size: int
) -> tuple[Measurement, int]:
    chooser = random.Random(workload.concurrency * workload.num_output_tokens)
    prompts = [
        [chooser.randrange(1, vocab_size) for _ in range(workload.num_prompt_tokens)]
        for _ in range(workload.num_requests)
    ]
    load = clients.run(target, workload, prompts)
    measurement = summarize(
        command.system, command.variant, workload, load.timings, load.client_cpu_s
    )
    return measurement, sum(len(timing.arrivals) for timing in load.timings)


def vocab_size(directory: Path) -> int:
    """Of the config.json there."""
    fields = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return int(fields["vocab_size"])


def curve(points: Sequence[ServePoint]) -> tuple[Point, ...]:
    """For a picture: the best of each number of clients, in their order."""
    best: dict[int, ServePoint] = {}
    for point in sorted(points, key=lambda point: point.measurement.output_tok_s):
        best[point.measurement.workload.concurrency] = point
    return tuple(_drawn(point) for _, point in sorted(best.items()))


def _drawn(point: ServePoint) -> Point:
    m = point.measurement
    # Several tokens in a chunk are so much less time apart.
    between_ms = m.inter_token_ms.p50 * point.num_chunks / m.num_output_tokens
    return Point(str(m.workload.concurrency), between_ms, m.output_tok_s)


def read_offline(file: Path, precision: str) -> dict[_SHAPE, float]:
    """Output tokens a second by requests, prompt and output tokens, from the JSON lines of
    `bench offline`. Raises SettingError where none is of that precision."""
    lines = (line for line in file.read_text(encoding="utf-8").splitlines() if line[:1] == "{")
    found: dict[_SHAPE, float] = {}
    for fields in map(json.loads, lines):
        if fields.get("q") == precision and fields.get("case") != "serve":
            found[fields["n"], fields["isl"], fields["osl"]] = fields["out_tok_s"]
    if not found:
        raise SettingError(f"{file} has no line of `nimlite bench offline` in {precision}.")
    return found


def table(points: Sequence[ServePoint]) -> str:
    """For people."""
    head = ("clients", "tok/s", "of offline", "first ms p50/p99", "between ms p50/p99", "tok/chunk")
    rows: list[tuple[Any, ...]] = [head]
    for point in points:
        m, share = point.measurement, point.share
        first, between = m.time_to_first_token_ms, m.inter_token_ms
        rows.append(
            (
                m.workload.concurrency,
                f"{m.output_tok_s:,.0f}",
                "" if share is None else f"{share:.1%}",
                f"{first.p50:.0f} / {first.p99:.0f}",
                f"{between.p50:.1f} / {between.p99:.1f}",
                f"{m.num_output_tokens / point.num_chunks:.2f}",
            )
        )
    return "\n".join("".join(f"{cell!s:>20}" for cell in row) for row in rows)
