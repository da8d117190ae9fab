"""Embeddings as the real client sees them: of a scripted engine, and of a real one."""

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import torch
from fakes.live_engine import EngineServer
from fakes.live_server import LiveServer, live_server, running
from fakes.llama import Llama, random_llama
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import EOS_ID, make_config, make_model

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library
from nimlite.models.embedding import EmbeddingSpec, Pooling
from nimlite.server.state import ServerState
from nimlite.server.tokenizer import Tokenizer

SPEC = EmbeddingSpec(
    pooling=Pooling.MEAN, max_tokens=8, prompts={"query": "user ", "clustering": "tool "}
)


@pytest.fixture(scope="module")
def embedder(tokenizer: Tokenizer) -> Iterator[tuple[LiveServer, ScriptedEngine]]:
    """A model for embeddings and nothing else."""
    engine = ScriptedEngine(lambda request: [EOS_ID], eos_id=EOS_ID)
    state = ServerState(make_config())
    state.set_ready(replace(make_model(engine, tokenizer), embedding=SPEC, generates=False))
    with live_server(state) as server:
        yield server, engine


@pytest.fixture
def scripted(embedder: tuple[LiveServer, ScriptedEngine]) -> ScriptedEngine:
    embedder[1].reset()
    return embedder[1]


@pytest.fixture
def embed(
    embedder: tuple[LiveServer, ScriptedEngine], scripted: ScriptedEngine
) -> Iterator[openai.OpenAI]:
    url = f"{embedder[0].url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    ("given", "count"), [("Hello", 1), (["a", "b"], 2), ([5, 6, 7], 1), ([[5], [6, 7]], 2)]
)
def test_inputs_of_every_shape_in_their_order(
    embed: openai.OpenAI, scripted: ScriptedEngine, given: object, count: int
) -> None:
    answer = embed.embeddings.create(model="tiny", input=given)
    assert [each.index for each in answer.data] == list(range(count))
    prompts = [request.prompt_token_ids for request in scripted.requests]
    for each, prompt in zip(answer.data, prompts, strict=True):
        assert np.linalg.norm(each.embedding) == pytest.approx(1)
        assert each.embedding[1] / each.embedding[0] == pytest.approx(prompt[-1] / len(prompt))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, prompts))
    assert {request.pooling for request in scripted.requests} == {Pooling.MEAN}
    assert answer.model == "tiny"


def test_numbers_as_json_and_as_bytes(embed: openai.OpenAI) -> None:
    ask = {"model": "tiny", "input": [5, 6, 7]}
    as_json = embed.embeddings.create(**ask, encoding_format="float").data[0].embedding
    as_bytes = embed.embeddings.create(**ask, encoding_format="base64").data[0].embedding
    decoded = np.frombuffer(base64.b64decode(str(as_bytes)), "<f4")
    assert decoded.tolist() == as_json == pytest.approx([3 / 58**0.5, 7 / 58**0.5, 0, 0])


def test_fewer_dimensions_are_as_long(embed: openai.OpenAI) -> None:
    answer = embed.embeddings.create(model="tiny", input=[5, 6, 7], dimensions=1, user="me")
    assert answer.data[0].embedding == [1]


