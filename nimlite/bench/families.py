"""Public models of every family on one GPU, with random weights: how fast they decode.

A step's bound is the time that the card needs to read, as fast as it was measured to read just now,
the weights that the step touches and the keys and values of its sequences. Of experts those are
touched that got a token; they are counted, in steps that are not timed.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nimlite.bench.apart import Done, run_apart
from nimlite.bench.public_configs import CONFIGS
from nimlite.engine.engine import Engine
from nimlite.engine.gpu import activation_dtype, gpu_engine, products, random_weights, warm_up
from nimlite.engine.request import Request, SamplingParams
from nimlite.kernels.base import Batch, Experts, Forward, Step
from nimlite.kernels.torch_kernels import used_part
from nimlite.kernels.triton.device import Device as Gpu
from nimlite.kernels.triton.kernels import TritonKernels
from nimlite.kernels.triton.linear import LinearWorkspace
from nimlite.kernels.triton.tuning import choose, compile_products
from nimlite.layers.linear import Weights
from nimlite.models.registry import read_spec
from nimlite.models.spec import ModelSpec
from nimlite.probe.measure import gpu_bandwidth
from nimlite.profiles.manifest import Device, Precision, Profile
from nimlite.profiles.matrix import kv_precision
from nimlite.profiles.memory import WEIGHT_BYTES
from nimlite.quant.base import PackedWeight

BATCHES = (1, 64)
_PROMPT = 128
_OUTPUT = 128
_UNTIMED = 8
"""Steps after the last prompt's."""
_TIMED = 64
_MEMORY_SHARE = 0.8
"""Of the card, for weights; the rest is for keys, values and a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """Steps of one number of sequences."""

    batch: int
    step_s: float
    bound_s: float
    """What the card needs to read what a step touches."""
    touched: float | None
    """Experts a layer with a token, on average."""

    @property
    def tok_s(self) -> float:
        return self.batch / self.step_s

    @property
    def share(self) -> float:
        """Of the bound."""
        return self.bound_s / self.step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyTiming:
    """What one public model came to."""

    precision: str
    num_layers: int
    """That fit, the first ones."""
    all_layers: int
    parameters: float
    """Billions, of all layers."""
    read_bytes_s: float
    """Measured in the same process."""
    decodings: tuple[Decoding, ...]


def time_family(name: str) -> FamilyTiming:
    """`name`: a key of `CONFIGS`, behind a precision and a colon."""
    precision_name, _, model = name.partition(":")
    precision, device = Precision(precision_name), torch.device("cuda")
    whole = read_spec(CONFIGS[model][1])
    spec = _fitting(whole, precision, torch.cuda.mem_get_info()[0])
    profile = _profile(spec, precision)
    free, _ = torch.cuda.mem_get_info()
    read_bytes_s = gpu_bandwidth(torch, min(4 << 30, free // 8) // 1024 * 1024)
    torch.cuda.empty_cache()
    weights = random_weights(spec, precision, device)
    dtype = activation_dtype(precision)
    choices = choose(products(spec, precision), device, dtype, rows=BATCHES)
    kernels = TritonKernels(device, dtype, max(BATCHES), choices)
    engine = gpu_engine(spec, weights, profile, device, kernels=kernels, prefix_caching=False)
    steps = {batch: decode_seconds(engine, batch) for batch in BATCHES}
    counted = _CountedKernels(device, dtype, max(BATCHES), choices)
    touched: dict[int, float | None] = dict.fromkeys(BATCHES)
    if spec.moe is not None:
        del engine
        engine = gpu_engine(spec, weights, profile, device, kernels=counted, prefix_caching=False)
        for batch in BATCHES:
            counted.touched.clear()
            decode_seconds(engine, batch)
            found = [count for rows, count in counted.touched if rows == batch]
            touched[batch] = float(torch.stack(found).float().mean())
    return FamilyTiming(
        precision=precision_name,
        num_layers=spec.num_layers,
        all_layers=whole.num_layers,
        parameters=round(whole.num_parameters / 1e9, 2),
        read_bytes_s=read_bytes_s,
        decodings=tuple(
            Decoding(
                batch=batch,
                step_s=seconds,
                bound_s=step_bytes(spec, weights, profile, batch, touched[batch]) / read_bytes_s,
                touched=touched[batch],
            )
            for batch, seconds in steps.items()
        ),
    )


def prepare_family(name: str) -> None:
    """Compile what `time_family` will run; the compiled kernels lie in Triton's cache."""
    precision_name, _, model = name.partition(":")
    precision, device = Precision(precision_name), torch.device("cuda")
    spec, dtype = read_spec(CONFIGS[model][1]), activation_dtype(precision)
    shapes = list(dict.fromkeys(products(spec, precision)))
    rows = {scheme.name: BATCHES for scheme, _, _ in shapes}
    workspace = LinearWorkspace.allocate(device)
    compile_products(shapes, rows, workspace, Gpu.of(device), device, dtype)
    warm_up(spec, _profile(spec, precision), device)


