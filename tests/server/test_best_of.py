"""The best of several answers over HTTP: beams and samples."""

from collections.abc import Iterator

import httpx
import pytest
from fakes.live_engine import EngineServer
from fakes.live_server import running
from fakes.llama import Llama

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library

PROMPT = {"model": "tiny", "prompt": [5, 6, 7, 8], "max_tokens": 6, "ignore_eos": True}


@pytest.fixture(scope="module")
def http(tiny: Llama, library: Library) -> Iterator[httpx.Client]:
    engine = tiny.engine(CpuKernels(library, num_threads=1))
    with running(EngineServer(engine, tiny.tokenizer_directory)) as server:
        model = httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"]
        PROMPT["model"] = model
        with httpx.Client(base_url=server.url, timeout=60) as client:
            yield client


def completion(http: httpx.Client, **fields: object) -> dict:
    response = http.post("/v1/completions", json=PROMPT | fields)
    assert response.status_code == 200, response.text
    return response.json()


def mean_logprob(choice: dict) -> float:
    logprobs = choice["logprobs"]["token_logprobs"]
    return sum(logprobs) / len(logprobs)


def test_the_likeliest_samples_are_returned(http: httpx.Client) -> None:
    drawn = {"seed": 4, "temperature": 1.0, "logprobs": 0}
    every = completion(http, n=6, **drawn)["choices"]
    best = completion(http, n=2, best_of=6, **drawn)
    expected = sorted(every, key=mean_logprob, reverse=True)[:2]
    assert [c["text"] for c in best["choices"]] == [c["text"] for c in expected]
    assert [c["index"] for c in best["choices"]] == [0, 1]
    assert best["usage"]["completion_tokens"] == 36  # all that were made
    quiet = completion(http, n=2, best_of=6, seed=4, temperature=1.0)["choices"]
    assert [(c["text"], c["logprobs"]) for c in quiet] == [(c["text"], None) for c in expected]


def test_each_prompt_has_its_own_best(http: httpx.Client) -> None:
    prompts = [[5, 6, 7, 8], [9, 10]]
    together = completion(http, prompt=prompts, best_of=4, seed=1)["choices"]
    alone = [completion(http, prompt=p, best_of=4, seed=1)["choices"][0] for p in prompts]
    assert [c["text"] for c in together] == [c["text"] for c in alone]


def test_beams_come_best_first_whole_and_at_the_end_of_a_stream(http: httpx.Client) -> None:
    search = {"use_beam_search": True, "n": 2, "best_of": 4, "length_penalty": 0.5, "logprobs": 1}
    answer = completion(http, **search)
    first, second = answer["choices"]
    totals = [sum(c["logprobs"]["token_logprobs"]) for c in (first, second)]
    assert totals == sorted(totals, reverse=True)
    greedy = completion(http, temperature=0, logprobs=0)["choices"][0]
    assert totals[0] >= sum(greedy["logprobs"]["token_logprobs"]) - 1e-3
    assert answer["usage"]["completion_tokens"] == 12
    texts = {0: "", 1: ""}
    lines = []
    with http.stream("POST", "/v1/completions", json=PROMPT | search | {"stream": True}) as stream:
        lines += [line for line in stream.iter_lines() if line.startswith("data: {")]
    assert len(lines) == 2
    for line in lines:
        [choice] = httpx.Response(200, text=line.removeprefix("data: ")).json()["choices"]
        texts[choice["index"]] += choice["text"]
        assert choice["finish_reason"] == "length"
    assert [texts[0], texts[1]] == [first["text"], second["text"]]


def test_a_chat_has_beams_too(http: httpx.Client) -> None:
    body = {
        "model": PROMPT["model"],
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 5,
        "use_beam_search": True,
        "n": 3,
        "early_stopping": "never",
    }
    choices = http.post("/v1/chat/completions", json=body).json()["choices"]
    assert len({choice["message"]["content"] for choice in choices}) == 3


def test_one_beam_is_greedy(http: httpx.Client) -> None:
    beam = completion(http, use_beam_search=True)["choices"][0]["text"]
    assert beam == completion(http, temperature=0)["choices"][0]["text"]