def test_prompts_by_their_names_and_by_nims(
    embed: openai.OpenAI, scripted: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    for kind in ("query", "passage", "clustering"):
        embed.embeddings.create(model="tiny", input="the", extra_body={"input_type": kind})
    texts = [
        tokenizer.token_bytes.decode(list(request.prompt_token_ids), skip_special_tokens=True)
        for request in scripted.requests
    ]
    assert texts == ["user the", "the", "tool the"]


def test_a_long_text_is_cut_where_it_is_asked_for(
    embed: openai.OpenAI, scripted: ScriptedEngine
) -> None:
    long = [0, *range(10, 30)]  # begins with BOS
    for side in ("START", "END"):
        embed.embeddings.create(model="tiny", input=long, extra_body={"truncate": side})
    text = "one two three four five six seven eight nine ten"
    embed.embeddings.create(model="tiny", input=text, extra_body={"truncate": "END"})
    cut = [request.prompt_token_ids for request in scripted.requests]
    assert cut[:2] == [(0, *range(23, 30)), (0, *range(10, 17))]
    assert len(cut[2]) == 8


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": ""}, "input", "'input' must not be empty"),
        ({"input": []}, "input", "'input' must not be empty"),
        ({"input": ["a", ""]}, "input", "and no text in it"),
        ({"input": [[5], []]}, "input", "and no text in it"),
        ({"input": None}, "input", "'input'"),
        ({}, "input", "Missing required parameter: 'input'"),
        ({"input": ["a"] * 2049}, "input", "has 2049 texts; one request may have 2048"),
        ({"input": [[5], [5] * 9]}, "input", r"at most 8 tokens, and input\[1\] has 9"),
        ({"input": "Hello " * 500}, "input", "maximum context length is 8 tokens"),
        ({"input": [5, 320]}, "input", "Invalid token id in 'input': 320"),
        ({"input": "a", "dimensions": 5}, "dimensions", "this model's embeddings have 4"),
        ({"input": "a", "dimensions": 0}, "dimensions", "at least 1"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "truncate": "MIDDLE"}, "truncate", "'NONE', 'START' or 'END'"),
        (
            {"input": "a", "input_type": "title"},
            "input_type",
            "'title' is not known to this model; known are clustering, passage, query",
        ),
        ({"input": [5], "input_type": "query"}, "input_type", "and 'input' has token ids"),
        ({"input": "a", "dimension": 3}, "dimension", "Did you mean 'dimensions'?"),
        ({"input": "a", "model": "gpt-5"}, "model", "'gpt-5' does not exist"),
    ],
)
def test_what_is_refused(
    embedder: tuple[LiveServer, ScriptedEngine],
    scripted: ScriptedEngine,
    body: dict[str, object],
    param: str,
    message: str,
) -> None:
    answer = httpx.post(f"{embedder[0].url}/v1/embeddings", json={"model": "tiny"} | body)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert error["param"] == param
    assert re.search(message, error["message"]), error["message"]


def test_a_model_for_embeddings_writes_nothing(embed: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    calls = (
        lambda: embed.chat.completions.create(model="tiny", messages=messages),
        lambda: embed.completions.create(model="tiny", prompt="Hi"),
        lambda: embed.responses.create(model="tiny", input="Hi"),
    )
    for call in calls:
        with pytest.raises(openai.BadRequestError, match="writes no text: use /v1/embeddings"):
            call()


def test_an_engine_that_fails(embed: openai.OpenAI, scripted: ScriptedEngine) -> None:
    scripted.failure = "The engine stopped: out of luck"
    with pytest.raises(openai.InternalServerError, match="out of luck"):
        embed.embeddings.create(model="tiny", input="a")


def test_a_client_that_goes_away_ends_its_request(
    embedder: tuple[LiveServer, ScriptedEngine], scripted: ScriptedEngine
) -> None:
    scripted.hold()
    body = {"model": "tiny", "input": ["a", "b"]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{embedder[0].url}/v1/embeddings", json=body, timeout=0.2)
    assert scripted.on_abort.wait(30)
    scripted.release()


def test_the_metrics_count_them(
    embed: openai.OpenAI, embedder: tuple[LiveServer, ScriptedEngine]
) -> None:
    def counts() -> tuple[float, float]:
        text = httpx.get(f"{embedder[0].url}/v1/metrics").text
        rows = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")
        stop = rows.get('request_finish_total{finished_reason="stop",model_name="tiny"}', 0)
        return float(stop), float(rows['request_success_total{model_name="tiny"}'])

    before = counts()
    embed.embeddings.create(model="tiny", input=["a", "b"])
    assert counts() == (before[0] + 2, before[1] + 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    return random_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def generating(model: Llama, library: Library) -> Iterator[str]:
    engine = model.engine(CpuKernels(library, num_threads=1))
    with running(EngineServer(engine, Path(model.tokenizer_directory))) as server:
        yield f"{server.url}/v1"


def test_a_model_that_writes_embeds_by_its_last_token(model: Llama, generating: str) -> None:
    texts = ["Hello", "a longer text than that"]
    with openai.OpenAI(base_url=generating, api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="tiny", input=texts)
        assert client.completions.create(model="tiny", prompt="Hi", max_tokens=2).choices
    for text, each in zip(texts, answer.data, strict=True):
        x_TD = model.reference.model(torch.tensor([list(text.encode())])).last_hidden_state[0]
        wanted_D = torch.nn.functional.normalize(x_TD[-1], dim=0)
        found_D = torch.tensor(each.embedding)
        torch.testing.assert_close(found_D, wanted_D, atol=1e-4, rtol=0)