class _CountedKernels(TritonKernels):
    """Counts the experts that get a token, in steps that are not recorded."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.touched: list[tuple[int, torch.Tensor]] = []
        """By call: rows, and experts."""

    def capture(self, forward: Forward, batch: Batch, *, decodes: bool = True) -> Step:
        return lambda counts: forward(used_part(batch, counts))

    def moe(self, x_TD: torch.Tensor, router_TE: torch.Tensor, experts: Experts) -> torch.Tensor:
        chosen_TK = router_TE.topk(experts.per_token).indices
        used_E = torch.zeros(experts.num_experts, device=x_TD.device)
        used_E[chosen_TK.flatten()] = 1
        self.touched.append((len(x_TD), used_E.sum()))
        return super().moe(x_TD, router_TE, experts)


def decode_seconds(engine: Engine, batch: int) -> float:
    """Of one step in which each of `batch` sequences has a token."""
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(temperature=0.0, max_tokens=_OUTPUT, ignore_eos=True)
    shape = (batch, _PROMPT)
    prompts = torch.randint(engine.spec.vocab_size, shape, generator=generator).tolist()
    waiting = set()
    for index, prompt in enumerate(prompts):
        request = Request(id=f"{index}", prompt_token_ids=tuple(prompt), params=params)
        engine.add(request)
        waiting.add(request.id)
    while waiting:
        waiting -= {delta.request_id for delta in engine.step()}
    for _ in range(_UNTIMED):
        engine.step()
    started = time.perf_counter()
    num_tokens = sum(len(delta.token_ids) for _ in range(_TIMED) for delta in engine.step())
    seconds = (time.perf_counter() - started) / _TIMED
    assert num_tokens == batch * _TIMED
    while engine.has_work:
        engine.step()
    return seconds


def step_bytes(
    spec: ModelSpec, weights: Weights, profile: Profile, batch: int, touched: float | None
) -> float:
    """That a timed step reads. Of the embedding and of positions a step reads a row a sequence; a
    tied embedding is the head, too."""
    total = 0.0
    for name, weight in weights.items():
        num_bytes = _num_bytes(weight)
        if name == "positions" or (name == "embedding" and not spec.tie_embeddings):
            num_bytes *= batch / _num_rows(weight)
        elif ".experts_" in name:
            assert spec.moe is not None and touched is not None
            num_bytes *= touched / spec.moe.num_experts
        total += num_bytes
    element_bytes = 1 if profile.kv_precision is Precision.FP8 else 2
    context = _PROMPT + _UNTIMED + _TIMED / 2
    return total + batch * context * spec.kv_bytes_per_token(element_bytes)


def _num_bytes(weight: PackedWeight | torch.Tensor) -> float:
    tensors = [weight] if isinstance(weight, torch.Tensor) else weight.tensors.values()
    return sum(tensor.nbytes for tensor in tensors)


def _num_rows(weight: PackedWeight | torch.Tensor) -> int:
    return len(weight) if isinstance(weight, torch.Tensor) else weight.num_rows


def _fitting(spec: ModelSpec, precision: Precision, free_bytes: int) -> ModelSpec:
    """As many of the first layers as the card holds."""
    allowed, count = _MEMORY_SHARE * free_bytes, spec.num_layers

    def num_bytes(count: int) -> float:
        short = dataclasses.replace(spec, num_layers=count, windows=spec.windows[:count])
        return WEIGHT_BYTES[precision] * short.num_parameters

    while count > 1 and num_bytes(count) > allowed:
        count -= 1
    return dataclasses.replace(spec, num_layers=count, windows=spec.windows[:count])


def _profile(spec: ModelSpec, precision: Precision) -> Profile:
    max_model_len = _PROMPT + _OUTPUT + 64
    held = Precision(kv_precision(precision))
    element_bytes = 1 if held is Precision.FP8 else 2
    pool = (max(BATCHES) + 1) * max_model_len * spec.kv_bytes_per_token(element_bytes)
    return Profile(
        id="families",
        family="families",
        device=Device.GPU,
        precision=precision,
        kv_precision=held,
        kv_cache_bytes=int(pool),
        max_model_len=max_model_len,
        max_batch_size=max(BATCHES),
        max_num_tokens=2048,
        block_size=64,
    )


def run_families(
    names: Iterable[str],
    precisions: Iterable[Precision],
    *,
    seconds: float,
    prepare_processes: int,
    say: Callable[[str], None],
) -> Iterator[Done[FamilyTiming]]:
    """Each public model in each precision; `seconds` is what one may take."""
    items = [f"{precision}:{name}" for precision in precisions for name in names]
    for done in run_apart(prepare_family, items, seconds=seconds, num_processes=prepare_processes):
        say(f"compiled {done.name} in {done.seconds:.1f} s {done.failure}".rstrip())
    yield from run_apart(time_family, items, seconds=seconds)


def json_line(done: Done[FamilyTiming]) -> str:
    """All that is known of one."""
    result: Mapping[str, object] = {}
    if done.result is not None:
        result = dataclasses.asdict(done.result)
    return json.dumps(
        {"name": done.name, "s": round(done.seconds, 1), "failure": done.failure, **result}
    )


def table(found: Sequence[Done[FamilyTiming]]) -> str:
    """Markdown: a row a model."""
    heading = "| model | parameters | layers |" + "".join(
        f" batch {batch}: tok/s | share of the bound | experts touched |" for batch in BATCHES
    )
    rows = [heading, "|---|---:|---:|" + "---:|---:|---:|" * len(BATCHES)]
    for done in found:
        result = done.result
        if result is None:
            rows.append(f"| {done.name} | {done.failure} |")
            continue
        cells = [done.name, f"{result.parameters:.1f} B"]
        cells.append(f"{result.num_layers} of {result.all_layers}")
        for one in result.decodings:
            touched = "-" if one.touched is None else f"{one.touched:.1f}"
            cells += [f"{one.tok_s:,.0f}", f"{one.share:.0%}", touched]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)
