"""The plan's engine, in this process or in one of its own.

Apart from `serving.py`, so that the engine's process does not import the HTTP side.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from nimlite import preparation, startup
from nimlite.engine.client import EngineHost
from nimlite.engine.loop import EngineLoop
from nimlite.engine.process import EngineProcess
from nimlite.engine.wire import Prepared
from nimlite.models.embedding import EmbeddingSpec
from nimlite.observe.progress import Progress
from nimlite.profiles.manifest import Device, Profile
from nimlite.startup import Plan
from nimlite.store.cache import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What the HTTP side wants to know of an engine that may be in another process."""

    directory: Path
    profile: Profile
    """As it runs."""
    vocab_size: int
    embedding: EmbeddingSpec | None = None
    """Of a model for embeddings and nothing else."""


def prepare(plan: Plan, store: Store, progress: Progress) -> Prepared:
    """The plan's engine, ready to be asked, and its `EngineFacts`."""
    kernels = startup.prepare_kernels(plan, store, progress)
    directory = preparation.prepare_engine(plan, store, kernels, progress)
    engine = preparation.load_engine(plan, directory, kernels, progress)
    if plan.selection.chosen.profile.device is Device.GPU:
        from nimlite.engine.warmup import warm_up

        warm_up(engine, progress)
    facts = EngineFacts(
        directory=directory.path,
        profile=engine.profile,
        vocab_size=engine.spec.vocab_size,
        embedding=directory.config.embedding,
    )
    return Prepared(engine, facts)


def host_engine(plan: Plan, store: Store, progress: Progress) -> tuple[EngineHost, EngineFacts]:
    """The plan's engine, in a process of its own or in a thread to be."""
    recipe = functools.partial(prepare, plan, store)
    if _has_process(plan):
        process = EngineProcess.launch(recipe, progress, hang_s=plan.settings.engine_timeout)
        return process, process.facts
    prepared = recipe(progress)
    assert isinstance(prepared.facts, EngineFacts)
    return EngineLoop(prepared.engine), prepared.facts


def _has_process(plan: Plan) -> bool:
    """One of several ranks has one, and ends with any other. Where the settings leave it open: a
    step on the CPU leaves the interpreter to others while it computes, and a process more would
    cost memory; a step on a GPU is so short that every moment without the interpreter shows."""
    if plan.selection.chosen.profile.tp * plan.selection.chosen.profile.pp > 1:
        return True
    if plan.settings.engine_process is not None:
        return plan.settings.engine_process
    return plan.selection.chosen.profile.device is Device.GPU
