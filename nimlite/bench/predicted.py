"""What the profiles predict for one GPU, beside what the engine takes and does there.

    python -m nimlite.bench.predicted CONFIG.json [--precision bf16 --precision fp8]

Random weights in the shape of a Hugging Face config.json. Memory: the pool holds one request of
full length; a step of the whole token budget is run, and for as many sequences as the batch takes a
token is drawn at random, with all that a request may ask of it. Speed: streams that start
together, 128 tokens in and 256 out.
"""

import argparse
import gc
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nimlite.bench.offline import OfflineCase, run_case
from nimlite.engine.device_sampler import DeviceSampler
from nimlite.engine.engine import Engine
from nimlite.engine.gpu import products, random_weights
from nimlite.engine.request import SamplingParams
from nimlite.kernels.triton.kernels import TritonKernels
from nimlite.kernels.triton.tuning import Choices, choose
from nimlite.layers.linear import Weights
from nimlite.models.registry import read_spec
from nimlite.models.spec import ModelSpec
from nimlite.probe import probe
from nimlite.profiles.manifest import Device, Precision, Profile
from nimlite.profiles.memory import kv_bytes, plan_memory
from nimlite.profiles.rates import rates
from nimlite.profiles.roofline import Load, predict
from nimlite.profiles.shape import ModelShape

_CONTEXTS = (4096, 32768, 131072)
_STREAMS = (1, 8, 64, 256)
_INPUT, _OUTPUT = 128, 256
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class _Model:
    """Random weights on the device, and which kernels serve them."""

    spec: ModelSpec
    weights: Weights
    precision: Precision
    choices: Choices
    device: torch.device

    @classmethod
    def make(cls, config: Path, precision: Precision, device: torch.device) -> "_Model":
        spec = read_spec(json.loads(config.read_text(encoding="utf-8")))
        weights = random_weights(spec, precision, device)
        choices = choose(products(spec, precision), device, torch.bfloat16)
        return cls(spec, weights, precision, choices, device)

    @property
    def shape(self) -> ModelShape:
        return ModelShape.of(self.spec)

    def profile(self, context: int, max_batch_size: int, max_num_tokens: int) -> Profile:
        """Its pool holds one request of `context` tokens, and at least the whole batch's."""
        profile = Profile(
            id="",
            family="random",
            device=Device.GPU,
            precision=self.precision,
            kv_precision=Precision.FP8 if self.precision is Precision.FP8 else Precision.BF16,
            max_model_len=context,
            max_batch_size=max_batch_size,
            max_num_tokens=max_num_tokens,
            block_size=64,
        )
        batch = max_batch_size * kv_bytes(self.shape, profile, _INPUT + _OUTPUT)
        pool = max(kv_bytes(self.shape, profile, context), batch)
        return replace(profile, kv_cache_bytes=pool)

    def engine(self, profile: Profile) -> Engine:
        kernels = TritonKernels(self.device, torch.bfloat16, profile.max_batch_size, self.choices)
        return Engine(
            spec=self.spec,
            weights=self.weights,
            profile=profile,
            kernels=kernels,
            eos_token_ids=(),
            prefix_caching=False,
            sampler=DeviceSampler(profile.max_batch_size, self.device),
        )


def used_bytes() -> int:
    """Of the first card, as nvidia-smi shows it."""
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(shown) << 20


def measure_memory(model: _Model, context: int, before: int) -> str:
    """A line of the table: predicted, and at the peak; `before`: what others use."""
    profile = model.profile(context, 64, 8192)
    predicted = plan_memory(model.shape, profile, 1 << 50).total
    engine = model.engine(profile)
    prompts = [[7] * min(context - 8, profile.max_num_tokens)]
    engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True))
    drawn = SamplingParams(
        temperature=0.8,
        top_p=0.9,
        presence_penalty=0.5,
        logprobs=1,
        max_tokens=16,
        ignore_eos=True,
    )
    engine.generate([[7 + i] * 64 for i in range(profile.max_batch_size)], drawn)
    torch.cuda.synchronize()
    peak, allocated = used_bytes() - before, torch.cuda.max_memory_allocated()
    return (
        f"memory {model.precision} context {context}: predicted {predicted / _GIB:.2f} GiB, "
        f"peak {peak / _GIB:.2f} GiB (allocated {allocated / _GIB:.2f}), "
        f"{predicted / peak - 1:+.1%}"
    )


def measure_speed(model: _Model) -> Iterator[str]:
    """A line for each number of streams."""
    machine = probe(Path.cwd())
    profile = replace(model.profile(4096, max(_STREAMS), 8192), kv_cache_bytes=24 * _GIB)
    engine = model.engine(profile)
    place = rates(profile, machine.gpus[:1], machine, 1)
    for streams in _STREAMS:
        case = OfflineCase(
            name=str(streams),
            num_requests=streams,
            num_prompt_tokens=_INPUT,
            num_output_tokens=_OUTPUT,
        )
        run_case(engine, replace(case, num_output_tokens=8))
        measured = streams * _OUTPUT / run_case(engine, case)
        load = Load(concurrency=streams, input_length=_INPUT, output_length=_OUTPUT)
        predicted = predict(model.shape, profile, place, load).total_tok_s
        yield (
            f"speed {model.precision} {streams} stream(s): predicted {predicted:,.0f} tok/s, "
            f"measured {measured:,.0f} tok/s, {predicted / measured - 1:+.1%}"
        )


def main() -> None:
    """Print a line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--precision", action="append", type=Precision)
    arguments = parser.parse_args()
    before = used_bytes()
    device = torch.device("cuda")
    for precision in arguments.precision or (Precision.BF16, Precision.FP8):
        model = _Model.make(arguments.config, precision, device)
        for context in _CONTEXTS:
            _forget()
            print(measure_memory(model, context, before), flush=True)  # noqa: T201
        _forget()
        for line in measure_speed(model):
            print(line, flush=True)  # noqa: T201
        del model


def _forget() -> None:
    """Give back what the engine before held."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
