"""One checkpoint, converted: fused, sharded, quantized and named as an engine holds it."""

import json
import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from nimlite.build.calibration import calibration_texts, default_text
from nimlite.build.calibration_file import CalibrationFile
from nimlite.build.checkpoint import Checkpoint
from nimlite.build.convert import convert, convert_on_device
from nimlite.build.converted_dir import (
    ConvertedConfig,
    ConvertedDirectory,
    open_converted,
    seal_converted,
)
from nimlite.build.once import made_once
from nimlite.build.proof import prompts_for
from nimlite.build.quantize import CALIBRATED, is_calibrated, recipe_for
from nimlite.build.recipe import Recipe
from nimlite.build.target import Packing
from nimlite.build.weights_file import weights_name, write_weights
from nimlite.errors import BuildError, ChecksumError, ModelError, SettingError
from nimlite.layers.shard import WHOLE
from nimlite.models.embedding import EmbeddingSpec, Pooling
from nimlite.models.registry import has_head, read_spec, weight_sources
from nimlite.models.spec import ModelSpec
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Profile
from nimlite.store.inventory import CONVERTED_FILE
from nimlite.version import __version__

log = logging.getLogger(__name__)

_CALIBRATION_TOKENS = 6144
_LEAST_CALIBRATION_TOKENS = 1024
"""On fewer, GPTQ is worse than plain rounding (docs/quantization.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversionJob:
    """What to convert, and to what."""

    checkpoint: Checkpoint
    profile: Profile
    model_name: str
    served_name: str
    source: str
    """The artifact's URI or path."""
    calibration: CalibrationFile | None = None
    """None: the text that comes with nimlite."""

    @property
    def calibrated_on(self) -> str | None:
        """sha256 of the user's text, where the precision measures activations."""
        if self.calibration is None or self.profile.precision not in CALIBRATED:
            return None
        return self.calibration.digest


def convert_checkpoint(
    job: ConversionJob, home: Path, progress: Progress, packing: Packing
) -> ConvertedDirectory:
    """The converted checkpoint of `job` in the directory `home`: the one that is there if it is
    whole, or a new one.

    Raises ModelError for a model that can't be converted, SettingError for a calibration text that
    is too short, BuildError for a `home` with something else in it, and ArtifactError for a disk
    that refuses. Nothing half-made is left.
    """

    def make(work: Path, shown: Progress) -> ConvertedDirectory:
        spec = read_spec(job.checkpoint.config)
        config = describe(job, spec, work)
        recipe = make_recipe(job, spec, work, shown, packing)
        if packing.keeps_weights and job.profile.tp * job.profile.pp == 1:
            weights = convert_on_device(job.checkpoint, spec, packing, WHOLE, shown, recipe)
            with shown.task("Write the weights", None, ""):
                write_weights(work / weights_name(0), weights, packing.device)
        else:
            tp, pp = job.profile.tp, job.profile.pp
            convert(job.checkpoint, spec, packing, tp, work, shown, recipe, pp=pp)
        config = replace(config, folded_norms=recipe.folded_norms)
        with shown.task("Seal the checkpoint", None, ""):
            return ConvertedDirectory(work, seal_converted(work, config))

    made = made_once(home, progress, lambda: _existing(job, home), make)
    return replace(made, path=home)


def describe(job: ConversionJob, spec: ModelSpec, work: Path) -> ConvertedConfig:
    """Write all but the weights into `work`, and give what is to be sealed."""
    job.checkpoint.save_tokenizer(work)
    _write_notice(job, work)
    used = {name for source in weight_sources(spec).values() for name in source.names}
    return ConvertedConfig(
        model_name=job.model_name,
        served_name=job.served_name,
        spec=spec,
        profile=job.profile,
        eos_token_ids=_eos_token_ids(job.checkpoint, work),
        embedding=embedding_of(job.checkpoint),
        source=job.source,
        provenance=job.checkpoint.provenance,
        checkpoint_digest=job.checkpoint.digest,
        calibration=job.calibrated_on,
        unused=tuple(sorted(job.checkpoint.names - used)),
    )


