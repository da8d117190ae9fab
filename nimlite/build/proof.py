"""The proof of an engine against its checkpoint: before it is sealed, and whenever it is asked
for."""

import logging
from collections.abc import Sequence
from pathlib import Path

from nimlite.build.checkpoint import Checkpoint
from nimlite.build.engine_dir import EngineDirectory
from nimlite.build.quality import Proof, require_quality
from nimlite.build.reference import Reference
from nimlite.build.selftest import Candidate, Logits, generation_test, probe_prompts, self_test
from nimlite.build.target import BuildTarget
from nimlite.models.registry import read_spec
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Profile

_log = logging.getLogger(__name__)


def prompts_for(spec: ModelSpec, profile: Profile, directory: Path) -> list[list[int]]:
    """What an engine of `spec` is tested with, by the tokenizer in `directory`."""
    max_tokens = min(spec.max_positions, profile.max_model_len)
    return probe_prompts(directory / "tokenizer.json", spec.vocab_size, max_tokens)


def measure(
    engine: Candidate, reference: Logits, prompts: Sequence[Sequence[int]], progress: Progress
) -> Proof:
    """Both on the prompts, and what the engine goes on with; then it is closed. Raises
    SelfTestError where it gives no numbers."""
    try:
        with progress.task("Compare with the reference", sum(map(len, prompts)), "tokens") as task:
            quality = self_test(engine, reference, prompts)
            task.advance(quality.num_tokens)
        with progress.task("Generate token by token", None, ""):
            return Proof(quality=quality, generation=generation_test(engine, prompts))
    finally:
        engine.close()


def prove(
    engine: Candidate,
    reference: Logits,
    prompts: Sequence[Sequence[int]],
    profile: Profile,
    progress: Progress,
) -> Proof:
    """Raises SelfTestError, with the figures, for an engine that is not good enough."""
    proof = measure(engine, reference, prompts, progress)
    _log.info("Self-test of %s: %s.", profile.name, proof)
    require_quality(proof, profile.precision)
    return proof


def measure_again(
    built: EngineDirectory, checkpoint: Checkpoint, progress: Progress, target: BuildTarget
) -> Proof:
    """A built engine against the checkpoint that it was made of.

    Raises SelfTestError where the engine gives no numbers, and ChecksumError for damaged weights.
    """
    config = built.config
    weights = built.weights_on(target.device) if target.keeps_weights else built.weights()
    engine = target.logits(config.spec, weights, built.path, progress)
    reference = Reference(checkpoint, read_spec(checkpoint.config), target.device)
    prompts = prompts_for(config.spec, config.profile, built.path)
    return measure(engine, reference, prompts, progress)
