"""Ranks as processes over gloo: their tokens are one rank's, whatever is cancelled or preempted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.driving import request
from fakes.families import family_model
from fakes.llama import Llama, random_llama
from fakes.many_models import engine_on, launch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nimlite.engine.engine import Engine
from nimlite.engine.request import FinishReason, Pooling, SamplingParams
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library
from nimlite.parallel.team import Team

ARCHITECTURES = ("llama 3.1", "gpt2", "falcon 7b", "gemma2", "mixtral")
PROMPTS = [[3 + (7 * i + 5 * j) % 250 for j in range(5 + 11 * i)] for i in range(6)]
PARAMS = SamplingParams(temperature=0.8, seed=3, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module", params=[(2, 1), (1, 2), (2, 2)], ids=["tp2", "pp2", "tp2 pp2"])
def team(request: pytest.FixtureRequest) -> Iterator[Team]:
    started = launch(*request.param)
    yield started
    started.close()


def answers(engine: Engine) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in engine.generate(PROMPTS, PARAMS)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tokens_are_those_of_one_rank(
    team: Team, name: str, kernels: CpuKernels, tmp_path: Path
) -> None:
    if len(team.pids) == 3 and name not in ("llama 3.1", "mixtral"):
        return  # four processes on two cores: two of the models do
    model = family_model(name, tmp_path)
    expected = answers(model.engine(kernels))
    limits = {"max_num_tokens": 40, "num_blocks": 24}  # prompts in pieces, and preemptions
    assert answers(engine_on(team, model, kernels.library.path, tmp_path, **limits)) == expected


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def engine(team: Team, llama: Llama, library: Library, tmp_path_factory: pytest.TempPathFactory):
    """With a pool that several requests fill."""
    home = tmp_path_factory.mktemp("small")
    return engine_on(team, llama, library.path, home, num_blocks=9, max_num_tokens=24)


def test_texts_are_embedded_by_all_ranks(
    team: Team, llama: Llama, kernels: CpuKernels, tmp_path: Path
) -> None:
    over_ranks = engine_on(team, llama, kernels.library.path, tmp_path)
    pooling = next(iter(Pooling))
    found = over_ranks.embed(PROMPTS[:3], pooling)
    expected = llama.engine(kernels).embed(PROMPTS[:3], pooling)
    for mine, theirs in zip(found, expected, strict=True):
        assert list(mine) == pytest.approx(list(theirs), abs=1e-3)
    assert answers(over_ranks) == answers(llama.engine(kernels))


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    aborts=st.dictionaries(st.integers(0, 4), st.integers(1, 20), max_size=3),
)
def test_cancels_and_preemptions_change_no_other_answer(
    engine: Engine, llama: Llama, kernels: CpuKernels, lengths: list[int], aborts: dict[int, int]
) -> None:
    """`aborts`: by request, after how many steps."""
    texts = [bytes(65 + (3 * i + j) % 60 for j in range(n)) for i, n in enumerate(lengths)]
    requests = [
        request(str(i), text, max_tokens=10, ignore_eos=True) for i, text in enumerate(texts)
    ]
    for each in requests:
        engine.add(each)
    tokens: dict[str, list[int]] = {each.id: [] for each in requests}
    ended = set()
    step = 0
    while engine.has_work:
        step += 1
        for index, when in aborts.items():
            if when == step:
                engine.abort(str(index))
        for delta in engine.step():
            tokens[delta.request_id] += delta.token_ids
            if delta.finish_reason is FinishReason.LENGTH:
                ended.add(delta.request_id)
    alone = llama.engine(kernels)
    for each in requests:
        if each.id in ended:
            (answer,) = alone.generate([each.prompt_token_ids], each.params)
            assert tuple(tokens[each.id]) == answer.token_ids
        else:
            assert int(each.id) in aborts
