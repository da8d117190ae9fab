"""Completions as the real client sees them."""

import openai
import pytest
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import REPLY, encode

from nimlite.server.tokenizer import Tokenizer


def test_a_text_gets_bos_and_sixteen_tokens(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    answer = client.completions.create(model="tiny", prompt="Hello")
    [request] = engine.requests
    assert request.prompt_token_ids[0] == 0
    assert request.params.max_tokens == 16
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].text.startswith("Hello from the tiny")


@pytest.mark.parametrize(
    ("prompt", "num_prompts"),
    [(["a", "b"], 2), ([5, 6, 7], 1), ([[5], [6, 7]], 2), ("text", 1)],
)
def test_prompts_of_every_shape_in_their_order(
    client: openai.OpenAI, engine: ScriptedEngine, prompt: object, num_prompts: int
) -> None:
    engine.reply = lambda request: [request.prompt_token_ids[-1]]
    answer = client.completions.create(model="tiny", prompt=prompt, n=2)
    assert [choice.index for choice in answer.choices] == list(range(2 * num_prompts))
    texts = [choice.text for choice in answer.choices]
    assert texts[::2] == texts[1::2]
    assert answer.usage is not None
    lengths = [len(request.prompt_token_ids) for request in engine.requests[::2]]
    assert answer.usage.prompt_tokens == sum(lengths)


def test_token_ids_are_taken_as_they_are(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    client.completions.create(model="tiny", prompt=[5, 6, 319])
    assert engine.requests[0].prompt_token_ids == (5, 6, 319)


@pytest.mark.parametrize("stream", [False, True])
def test_echo_puts_the_prompt_first(client: openai.OpenAI, stream: bool) -> None:
    answer = client.completions.create(
        model="tiny", prompt="say: ", echo=True, max_tokens=100, stream=stream
    )
    chunks = list(answer) if stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "say: " + REPLY


def test_echo_without_output_needs_no_engine(
    client: openai.OpenAI, engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    prompt = list(encode(tokenizer, "Grüße"))
    answer = client.completions.create(model="tiny", prompt=prompt, echo=True, max_tokens=0)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Grüße", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    assert engine.requests == []


def test_scoring_a_prompt_gives_its_logprobs_alone(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    answer = client.completions.create(
        model="tiny", prompt="fox dog", echo=True, max_tokens=0, logprobs=2
    )
    [choice] = answer.choices
    num_prompt = len(engine.requests[0].prompt_token_ids)
    assert choice.text == "fox dog"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["<|begin|>", *choice.logprobs.tokens[1:]]
    assert "".join(choice.logprobs.tokens[1:]) == "fox dog"
    assert choice.logprobs.token_logprobs == [None] + [-0.5] * (num_prompt - 1)
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.text_offset[:2] == [0, 0]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_offsets_of_logprobs_point_into_the_echoed_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny", prompt="the lazy ", echo=True, max_tokens=5, logprobs=0
    )
    [choice] = answer.choices
    assert choice.logprobs is not None
    for token, offset in zip(
        choice.logprobs.tokens[1:], choice.logprobs.text_offset[1:], strict=True
    ):
        assert choice.text[offset:].startswith(token)
    assert choice.logprobs.top_logprobs[-1] == {choice.logprobs.tokens[-1]: -0.5}


def test_usage_grows_in_every_chunk_when_asked(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model="tiny",
        prompt="a",
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    counts = [chunk.usage.completion_tokens for chunk in stream]
    assert counts == sorted(counts)
    assert counts[-1] == 16


def test_min_tokens_delays_stop_strings(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    asked = {"model": "tiny", "prompt": "a", "stop": "e", "max_tokens": 100}
    assert client.completions.create(**asked).choices[0].text == "H"
    later = client.completions.create(**asked, extra_body={"min_tokens": 6}).choices[0].text
    assert later.startswith("Hello")
