"""/tokenize, /detokenize and …/render agree with what the engine is given."""

import asyncio
import json
from pathlib import Path

import httpx
import openai
import pytest
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import EOS_ID
from fakes.tiny_tokenizer import save_tokenizer

from nimlite.server.tokenizer import Tokenizer

ASK = [{"role": "user", "content": "Grüße, 2+2?"}]


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_text_there_and_back(http: httpx.Client, prefix: str) -> None:
    asked = {"model": "tiny", "prompt": "Grüße 😀", "return_token_strs": True}
    found = http.post(f"{prefix}/tokenize", json=asked).json()
    assert found["tokens"][0] == 0, "BOS"
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
    assert found["max_model_len"] == 256
    back = http.post(f"{prefix}/detokenize", json={"tokens": found["tokens"]}).json()
    assert back == {"prompt": "<|begin|>Grüße 😀"}
    bare = http.post("/tokenize", json={"prompt": "Grüße 😀", "add_special_tokens": False}).json()
    assert bare["tokens"] == found["tokens"][1:]
    assert bare["token_strs"] is None


def test_a_conversation_as_the_engine_gets_it(
    client: openai.OpenAI, http: httpx.Client, engine: ScriptedEngine
) -> None:
    client.chat.completions.create(model="tiny", messages=ASK)
    body = {"model": "tiny", "messages": ASK}
    rendered = http.post("/v1/chat/completions/render", json=body).json()
    assert tuple(rendered["prompt_token_ids"]) == engine.requests[0].prompt_token_ids
    assert rendered["prompt"] == "<|begin|>user: Grüße, 2+2?\nassistant: "
    assert len(engine.requests) == 1, "nothing is generated"
    tokens = http.post("/tokenize", json=body).json()["tokens"]
    assert tokens == rendered["prompt_token_ids"]
    closed = http.post("/tokenize", json=body | {"add_generation_prompt": False}).json()
    assert closed["tokens"] == tokens[: closed["count"]] and closed["count"] < len(tokens)


def test_prompts_of_completions(
    client: openai.OpenAI, http: httpx.Client, engine: ScriptedEngine
) -> None:
    client.completions.create(model="tiny", prompt=["a", "bc"])
    body = {"model": "tiny", "prompt": ["a", "bc"]}
    rendered = http.post("/v1/completions/render", json=body).json()
    assert [r["prompt"] for r in rendered] == ["<|begin|>a", "<|begin|>bc"]
    expected = [list(request.prompt_token_ids) for request in engine.requests]
    assert [r["prompt_token_ids"] for r in rendered] == expected


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/tokenize", {"model": "tiny"}, "Give either 'prompt' or 'messages'."),
        ("/tokenize", {"prompt": "", "messages": ASK}, "Give either 'prompt' or 'messages'."),
        ("/tokenize", {"model": "x", "prompt": ""}, "The model 'x' does not exist"),
        ("/tokenize", {"prompt": "x" * 500_000}, "maximum context length is 256"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "parameter: 'messages[0].content'"),
        ("/detokenize", {"tokens": [320]}, "Invalid token id in 'tokens': 320"),
        ("/detokenize", {}, "Missing required parameter: 'tokens'"),
    ],
)
def test_mistakes(http: httpx.Client, path: str, body: dict[str, object], sentence: str) -> None:
    response = http.post(path, json=body)
    assert response.status_code in (400, 404)
    assert sentence in response.json()["error"]["message"]


def test_the_end_that_transformers_appends(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"add_eos_token": True}))
    tokenizer = Tokenizer.load(tmp_path)
    [ids, ended] = asyncio.run(tokenizer.encode(["Hello", "Hello<|end|>"], max_tokens=9))
    assert (ids[0], ids[-1]) == (0, EOS_ID)
    assert ended == ids
    assert tokenizer.encode_part("Hello") == ids[1:-1]
