"""Tiny models of every family on a GPU in bf16, beside transformers in fp32 with the same rounded
matrices: `python tests/gpu_families.py [--only WORD] [--processes N]`.

A text is read and its last 32 tokens are given one by one: through the forward alone, and through
an engine with recorded steps, whose sampler notes the logits and says what is to come next: alone,
from the prefix cache, beside others, and with the prompt in chunks. Prints the relative error of
the logits of each, transformers' own in bf16, and ends with 1 where one of ours is above 2e-2. The
weights attend less sharply than in tests/models/test_families.py (Gemma's, whose norms add 1 to
their weights, by another half), so that rounding is not multiplied. Where there are experts the
median token is judged: of two experts that are nearly as likely, rounding chooses one, in
transformers as here, and the token's logits are then another function's.

Where there is no GPU, Triton must interpret (TRITON_INTERPRET=1): a few steps in
fp16, and nothing is recorded.
"""

import argparse
import copy
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from fakes.driving import drive, request
from fakes.families import CASES, DROPPED, family_model
from fakes.family import TinyModel
from fakes.llama import Llama

from nimlite.bench.apart import run_apart
from nimlite.build.convert import convert
from nimlite.build.weights_file import load_weights
from nimlite.engine.batch import BatchBuffers
from nimlite.engine.buffer_sizes import kv_layout
from nimlite.engine.engine import Engine
from nimlite.engine.evaluate import prompt_logits
from nimlite.engine.gpu import GpuBackend
from nimlite.engine.plan import SampledToken
from nimlite.engine.sampler import SamplingRow
from nimlite.engine.token_masks import TokenMask
from nimlite.kernels.base import Counts
from nimlite.kernels.triton.kernels import TritonKernels
from nimlite.layers.decoder import Decoder
from nimlite.layers.linear import Weights
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Precision, Profile
from nimlite.quant.base import PackedWeight

TEXT = b"Fourscore and seven years ago our fathers brought forth, on this continent, a new nation"
IS_GPU = torch.cuda.is_available()
NUM_PROMPT = 50
NUM_WRITTEN = 32 if IS_GPU else 2
IDS = list(TEXT[: NUM_PROMPT + NUM_WRITTEN])
TOLERANCE = 2e-2
DEVICE = torch.device("cuda" if IS_GPU else "cpu")
DTYPE = torch.bfloat16 if IS_GPU else torch.float16
BATCH = 16


class Dictation:
    """A sampler that notes the logits of the probe, and has it go on with `IDS`."""

    lookahead = False

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def feed(self, buffers: BatchBuffers, counts: Counts) -> None:
        """The host knows every token."""

    def launch(
        self, logits_RV: torch.Tensor, rows: Sequence[SamplingRow], mask: TokenMask | None = None
    ) -> Callable[[], list[SampledToken]]:
        tokens = []
        for logits_V, row in zip(logits_RV, rows, strict=True):
            is_probe = list(row.token_ids[:NUM_PROMPT]) == IDS[:NUM_PROMPT]
            if is_probe:
                self.logits.append(logits_V.float().cpu().clone())
            index = NUM_PROMPT + row.output_index
            known = is_probe and index < len(IDS)
            tokens.append(SampledToken(IDS[index] if known else 65, None))
        return lambda: tokens


def engine(model: Llama, profile: Profile, weights: Weights, sampler: Dictation) -> Engine:
    return Engine(
        spec=model.spec,
        weights=weights,
        profile=profile,
        kernels=TritonKernels(DEVICE, DTYPE, profile.max_batch_size),
        eos_token_ids=(),
        sampler=sampler,
    )


def dictated(made: Engine, sampler: Dictation, *beside: bytes) -> torch.Tensor:
    """Logits after the prompt and after each token but the last."""
    sampler.logits.clear()
    others = [
        request(f"other {i}", text, max_tokens=9, ignore_eos=True) for i, text in enumerate(beside)
    ]
    probe = request("probe", IDS[:NUM_PROMPT], max_tokens=NUM_WRITTEN, ignore_eos=True)
    is_known = bool(made.stats.num_steps)
    outcome = drive(made, *others, probe)["probe"]
    assert outcome.num_cached_tokens == (48 if is_known else 0)
    return torch.stack(sampler.logits)


