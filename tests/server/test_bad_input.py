"""Every mistake of a client gets OpenAI's error object with a sentence that helps."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import MAX_BODY_BYTES

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASK = [{"role": "user", "content": "hi"}]


def error_of(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"temperature": -1}, "temperature", "expected a number of at least 0.0, got -1"),
        ({"temperature": "hot"}, "temperature", "expected a number, got the string 'hot'"),
        ({"temperature": float("nan")}, "temperature", "expected a finite number, got nan"),
        ({"top_p": float("inf")}, "top_p", "expected a finite number, got inf"),
        ({"top_p": 1.5}, "top_p", "at most 1.0, got 1.5"),
        ({"n": 0}, "n", "at least 1, got 0"),
        ({"n": 129}, "n", "at most 128, got 129"),
        ({"n": 1.5}, "n", "expected an integer, got 1.5"),
        ({"n": True}, "n", "expected an integer, got true"),
        ({"stream": "yes"}, "stream", "expected true or false, got the string 'yes'"),
        ({"max_tokens": 0}, "max_tokens", "at least 1, got 0"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "set only one of them"),
        ({"min_tokens": 4, "max_tokens": 3}, "min_tokens", "(4) must not exceed"),
        ({"stop": ["x"] * 17}, "stop", "at most 16 items, got an array of 17"),
        ({"stop": ["x", 3]}, "stop[1]", "expected a string, got 3"),
        ({"stop": ""}, "stop", "at least 1 character(s)"),
        ({"stop": 5}, "stop", "expected a string or an array, got 5"),
        ({"stop": "x" * 1025}, "stop", "at most 1024 characters"),
        ({"stop_token_ids": [320]}, "stop_token_ids", "has the ids 0 to 319"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "Invalid token id in 'logit_bias': -1"),
        ({"logit_bias": {"cat": 1}}, "logit_bias.cat", "expected an integer, got the string 'cat'"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "at most 100"),
        ({"seed": 2**63}, "seed", "expected a number less than 9223372036854775808"),
        ({"top_logprobs": 2}, "top_logprobs", "only with 'logprobs': true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
        ({"stream_options": {}}, "stream_options", "only with 'stream': true"),
        ({"temprature": 1}, "temprature", "Did you mean 'temperature'?"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "Missing required parameter"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "can't be streamed"),
        ({"moderation": {"model": "x"}}, "moderation", "is not supported"),
        ({"functions": [{"name": "f"}]}, "functions", "is not supported"),
        ({"audio": {"voice": "x"}}, "audio", "is not supported"),
        ({"store": True}, "store", "is not supported"),
        ({"model": None}, "model", "expected a string, got null"),
        ({"messages": []}, "messages", "at least 1 item(s), got an array of 0"),
        ({"messages": "hi"}, "messages", "expected an array, got the string 'hi'"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing required parameter"),
        (
            {"messages": [{"role": "robot", "content": ""}]},
            "messages[0].role",
            "'assistant' or 'tool', got the string 'robot'",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content",
            "expected a string or an array, got 5",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "text": ""}]}]},
            "messages[0].content[0].type",
            "expected 'text', got the string 'image_url'",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages",
            "Tools are unknown to this model.",
        ),
        (
            {"messages": [{"role": "user", "content": "a b " * 300}]},
            "messages",
            "maximum context length is 256 tokens",
        ),
        ({"max_tokens": 10**9}, "messages", "and 1000000000 for the output"),
    ],
)
def test_chat(http: httpx.Client, fields: dict[str, Any], param: str, sentence: str) -> None:
    body = json.dumps({"model": "tiny", "messages": ASK} | fields)
    response = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    error = error_of(response)
    assert sentence in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"prompt": []}, "prompt", "at least one token"),
        ({"prompt": [[]]}, "prompt", "at least one token"),
        ({"prompt": [1, "a"]}, "prompt[1]", "expected an integer, got the string 'a'"),
        ({"prompt": None}, "prompt", "expected a string or an array, got null"),
        ({"prompt": [3, 320]}, "prompt", "Invalid token id in 'prompt': 320"),
        ({"prompt": [-1]}, "prompt", "Invalid token id in 'prompt': -1"),
        ({"prompt": [10**30]}, "prompt", "has the ids 0 to 319"),
        ({"prompt": ["a"] * 2049}, "prompt", "may have 2048 prompts"),
        ({"prompt": ["a"] * 100, "n": 100}, "n", "make 10000 sequences"),
        ({"prompt": [5] * 250}, "prompt", "needs 250 for the prompt and 16 for the output"),
        ({"prompt": "x" * 500_000}, "prompt", "the prompt of 500000 characters has at least"),
        ({"max_tokens": 0}, "max_tokens", "together with 'echo': true"),
        ({"best_of": 2, "n": 3}, "best_of", "must not be less than 'n' (3)"),
        ({"best_of": 2, "stream": True}, "best_of", "can't be streamed, for the best are known"),
        (
            {"use_beam_search": True, "best_of": 2, "max_tokens": 0, "echo": True, "stream": True},
            "best_of",
            "can't be streamed, for the best are known",
        ),
        ({"length_penalty": 2.0}, "length_penalty", "only with 'use_beam_search'"),
        ({"use_beam_search": True, "n": 40}, "n", "may have 32 beams"),
        (
            {"use_beam_search": True, "n": 2, "presence_penalty": 1},
            "presence_penalty",
            "has no part in a beam search",
        ),
        (
            {"use_beam_search": True, "n": 2, "guided_regex": "a+"},
            "use_beam_search",
            "can't be combined with a form of the answer",
        ),
        (
            {"echo": True, "logprobs": 1, "prompt_logprobs": 1},
            "prompt_logprobs",
            "come already",
        ),
        ({"suffix": "end"}, "suffix", "is not supported"),
        ({"logprobs": True}, "logprobs", "expected an integer, got true"),
    ],
)
def test_completions(http: httpx.Client, fields: dict[str, Any], param: str, sentence: str) -> None:
    response = http.post(COMPLETIONS, json={"model": "tiny", "prompt": "a"} | fields)
    error = error_of(response)
    assert sentence in error["message"]
    assert error["param"] == param


def test_a_context_error_has_openai_s_code(http: httpx.Client) -> None:
    error = error_of(http.post(COMPLETIONS, json={"model": "tiny", "prompt": [5] * 400}))
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"model": ', "not valid JSON: EOF while parsing"),
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "recursion limit"),
        (b"[1]", "Invalid type for the body: expected an object, got an array of 1"),
        (b"null", "Invalid type for the body: expected an object, got null"),
        (b"{}", "Missing required parameter: 'model'"),
    ],
)
def test_malformed_bodies(http: httpx.Client, content: bytes, sentence: str) -> None:
    response = http.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert sentence in error_of(response)["message"]


def test_a_body_that_is_not_json_by_its_header(http: httpx.Client) -> None:
    error = error_of(http.post(CHAT, data={"model": "tiny"}), 415)
    assert "Content-Type: application/json" in error["message"]


def test_an_unknown_model_is_told_the_served_ones(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"'gpt-9' does not exist.*tiny, org/tiny"):
        client.chat.completions.create(model="gpt-9", messages=ASK)
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-9")
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/v2/nothing", 404, "Unknown path: GET /v2/nothing"),
        ("GET", CHAT, 405, "Allowed: POST"),
        ("DELETE", "/v1/models", 405, "Allowed: GET"),
    ],
)
def test_unknown_paths_and_methods(
    http: httpx.Client, method: str, path: str, status: int, sentence: str
) -> None:
    assert sentence in error_of(http.request(method, path), status)["message"]


def test_a_megabyte_of_stop_strings_is_refused_in_one_sentence(http: httpx.Client) -> None:
    body = {"model": "tiny", "messages": ASK, "stop": ["x" * 900_000]}
    assert len(error_of(http.post(CHAT, json=body))["message"]) < 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large(http: httpx.Client, engine: ScriptedEngine, chunked: bool) -> None:
    block = b" " * 65536
    num_blocks = 100 * MAX_BODY_BYTES // len(block)

    def blocks() -> Iterator[bytes]:
        yield from (block for _ in range(num_blocks))

    headers = {"content-type": "application/json"}
    if not chunked:
        headers["content-length"] = str(num_blocks * len(block))
    error = error_of(http.post(CHAT, content=blocks(), headers=headers), 413)
    assert f"at most {MAX_BODY_BYTES} bytes" in error["message"]
    assert error["code"] == "payload_too_large"
    assert http.get("/v1/health/ready").status_code == 200
