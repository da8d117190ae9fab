"""A rank that dies or hangs ends the engine with a sentence, and leaves nothing behind."""

import os
import signal
from pathlib import Path

import pytest
from fakes.llama import Llama
from fakes.many_models import engine_on, launch

from nimlite.engine.request import SamplingParams
from nimlite.errors import EngineError
from nimlite.kernels.cpu.cpu_kernels import CpuKernels

PROMPTS = [[3 + (7 * i + 5 * j) % 250 for j in range(5 + 11 * i)] for i in range(6)]
PARAMS = SamplingParams(temperature=0.8, seed=3, max_tokens=12, ignore_eos=True)


@pytest.mark.parametrize(
    ("lost_by", "sentence"),
    [
        (signal.SIGKILL, r"Rank 1 was ended by SIGKILL. The other ranks end with it"),
        (signal.SIGSTOP, r"Rank 1 did not answer for 2 s. The other ranks end with it"),
    ],
)
def test_a_lost_rank_ends_the_engine(
    lost_by: signal.Signals, sentence: str, tiny: Llama, kernels: CpuKernels, tmp_path: Path
) -> None:
    team = launch(2, 1, silence_s=2.0)
    try:
        engine = engine_on(team, tiny, kernels.library.path, tmp_path)
        told: list[str] = []
        engine.on_loss(told.append)
        engine.generate(PROMPTS[:1], PARAMS)
        (pid,) = team.pids
        os.kill(pid, lost_by)
        with pytest.raises(EngineError, match=sentence):
            engine.generate(PROMPTS, PARAMS)
        assert told == [team.fault]
        engine.on_loss(told.append)  # who listens late hears it, too
        assert told == [team.fault] * 2
    finally:
        team.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
