"""On two GPUs: tokens of a small random model over ranks beside one GPU's. Run by hand:

PYTHONPATH=.:tests python tests/gpu_ranks.py
"""

import dataclasses
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from fakes.llama import random_llama

from nimlite.bench.apart import run_apart
from nimlite.build.conversion import ConversionJob, convert_checkpoint
from nimlite.engine.engine import Engine
from nimlite.engine.gpu import GpuBackend, gpu_engine
from nimlite.engine.request import SamplingParams
from nimlite.observe.progress import SILENT
from nimlite.parallel.gpu import GpuPart
from nimlite.profiles.manifest import Device, Precision

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
PROMPTS = [[3 + (7 * i + 5 * j) % 250 for j in range(20 + 13 * i)] for i in range(12)]


def tokens(directory: Path, name: str) -> list[tuple[int, ...]]:
    """`name`: precision, tp and pp, with colons between them."""
    precision, tp, pp = name.split(":")
    home = directory / name.replace(":", "-")
    home.mkdir(parents=True)
    model = random_llama(home, **SHAPE)
    profile = dataclasses.replace(
        model.profile(Precision.BF16),
        device=Device.GPU,
        precision=Precision(precision),
        kv_precision=Precision.BF16,
        kv_cache_bytes=1 << 28,
        block_size=64,
        max_num_tokens=256,
        max_batch_size=16,
        tp=int(tp),
        pp=int(pp),
    )
    job = ConversionJob(
        checkpoint=model.checkpoint,
        profile=profile,
        model_name="tiny",
        served_name="tiny",
        source="tiny",
    )
    packing = GpuBackend(profile=profile)
    made = convert_checkpoint(job, home / "converted", SILENT, packing)
    engine = opened(made, profile)
    params = SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True)
    found = [answer.token_ids for answer in engine.generate(PROMPTS, params)]
    again = [answer.token_ids for answer in engine.generate(PROMPTS, params)]
    assert found == again, "a second run differs"
    engine.close()
    return found


def opened(made, profile) -> Engine:
    if profile.tp * profile.pp == 1:
        device = torch.device("cuda", 0)
        return gpu_engine(made.config.spec, made.weights_on(device), profile, device)
    part = GpuPart(
        spec=made.config.spec, profile=profile, directory=made, compiled=made.path / "kernels"
    )
    return part.engine(tuple(range(profile.tp * profile.pp)), eos_token_ids=())


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    bad = 0
    with TemporaryDirectory() as directory:
        work = partial(tokens, Path(directory))
        for precision in ("bf16", "fp8"):
            one = None
            for split in ("1:1", "2:1", "1:2"):
                began = time.perf_counter()
                (done,) = run_apart(work, [f"{precision}:{split}"], seconds=120)
                seconds = time.perf_counter() - began
                one = one or done.result
                if done.result is None or one is None:
                    bad += 1
                    say(f"{done.name}: {done.failure}, {seconds:.0f} s")
                    continue
                pairs = [
                    p for a, b in zip(one, done.result, strict=True) for p in zip(a, b, strict=True)
                ]
                same = sum(a == b for a, b in pairs) / len(pairs)
                whole = sum(a == b for a, b in zip(one, done.result, strict=True))
                bad += same < 0.7
                say(
                    f"{done.name}: {same:.1%} of tokens, {whole} of {len(one)} answers equal,"
                    f" {seconds:.0f} s"
                )
    return bad


if __name__ == "__main__":
    sys.exit(main())