def errors(name: str) -> dict[str, float]:
    """Of one case, by the way in which the logits came to be."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        sharpness = 0.5 if name.startswith("gemma") else 1.0
        model = family_model(name, Path(directory), sharpness)
        return _errors(model, Path(directory))


def _errors(model: Llama, directory: Path) -> dict[str, float]:
    profile = _profile(model)
    convert(model.checkpoint, model.spec, GpuBackend(profile=profile), 1, directory, SILENT)
    weights = {name: _moved(weight) for name, weight in load_weights(directory).items()}
    round_matrices(model)
    expected_TV = model.reference_logits(IDS)
    kernels = TritonKernels(DEVICE, DTYPE, BATCH)
    decoder = Decoder.load(model.spec, weights, kv_layout(model.spec, profile))
    forward_TV = prompt_logits(decoder, kernels, IDS, num_decoded=NUM_WRITTEN).cpu()
    found = {"forward": relative_error(model, forward_TV, expected_TV)}
    sampler = Dictation()
    whole = engine(model, profile, weights, sampler)
    chunked = engine(model, _profile(model, max_num_tokens=19), weights, sampler)
    others = [bytes(TEXT[i : i + 40]) for i in range(1, 12 if IS_GPU else 2)]
    ways = {
        "alone": lambda: dictated(whole, sampler),
        "cached": lambda: dictated(whole, sampler),
        "beside": lambda: dictated(whole, sampler, *others),
        "chunked": lambda: dictated(chunked, sampler, *others[:2]),
    }
    for way, run in ways.items():
        found[way] = relative_error(model, run(), expected_TV[NUM_PROMPT - 1 : -1])
    if isinstance(model, TinyModel):
        rounded = copy.deepcopy(model.reference).bfloat16()
        with torch.inference_mode():
            rounded_TV = rounded(torch.tensor([IDS])).logits[0].float()
            found["transformers"] = relative_error(model, rounded_TV, expected_TV)
    return found


def _profile(model: Llama, **limits: int) -> Profile:
    precision = Precision.BF16 if IS_GPU else Precision.FP16
    profile = model.profile(precision, max_batch_size=BATCH, num_blocks=96, **limits)
    return dataclasses.replace(profile, kv_precision=precision)


def _moved(weight: PackedWeight | torch.Tensor) -> PackedWeight | torch.Tensor:
    if isinstance(weight, torch.Tensor):
        return weight.to(DEVICE)
    tensors = {name: tensor.to(DEVICE) for name, tensor in weight.tensors.items()}
    return PackedWeight(weight.scheme, weight.num_rows, weight.num_columns, tensors)


@torch.no_grad()
def round_matrices(model: Llama) -> None:
    """The reference's, as the engine holds them."""
    named = model.reference.state_dict() if isinstance(model, TinyModel) else model.weights_of
    for tensor in named.values():
        if tensor.ndim > 1 and tensor.is_floating_point():
            tensor.copy_(tensor.to(DTYPE).float())


def relative_error(model: Llama, found_TV: torch.Tensor, expected_TV: torch.Tensor) -> float:
    if model.spec.moe is None:
        return float((found_TV - expected_TV).norm() / expected_TV.norm())
    return float(((found_TV - expected_TV).norm(dim=1) / expected_TV.norm(dim=1)).median())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=150)
    given = parser.parse_args()
    names = [name for name in [*CASES, *DROPPED] if given.only in name]
    failed = []
    for done in run_apart(errors, names, seconds=given.seconds, num_processes=given.processes):
        found = done.result or {}
        ours = {way: error for way, error in found.items() if way != "transformers"}
        if not ours or not max(ours.values()) <= TOLERANCE:
            failed.append(done.name)
        cells = " ".join(f"{way} {error:.4f}" for way, error in found.items()) or done.failure
        print(f"{done.name:28} {cells}  ({done.seconds:.0f} s)", flush=True)  # noqa: T201
    print(f"{len(names) - len(failed)} of {len(names)} within {TOLERANCE}; not: {failed}")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
