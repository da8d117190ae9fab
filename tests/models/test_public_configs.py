"""What the config.json of public checkpoints says, read as their authors meant it: the number of
parameters comes out as it is known."""

import math

import pytest

from nimlite.bench.public_configs import CONFIGS
from nimlite.models.registry import read_spec, weight_sources


@pytest.mark.parametrize("name", CONFIGS)
def test_as_many_parameters_as_are_known(name: str) -> None:
    billions, config = CONFIGS[name]
    spec = read_spec(config)
    assert spec.num_parameters / 1e9 == pytest.approx(billions, rel=0.005)
    matrices = sum(
        math.prod(source.shape)
        for source in weight_sources(spec).values()
        if len(source.shape) == 2
    )
    assert matrices == spec.num_parameters


def test_what_is_easily_misread() -> None:
    specs = {name: read_spec(config) for name, (_, config) in CONFIGS.items()}
    gemma = specs["google/gemma-3-4b-it"]
    assert (gemma.windows[:6], gemma.rope_of(0), gemma.rope_of(5)) == (
        (1024, 1024, 1024, 1024, 1024, 0),
        gemma.local_rope,
        gemma.rope,
    )
    assert weight_sources(gemma)["final_norm"].names == ("language_model.model.norm.weight",)
    assert specs["google/gemma-7b"].activation == "gelu_tanh"
    assert not specs["Qwen/Qwen2.5-7B"].windows
    assert specs["tiiuae/falcon-7b"].block == "parallel_shared"
    assert specs["tiiuae/falcon-40b"].block == "parallel"
    rope = specs["microsoft/phi-2"].rope
    assert rope is not None and rope.dim == 32
    baichuan = specs["baichuan-inc/Baichuan2-13B-Base"]
    assert len(baichuan.alibi_slopes) == 40 and weight_sources(baichuan)["head"].unit_rows
    dbrx = specs["databricks/dbrx-base"].moe
    assert dbrx is not None and dbrx.normalize  # of which its config.json says nothing
