"""What a precision costs: perplexity on a text that comes with nimlite, against fp32; and what it
gives: tokens a second."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import Tokenizer

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.convert import convert
from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.quality import QualityReport
from nimlite.build.quantize import nearest_recipe
from nimlite.build.recipe import Recipe
from nimlite.build.reference import Reference
from nimlite.build.selftest import Logits, self_test
from nimlite.build.weights_file import load_weights
from nimlite.engine.backend import Backend
from nimlite.engine.request import SamplingParams
from nimlite.layers.linear import Weights
from nimlite.observe.progress import SILENT, Progress
from nimlite.profiles.manifest import Precision
from nimlite.startup import Plan

_WINDOW = 512
"""Tokens of a prompt: each is predicted from those before it in its window."""
_SPEED_RUNS, _SPEED_TOKENS = 3, 128
"""Greedy, of one request alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An engine that is in the cache, and the plan that it was made for."""

    plan: Plan
    backend: Backend
    directory: EngineDirectory

    @property
    def precision(self) -> Precision:
        return self.plan.selection.chosen.profile.precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """A precision's engine against the checkpoint in plain fp32."""

    precision: Precision
    report: QualityReport
    decode_tok_s: float
    """Of one request, after its first token."""
    nearest: QualityReport | None = None
    """Of plain rounding to nearest at the same bits, where the precision does more than that."""


def measure_qualities(
    engines: Sequence[Prepared], checkpoint: Checkpoint, progress: Progress
) -> tuple[Quality, ...]:
    """`engines`: of one model, which is in `checkpoint`. Raises SelfTestError for one that gives
    no finite logits."""
    config, path = engines[0].directory.config, engines[0].directory.path
    prompts = evaluation_prompts(path / "tokenizer.json")
    reference = Reference(checkpoint, config.spec)
    qualities = []
    for engine in engines:
        with progress.task(f"The text in {engine.precision} and in plain fp32", None, ""):
            engine_logits = _logits(engine, engine.directory.weights(), progress)
            report = self_test(engine_logits, reference, prompts)
        nearest = None
        if recipe := nearest_recipe(engine.precision, config.spec):
            with progress.task(f"The text in {engine.precision}, rounded to nearest", None, ""):
                weights = _converted(engine, checkpoint, recipe)
                nearest = self_test(_logits(engine, weights, progress), reference, prompts)
        with progress.task(f"Tokens a second in {engine.precision}", None, ""):
            decode_tok_s = _decode_tok_s(engine, prompts[0][:8])
        qualities.append(
            Quality(
                precision=engine.precision,
                report=report,
                decode_tok_s=decode_tok_s,
                nearest=nearest,
            )
        )
    return tuple(qualities)


def evaluation_prompts(tokenizer_file: Path) -> list[list[int]]:
    """The text of data/genesis.txt in windows of token ids. No quantizer is calibrated on it."""
    text = resources.files("nimlite.bench").joinpath("data", "genesis.txt")
    token_ids = Tokenizer.from_file(str(tokenizer_file)).encode(text.read_text("utf-8")).ids
    return [token_ids[i : i + _WINDOW] for i in range(0, len(token_ids), _WINDOW)]


def _converted(engine: Prepared, checkpoint: Checkpoint, recipe: Recipe) -> Weights:
    """The checkpoint by another recipe, in the engine's formats."""
    spec = engine.directory.config.spec
    with TemporaryDirectory() as directory:
        convert(checkpoint, spec, engine.backend, 1, Path(directory), SILENT, recipe)
        return load_weights(Path(directory))  # the mapped file stays readable


def _logits(engine: Prepared, weights: Weights, progress: Progress) -> Logits:
    directory = engine.directory
    return engine.backend.logits(directory.config.spec, weights, directory.path, progress)


def _decode_tok_s(prepared: Prepared, prompt: Sequence[int]) -> float:
    """The best of a few runs."""
    engine = prepared.backend.open(prepared.directory, SILENT, prefix_caching=False)

    def seconds(num_tokens: int) -> float:
        began = time.perf_counter()
        params = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
        engine.generate([prompt], params)
        return time.perf_counter() - began

    first = min(seconds(1) for _ in range(_SPEED_RUNS))
    return _SPEED_TOKENS / (min(seconds(1 + _SPEED_TOKENS) for _ in range(_SPEED_RUNS)) - first)
