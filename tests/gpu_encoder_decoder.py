"""Tiny encoder-decoders on a GPU in bf16, beside transformers in fp32 with the same rounded
matrices: `python tests/gpu_encoder_decoder.py`.

As tests/gpu_families.py does it, whose ways these are: the forward alone, and an engine with
recorded steps: alone, with what the encoder read from the cache, and beside others. Ends with 1
where the relative error of the logits is above 2e-2. Without a GPU Triton must interpret.
"""

import dataclasses
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from fakes.driving import drive, request
from fakes.encoder_decoders import CASES, TinyEncoderDecoder, encoder_decoder
from gpu_families import (
    BATCH,
    DEVICE,
    DTYPE,
    IDS,
    IS_GPU,
    NUM_WRITTEN,
    TEXT,
    TOLERANCE,
    _moved,
    engine,
    round_matrices,
)

from nimlite.build.convert import convert
from nimlite.build.weights_file import load_weights
from nimlite.engine.batch import BatchBuffers
from nimlite.engine.engine import Engine, kv_layout
from nimlite.engine.evaluate import prompt_logits
from nimlite.engine.gpu import GpuBackend
from nimlite.engine.plan import SampledToken
from nimlite.engine.sampler import SamplingRow
from nimlite.engine.token_masks import TokenMask
from nimlite.kernels.base import Counts
from nimlite.kernels.triton.kernels import TritonKernels
from nimlite.layers.decoder import Decoder
from nimlite.observe.progress import SILENT
from nimlite.profiles.manifest import Precision

SOURCE = TEXT[:43]
WRITTEN = list(TEXT[43 : 43 + NUM_WRITTEN])


class Dictation:
    """A sampler that notes the logits of the probe, and has it write `WRITTEN`."""

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
            is_probe = row.sequence is not None and row.sequence.request.id == "probe"
            if is_probe:
                self.logits.append(logits_V.float().cpu().clone())
            tokens.append(SampledToken(WRITTEN[row.output_index] if is_probe else 65, None))
        return lambda: tokens


def errors(model: TinyEncoderDecoder, directory: Path) -> dict[str, float]:
    """By the way in which the logits came to be."""
    precision = Precision.BF16 if IS_GPU else Precision.FP16
    profile = model.profile(precision, max_batch_size=BATCH, num_blocks=96)
    profile = dataclasses.replace(profile, kv_precision=precision)
    convert(model.checkpoint, model.spec, GpuBackend(profile=profile), 1, directory, SILENT)
    weights = {name: _moved(weight) for name, weight in load_weights(directory).items()}
    round_matrices(model)
    decoder = Decoder.load(model.spec, weights, kv_layout(model.spec, profile))
    kernels = TritonKernels(DEVICE, DTYPE, BATCH)
    forward_TV = prompt_logits(decoder, kernels, IDS, num_decoded=NUM_WRITTEN).cpu()
    found = {"forward": relative_error(forward_TV, model.reference_logits(IDS))}

    start = model.spec.decoder_prompt
    text = [*start, *WRITTEN[:-1]]
    expected_TV = model.reference_logits(text, source=SOURCE)[len(start) - 1 :]
    sampler = Dictation()
    made = engine(model, profile, weights, sampler)
    others = [bytes(TEXT[i : i + 30 + i]) for i in range(1, 12 if IS_GPU else 2)]
    for way, beside in (("alone", []), ("cached", []), ("beside", others)):
        found[way] = relative_error(_dictated(made, sampler, beside), expected_TV)
    return found


def _dictated(made: Engine, sampler: Dictation, beside: Sequence[bytes]) -> torch.Tensor:
    sampler.logits.clear()
    others = [request(f"{i}", text, max_tokens=9 + i) for i, text in enumerate(beside)]
    probe = request("probe", SOURCE, max_tokens=NUM_WRITTEN, ignore_eos=True)
    drive(made, *others, probe)
    return torch.stack(sampler.logits)


def relative_error(found_TV: torch.Tensor, expected_TV: torch.Tensor) -> float:
    return float((found_TV - expected_TV).norm() / expected_TV.norm())


def main() -> int:
    worst = 0.0
    for name in CASES:
        with tempfile.TemporaryDirectory() as directory:
            model = encoder_decoder(name, Path(directory))
            found = errors(model, Path(directory))
        worst = max(worst, *found.values())
        print(f"{name:16}", *(f"{way} {error:.4f}" for way, error in found.items()), flush=True)  # noqa: T201
    print(f"worst {worst:.4f}, allowed {TOLERANCE}")  # noqa: T201
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