def embedding_of(checkpoint: Checkpoint) -> EmbeddingSpec | None:
    """What the checkpoint says of its embeddings, or what an encoder or a model without a head is
    taken for."""
    if (said := checkpoint.embedding) is not None:
        return said
    if not read_spec(checkpoint.config).causal:
        return EmbeddingSpec(pooling=Pooling.MEAN)
    return None if has_head(checkpoint.config) else EmbeddingSpec()


def make_recipe(
    job: ConversionJob, spec: ModelSpec, work: Path, progress: Progress, packing: Packing
) -> Recipe:
    """How the weights are rounded: measured, where the precision asks for it, by the tokenizer in
    `work`. Raises ModelError for a tokenizer of another model, SettingError for too short a text.
    """
    precision = job.profile.precision
    if job.calibration and precision not in CALIBRATED:
        log.warning(
            "%s has no effect: %s measures no activations.", job.calibration.named, precision
        )
    if not job.calibrated_on and not is_calibrated(precision, spec):
        return recipe_for(precision, job.checkpoint, spec, (), packing.device)
    with progress.task("Calibrate", None, ""):
        prompts_for(spec, job.profile, work)  # raises for another model's tokenizer
        text = job.calibration.text if job.calibration else default_text()
        texts = calibration_texts(work / "tokenizer.json", text, _CALIBRATION_TOKENS)
        num_tokens = sum(map(len, texts))
        if job.calibration and num_tokens < _LEAST_CALIBRATION_TOKENS:
            raise SettingError(
                f"{job.calibration.named} has {num_tokens} tokens of this model, and"
                f" {_LEAST_CALIBRATION_TOKENS} are needed (about 5 kB of prose): give a longer"
                " text, or leave it out for the one that comes with nimlite."
            )
        return recipe_for(
            precision,
            job.checkpoint,
            spec,
            texts,
            packing.device,
            static_inputs=job.calibration is not None,
        )


def _existing(job: ConversionJob, home: Path) -> ConvertedDirectory | None:
    """The converted checkpoint in `home` if it is this one and whole."""
    if not home.exists():
        return None
    if not (home / CONVERTED_FILE).exists() and any(home.iterdir()):
        raise BuildError(
            f"{home} holds files that are no converted checkpoint, and they are left alone: choose"
            " another directory, or empty this one."
        )
    try:
        found = open_converted(home)
    except (ChecksumError, ModelError) as error:
        log.warning("%s It is converted now.", error)
        return None
    config = found.config
    is_this_one = (
        config.checkpoint_digest == job.checkpoint.digest
        and config.profile == job.profile
        and config.calibration == job.calibrated_on
        and config.nimlite_version == __version__
    )
    return found if is_this_one else None


def _eos_token_ids(checkpoint: Checkpoint, work: Path) -> tuple[int, ...]:
    """The tokens that end an answer: generation_config.json before config.json, as transformers
    does."""
    found = checkpoint.config.get("eos_token_id")
    file = work / "generation_config.json"
    if file.exists():
        found = json.loads(file.read_text()).get("eos_token_id", found)
    if found is None:
        return ()
    return tuple(found) if isinstance(found, list) else (found,)


def _write_notice(job: ConversionJob, work: Path) -> None:
    """Licences ask that changed copies say so and keep the original's text."""
    names = [file.name for file in job.checkpoint.license_files]
    for file in job.checkpoint.license_files:
        shutil.copyfile(file, work / file.name)
    licence = f"Its licence is in {', '.join(names)}." if names else "Its licence holds."
    (work / "NOTICE.nimlite").write_text(
        f"The weights in this directory are not the original ones.\n\n"
        f"Model: {job.model_name}\n"
        f"Origin: {job.checkpoint.provenance}\n"
        f"Fetched from: {job.source}\n"
        f"Changes: nimlite {__version__} fused the projections and packed the weights as"
        f" {job.profile.precision}.\n"
        f"{licence}\n"
    )
