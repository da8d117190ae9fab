"""The engine alone on one GPU: fixed lengths, greedy, all requests at once, random weights.

The cases, and the form of the results, are those of the peers' scripts, so that a line of theirs
and one of ours can be laid side by side.
"""

import dataclasses
import gc
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from nimlite.engine.engine import Engine
from nimlite.engine.gpu import gpu_engine, random_weights
from nimlite.engine.request import SamplingParams
from nimlite.models.registry import read_spec
from nimlite.profiles.manifest import Device, Precision, Profile

_MAX_MODEL_LEN = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineCase:
    """`num_requests` of equal lengths, all there from the start."""

    name: str
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int


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

    def json_line(self) -> str:
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
        _case("128_128", 4096, 128, 128),
        _case("1000_1000", 1024, 1000, 1000),
        _case("2048_128", 512, 2048, 128),
        _case("prefill", 64, 2048, 1),
    )
}


def run_offline(
    config_file: Path,
    precision: Precision,
    cases: Iterable[OfflineCase],
    report: Callable[[OfflineResult], None],
    *,
    max_batch_size: int,
    max_num_tokens: int,
) -> None:
    """Build an engine of random weights in the shape of a Hugging Face config.json, and run the
    cases one after the other."""
    device = torch.device("cuda")
    spec = read_spec(json.loads(config_file.read_text(encoding="utf-8")))
    profile = Profile(
        id="offline",
        family="offline",
        device=Device.GPU,
        precision=precision,
        kv_precision=precision,
        max_model_len=_MAX_MODEL_LEN,
        max_batch_size=max_batch_size,
        max_num_tokens=max_num_tokens,
        block_size=64,
    )
    engine = gpu_engine(
        spec, random_weights(spec, precision, device), profile, device, prefix_caching=False
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


def read_peer(file: Path) -> Mapping[str, float]:
    """Output tokens a second by case, from a peer's JSON lines; other lines are passed over."""
    lines = (line for line in file.read_text(encoding="utf-8").splitlines() if line[:1] == "{")
    return {found["case"]: found["out_tok_s"] for found in map(json.loads, lines)}
