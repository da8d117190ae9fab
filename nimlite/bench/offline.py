"""The engine alone on one GPU: fixed lengths, greedy, all requests at once, random weights.

`bound_tok_s` is what a card that reads 4.5 TB/s and multiplies at 790 (bf16, also beside weights of
4 or 8 bits) or 1,250 (fp8; int8 has the same peak) TFLOP/s, as measured on an H200, could give at
most if products, reads of keys and values, and reads of weights came one after the other:
attention's own arithmetic, and all that is small, are left out.

The cases, and the form of the results, are those of the peers' scripts, so that a line of theirs
and one of ours can be laid side by side.
"""

import dataclasses
import gc
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from nimlite.engine.buffer_sizes import kv_layout
from nimlite.engine.dense import DenseLayers
from nimlite.engine.engine import Engine
from nimlite.engine.gpu import gpu_engine, measured_kernels, random_weights
from nimlite.engine.request import SamplingParams
from nimlite.layers.decoder import Decoder
from nimlite.models.registry import read_spec
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Device, Precision, Profile
from nimlite.profiles.matrix import kv_precision
from nimlite.profiles.memory import WEIGHT_BYTES
from nimlite.settings.values import DenseBackend

_MAX_MODEL_LEN = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineCase:
    """`num_requests` of equal lengths, all there from the start."""

    name: str
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int

    @property
    def title(self) -> str:
        """Such as 64 x 2048/128."""
        return f"{self.num_requests:,} x {self.num_prompt_tokens}/{self.num_output_tokens}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineResult:
    """How long a case took."""

    case: OfflineCase
    precision: Precision
    seconds: float

    @property
    def output_tok_s(self) -> float:
        return self.case.num_requests * self.case.num_output_tokens / self.seconds

    @property
    def total_tok_s(self) -> float:
        """Prompt tokens counted, too."""
        case = self.case
        num_tokens = case.num_prompt_tokens + case.num_output_tokens
        return case.num_requests * num_tokens / self.seconds

    @property
    def judged_tok_s(self) -> float:
        """Output tokens a second; of a case that is all prompt, input tokens."""
        return self.total_tok_s if self.case.num_output_tokens == 1 else self.output_tok_s

    def json_line(self, **more: object) -> str:
        """As the peers' scripts print theirs."""
        case = self.case
        return json.dumps(
            {
                "peer": "nimlite",
                "q": str(self.precision),
                "case": case.name,
                "n": case.num_requests,
                "isl": case.num_prompt_tokens,
                "osl": case.num_output_tokens,
                "s": round(self.seconds, 3),
                "out_tok_s": round(self.output_tok_s, 1),
                "tot_tok_s": round(self.total_tok_s, 1),
                **more,
            }
        )


def _case(name: str, num_requests: int, num_prompt: int, num_output: int) -> OfflineCase:
    return OfflineCase(
        name=name,
        num_requests=num_requests,
        num_prompt_tokens=num_prompt,
        num_output_tokens=num_output,
    )


CASES = {
    case.name: case
    for case in (
        _case("bs1", 1, 128, 256),
        _case("bs8", 8, 128, 256),
        _case("bs64", 64, 128, 256),
        _case("bs256", 256, 128, 256),
        _case("128_128", 4096, 128, 128),
        _case("1000_1000", 1024, 1000, 1000),
        _case("2048_128", 512, 2048, 128),
        _case("prefill", 64, 2048, 1),
    )
}


_READ_BYTES_S = 4.5e12
_FLOPS = 790e12
_FLOPS_OF_8_BITS = 1250e12
_KV_POOL_BYTES = 0.92 * 141e9
"""With the weights: what decides how many sequences run at once."""


