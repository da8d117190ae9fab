"""What a precision costs: perplexity on texts that come with nimlite, against fp32."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from nimlite.bench.workload import passages
from nimlite.build.checkpoint import Checkpoint
from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.quality import QualityReport
from nimlite.build.reference import Reference
from nimlite.build.selftest import Logits, self_test
from nimlite.engine.backend import Backend
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Precision
from nimlite.startup import Plan


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


def measure_qualities(
    engines: Sequence[Prepared], checkpoint: Checkpoint, progress: Progress
) -> tuple[Quality, ...]:
    """`engines`: of one model, which is in `checkpoint`. Raises SelfTestError for one that gives
    no finite logits."""
    config, path = engines[0].directory.config, engines[0].directory.path
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    prompts = [tokenizer.encode(text).ids for text in passages()]
    with progress.task("The texts in plain fp32", None, ""):
        expected = tuple(Reference(checkpoint, config.spec)(prompts))
    qualities = []
    for engine in engines:
        with progress.task(f"The texts in {engine.precision}", None, ""):
            report = self_test(_logits(engine, progress), lambda _: iter(expected), prompts)
        qualities.append(Quality(precision=engine.precision, report=report))
    return tuple(qualities)


def _logits(engine: Prepared, progress: Progress) -> Logits:
    directory = engine.directory
    weights = directory.weights()
    return engine.backend.logits(directory.config.spec, weights, directory.path, progress)
