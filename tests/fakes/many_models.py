"""Ranks that are given one model after the other: starting their processes takes seconds."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
from fakes.llama import Llama
from fakes.rank_process import LOAD, ManyModels

from nimlite.build.convert import convert
from nimlite.build.weights_file import load_weights
from nimlite.engine.engine import Engine
from nimlite.observe.progress import SILENT
from nimlite.parallel.cpu import CpuPart
from nimlite.parallel.team import Team


def launch(tp: int, pp: int, silence_s: float = 60.0) -> Team:
    return Team.launch(ManyModels, tp=tp, pp=pp, silence_s=silence_s)


def engine_on(
    team: Team, model: Llama, library: Path | None, directory: Path, **limits: int
) -> Engine:
    """The model over the ranks of `team`; `limits`: of its profile."""
    shard = team.ranks.shard
    tp, pp = shard.world, shard.stages
    home = directory / f"ranks-{tp}-{pp}-{len(list(directory.iterdir()))}"
    home.mkdir()
    convert(model.checkpoint, model.spec, model.target(), tp, home, SILENT, pp=pp)
    profile = replace(model.profile(**limits), tp=tp, pp=pp)
    part = CpuPart(spec=model.spec, profile=profile, directory=home, library=library, num_threads=1)
    (home / "part").write_bytes(pickle.dumps(part))
    team.send(LOAD, np.frombuffer(str(home / "part").encode(), np.uint8))
    return Engine(
        spec=model.spec,
        weights=load_weights(home),
        profile=profile,
        kernels=part.kernels(team.ranks),
        eos_token_ids=model.eos_token_ids,
        shard=shard,
        team=team,
    )