def bound_tok_s(spec: ModelSpec, case: OfflineCase, precision: Precision) -> float:
    """Output tokens a second (of a case that is all prompt, all tokens) that one H200 could give
    at most."""
    size = WEIGHT_BYTES[precision]
    in_8_bits = precision in (Precision.FP8, Precision.INT8_SQ)
    peak = _FLOPS_OF_8_BITS if in_8_bits else _FLOPS
    head = spec.vocab_size * spec.hidden_size
    layers = spec.num_parameters - (1 if spec.tie_embeddings else 2) * head
    weight_bytes = size * layers + 2 * head
    num_tokens = case.num_prompt_tokens + case.num_output_tokens
    if case.num_output_tokens == 1:
        return peak / (2 * layers)
    context = case.num_prompt_tokens + case.num_output_tokens / 2
    kv_bytes = context * spec.kv_bytes_per_token(1 if precision is Precision.FP8 else 2)
    batch = min(case.num_requests, 2048, (_KV_POOL_BYTES - weight_bytes) / kv_bytes)
    flops = 2 * (layers * num_tokens / case.num_output_tokens + head)
    reading = (kv_bytes + weight_bytes / batch) / _READ_BYTES_S
    return 1 / (flops / peak + reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A result beside what it is measured by."""

    result: OfflineResult
    bound: float
    peer: float | None
    """The peer's tokens a second."""

    @property
    def share(self) -> float:
        """Of the bound."""
        return self.result.judged_tok_s / self.bound

    @property
    def ratio(self) -> float | None:
        """To the peer."""
        return self.result.judged_tok_s / self.peer if self.peer else None

    def json_line(self) -> str:
        """The result's, with these figures."""
        more: dict[str, object] = {"bound": round(self.bound), "share": round(self.share, 3)}
        if self.peer and self.ratio:
            more |= {"peer_tok_s": self.peer, "ratio": round(self.ratio, 3)}
        return self.result.json_line(**more)


def table(judged: Iterable[Judged]) -> str:
    """Markdown: a row a case."""
    rows = [
        f"| {one.result.case.title} | {one.result.judged_tok_s:,.0f} | {one.bound:,.0f} |"
        f" {one.share:.0%} | {f'{one.peer:,.0f}' if one.peer else '-'} |"
        f" {f'{one.ratio:.2f}' if one.ratio else '-'} |"
        for one in judged
    ]
    heading = "| case (input/output tokens) | nimlite tok/s | bound | share | peer | ratio |"
    return "\n".join([heading, "|---|---:|---:|---:|---:|---:|", *rows])


def precision_table(judged: Sequence[Judged]) -> str:
    """Markdown: a row a precision, a column a case: tokens a second, their share of the bound, and
    how many times those of the first precision."""
    cases = list(dict.fromkeys(one.result.case for one in judged))
    found = {(one.result.precision, one.result.case): one for one in judged}
    precisions = list(dict.fromkeys(precision for precision, _ in found))
    rows = []
    for precision in precisions:
        cells = [str(precision)]
        for case in cases:
            one, first = found.get((precision, case)), found.get((precisions[0], case))
            if one is None or first is None:
                cells.append("-")
                continue
            times = one.result.judged_tok_s / first.result.judged_tok_s
            cells.append(f"{one.result.judged_tok_s:,.0f} ({one.share:.0%}, {times:.2f}x)")
        rows.append(f"| {' | '.join(cells)} |")
    heading = f"| precision | {' | '.join(case.title for case in cases)} |"
    return "\n".join([heading, "|---|" + "---:|" * len(cases), *rows])


def read_shape(config: Path) -> ModelSpec:
    """Of a Hugging Face config.json, or of the directory that it lies in. Raises ModelError."""
    file = config / "config.json" if config.is_dir() else config
    return read_spec(json.loads(file.read_text(encoding="utf-8")))


def run_offline(
    spec: ModelSpec,
    precision: Precision,
    cases: Iterable[OfflineCase],
    report: Callable[[OfflineResult], None],
    *,
    max_batch_size: int,
    max_num_tokens: int,
    backend: DenseBackend = DenseBackend.TORCH,
) -> None:
    """Build an engine of random weights in the shape of `spec`, and run the cases one after the
    other. Raises SettingError where the backend can't run it here."""
    device = torch.device("cuda")
    # what an engine before it, of another precision, held
    gc.unfreeze()
    gc.collect()
    torch.cuda.empty_cache()
    profile = Profile(
        id="offline",
        family="offline",
        device=Device.GPU,
        precision=precision,
        kv_precision=Precision(kv_precision(precision)),
        max_model_len=_MAX_MODEL_LEN,
        max_batch_size=max_batch_size,
        max_num_tokens=max_num_tokens,
        block_size=64,
    )
    weights = random_weights(spec, precision, device)
    kernels = measured_kernels(spec, profile, device)
    layers = DenseLayers.on(device, profile, backend)

    def load() -> Decoder:
        layout = kv_layout(spec, dataclasses.replace(profile, kv_cache_bytes=0))
        return Decoder.load(spec, weights, layout)

    with TemporaryDirectory() as name:
        directory = Path(name)
        layers.prepare(spec, directory, SILENT)
        dense = layers.choose(directory, weights, load, kernels, directory / "compiled", SILENT)
    engine = gpu_engine(
        spec, weights, profile, device, kernels=kernels, dense=dense, prefix_caching=False
    )
    cases = tuple(cases)
    for case in cases:
        run_case(engine, _shortened(case))
    # what is there now stays: the collector need not look at it again and again
    gc.collect()
    gc.freeze()
    for case in cases:
        report(OfflineResult(case=case, precision=precision, seconds=run_case(engine, case)))


def _shortened(case: OfflineCase) -> OfflineCase:
    """The same shapes for a moment, so that every kernel is compiled."""
    return dataclasses.replace(
        case,
        num_requests=min(case.num_requests, 256),
        num_output_tokens=min(case.num_output_tokens, 4),
    )


def run_case(engine: Engine, case: OfflineCase) -> float:
    """Seconds from the first request to the last token."""
    rng = random.Random(0)
    prompts = [
        [rng.randrange(engine.spec.vocab_size) for _ in range(case.num_prompt_tokens)]
        for _ in range(case.num_requests)
    ]
    params = SamplingParams(temperature=0.0, max_tokens=case.num_output_tokens, ignore_eos=True)
    started = time.perf_counter()
    answers = engine.generate(prompts, params)
    seconds = time.perf_counter() - started
    assert all(len(answer.token_ids) == case.num_output_tokens for answer in answers)
    return seconds


def read_peer(file: Path, precision: Precision) -> Mapping[str, float]:
    """A peer's tokens a second by case (of all-prompt ones input and output together), from its
    JSON lines: the best of several runs. Other lines and other precisions are passed over."""
    names = (str(precision), *(("none",) if precision is Precision.BF16 else ()))
    best: dict[str, float] = {}
    for text in file.read_text(encoding="utf-8").splitlines():
        line = json.loads(text) if text[:1] == "{" else {}
        if "case" in line and line["q"] in names:
            tok_s = line["tot_tok_s" if line["osl"] == 1 else "out_tok_s"]
            best[line["case"]] = max(tok_s, best.get(line["case"], 0.0))
    return best
