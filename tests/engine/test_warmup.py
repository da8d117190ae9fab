"""An engine is warm before it is asked, and nothing of that is left in it."""

import pytest
from fakes.llama import Llama

from nimlite.engine.warmup import warm_up
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.server.startup import Startup


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"max_model_len": 5, "max_batch_size": 1, "max_num_tokens": 4},
        {"max_model_len": 3, "max_batch_size": 2},
        {"num_blocks": 4, "max_batch_size": 3},
    ],
)
def test_it_keeps_to_the_limits_and_leaves_nothing(
    tiny: Llama, kernels: CpuKernels, limits: dict[str, int]
) -> None:
    engine = tiny.engine(kernels, **limits)
    startup = Startup()
    warm_up(engine, startup)
    phase, vocabulary = startup.phases
    assert (vocabulary.title, vocabulary.state) == ("Read the vocabulary for grammars", "done")
    assert (phase.title, phase.state, phase.done) == ("Warm up", "done", phase.total)
    assert not engine.has_work
    assert engine.stats.num_free_blocks == engine.stats.num_blocks
    longest_fits = limits.get("max_model_len", 512) > 3
    assert (engine.stats.num_generated_tokens > 0) == longest_fits
