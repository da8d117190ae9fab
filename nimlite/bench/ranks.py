"""A model over several GPUs of one machine: its tokens are one GPU's, and how fast it is."""

import gc
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from nimlite.bench.apart import Done, run_apart
from nimlite.bench.public_configs import CONFIGS
from nimlite.engine.engine import Engine
from nimlite.engine.gpu import gpu_engine, measured_kernels, random_weights
from nimlite.engine.request import SamplingParams
from nimlite.models.registry import read_spec
from nimlite.models.spec import ModelSpec
from nimlite.parallel.gpu import GpuPart
from nimlite.parallel.process_ranks import ProcessRanks
from nimlite.parallel.team import Team
from nimlite.profiles.manifest import Device, Precision, Profile
from nimlite.profiles.matrix import kv_precision

BATCHES = (1, 64, 256)
_PROMPT, _OUTPUT = 128, 65
_REDUCTIONS = 50
_LLAMA3 = "meta-llama/Meta-Llama-3-8B"
_SHAPES = {
    "8b": {},
    "70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
    "small": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 1024,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One model, split in one way."""

    steps_s: dict[int, float]
    """By number of sequences: of a decode step."""
    total_tok_s: dict[int, float]
    """With its prompt."""
    start_s: float


def time_ranks(name: str) -> Timing:
    """`name`: a shape, a precision, tp and pp, with colons between them."""
    shape, precision, tp, pp = name.split(":")
    spec = shape_of(shape)
    began = time.perf_counter()
    with TemporaryDirectory() as directory:
        engine = open_ranks(spec, Precision(precision), int(tp), int(pp), Path(directory))
        start_s = time.perf_counter() - began
        steps, totals = {}, {}
        for batch in BATCHES:
            _seconds(engine, batch, 3)
            gc.collect()
            first, all_of_it = _seconds(engine, batch, 1), _seconds(engine, batch, _OUTPUT)
            steps[batch] = (all_of_it - first) / (_OUTPUT - 1)
            totals[batch] = batch * _OUTPUT / all_of_it
        engine.close()
    return Timing(steps_s=steps, total_tok_s=totals, start_s=start_s)


def shape_of(name: str) -> ModelSpec:
    """Of a key of the table of shapes."""
    return read_spec({**CONFIGS[_LLAMA3][1], **_SHAPES[name]})


def open_ranks(spec: ModelSpec, precision: Precision, tp: int, pp: int, directory: Path) -> Engine:
    """Random weights over the first GPUs."""
    profile = Profile(
        id="ranks",
        family="ranks",
        device=Device.GPU,
        precision=precision,
        kv_precision=Precision(kv_precision(precision)),
        max_model_len=2048,
        max_batch_size=max(BATCHES),
        max_num_tokens=4096,
        block_size=64,
        tp=tp,
        pp=pp,
    )
    if tp * pp == 1:
        device = torch.device("cuda", 0)
        weights, kernels = random_weights(spec, precision, device), None
        kernels = measured_kernels(spec, profile, device)
        return gpu_engine(spec, weights, profile, device, kernels=kernels, prefix_caching=False)
    part = GpuPart(spec=spec, profile=profile, directory=None, compiled=directory)
    return part.engine(tuple(range(tp * pp)), eos_token_ids=(), prefix_caching=False)


def _seconds(engine: Engine, batch: int, num_outputs: int) -> float:
    rng = random.Random(0)
    prompts = [[rng.randrange(1000) for _ in range(_PROMPT)] for _ in range(batch)]
    params = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True)
    began = time.perf_counter()
    engine.generate(prompts, params)
    return time.perf_counter() - began


def time_all_reduce(sizes: str) -> dict[int, float]:
    """Seconds of NCCL's by bytes, within a recorded graph, over two GPUs."""
    wanted = tuple(map(int, sizes.split(",")))
    team = Team.launch(partial(_Reducer.follow, wanted), tp=2, pp=1, devices=(0, 1))
    found = _reduce_seconds(wanted, team.ranks)
    team.close()
    return found


@dataclass(frozen=True, slots=True)
class _Reducer:
    """The other rank, which has measured along once it is there."""

    @classmethod
    def follow(cls, sizes: tuple[int, ...], ranks: ProcessRanks) -> "_Reducer":
        _reduce_seconds(sizes, ranks)
        return cls()

    def take(self, message: np.ndarray) -> None:
        raise AssertionError("nothing is sent")


def _reduce_seconds(sizes: Sequence[int], ranks: ProcessRanks) -> dict[int, float]:
    found = {}
    for size in sizes:
        x = torch.zeros(size // 2, dtype=torch.bfloat16, device=ranks.device)
        ranks.sum(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(_REDUCTIONS):
                ranks.sum(x)
        graph.replay()
        ranks.sum(x)
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(5):
            graph.replay()
        torch.cuda.synchronize()
        found[size] = (time.perf_counter() - began) / (5 * _REDUCTIONS)
    return found


def run_all_reduce(*, seconds: float) -> str:
    """A line of Markdown a size."""
    sizes = ",".join(str(1 << power) for power in (12, 13, 14, 15, 16, 17, 18, 19, 20, 22, 24))
    (done,) = run_apart(time_all_reduce, [sizes], seconds=seconds)
    if done.result is None:
        return f"all-reduce: {done.failure}"
    lines = [f"| {size >> 10} KiB | {1e6 * s:.1f} |" for size, s in done.result.items()]
    return "\n".join(["| all-reduce | NCCL, us |", "|---:|---:|", *lines])


def run_ranks(names: Iterable[str], *, seconds: float, say: Callable[[str], None]) -> list[str]:
    """Each in a process of its own, one after the other; gives the lines of a table."""
    lines = [
        "| model | split | "
        + " | ".join(f"step at {b}, ms" for b in BATCHES)
        + " | "
        + " | ".join(f"tok/s at {b}" for b in BATCHES)
        + " | start, s |",
        "|---|---|" + "---:|" * (2 * len(BATCHES) + 1),
    ]
    for name in names:
        (done,) = run_apart(time_ranks, [name], seconds=seconds)
        lines.append(_line(done))
        say(lines[-1])
    return lines


def _line(done: Done[Timing]) -> str:
    shape, precision, tp, pp = done.name.split(":")
    head = f"| {shape} {precision} | TP{tp} PP{pp} |"
    if done.result is None:
        return f"{head} {done.failure} |"
    steps = " | ".join(f"{1e3 * done.result.steps_s[b]:.3f}" for b in BATCHES)
    speeds = " | ".join(f"{b / done.result.steps_s[b]:,.0f}" for b in BATCHES)
    return f"{head} {steps} | {speeds} | {done.result.start_s:.0f} |"
