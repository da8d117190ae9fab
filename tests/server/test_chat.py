"""Chat completions as the real client sees them."""

import openai
import pytest
from fakes.scripted_engine import ScriptedEngine
from fakes.tiny_model import EOS_ID, MAX_MODEL_LEN, REPLY

from nimlite.server.tokenizer import Tokenizer

ASK = [{"role": "user", "content": "what is 2+2?"}]


def test_whole_answer(client: openai.OpenAI, engine: ScriptedEngine, reply_ids: list[int]) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK)
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", REPLY)
    assert choice.finish_reason == "stop"
    [request] = engine.requests
    num_prompt = len(request.prompt_token_ids)
    assert request.params.max_tokens == MAX_MODEL_LEN - num_prompt
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == num_prompt
    assert answer.usage.completion_tokens == len(reply_ids) + 1
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert answer.id.startswith("chatcmpl-")


def test_stream_begins_with_the_role_and_ends_with_the_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="org/tiny", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].model == "org/tiny"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == REPLY
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == "stop"
    assert set(reasons[:-1]) == {None}
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_samples_have_their_own_seeds_and_share_a_group(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, n=3, seed=2**63 - 2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [request.params.seed for request in engine.requests] == [2**63 - 2, 2**63 - 1, 0]
    assert len({request.group for request in engine.requests}) == 1
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(engine.requests[0].prompt_token_ids)


def test_every_sampling_parameter_reaches_the_engine(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    client.chat.completions.create(
        model="tiny",
        messages=ASK,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=-1,
        frequency_penalty=1.5,
        logit_bias={"7": -100},
        max_completion_tokens=9,
        extra_body={
            "top_k": 5,
            "min_p": 0.1,
            "repetition_penalty": 1.2,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [8],
            "priority": -1,
            "cache_salt": "me",
            "num_speculative_tokens": 3,
        },
    )
    [request] = engine.requests
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.5, 0.9, 5, 0.1)
    assert (params.presence_penalty, params.frequency_penalty) == (-1.0, 1.5)
    assert (params.repetition_penalty, params.logit_bias) == (1.2, {7: -100.0})
    assert (params.max_tokens, params.min_tokens, params.ignore_eos) == (9, 2, True)
    assert params.stop_token_ids == (8,)
    assert (request.priority, request.cache_salt) == (-1, "me")
    assert request.num_speculative_tokens == 3


def test_a_tiny_temperature_and_an_empty_nucleus_are_greedy(
    client: openai.OpenAI, engine: ScriptedEngine
) -> None:
    client.chat.completions.create(model="tiny", messages=ASK, temperature=1e-9, top_p=0)
    params = engine.requests[0].params
    assert (params.temperature, params.top_p, params.top_k) == (0.0, 1.0, 1)


def test_messages_reach_the_template_once_and_with_one_bos(
    client: openai.OpenAI, engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "developer", "content": "be short"},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "b", "refusal": None},
            {"role": "user", "content": [{"type": "text", "text": x} for x in "cd"]},
        ],
    )
    token_ids = engine.requests[0].prompt_token_ids
    assert token_ids[0] == 0
    assert 0 not in token_ids[1:]
    text = b"".join(tokenizer.token_bytes[i] for i in token_ids[1:]).decode()
    assert text == "system: be short\nuser: a\nassistant: b\nuser: c\nd\nassistant: "


def test_logprobs_cover_the_text_and_not_the_end_token(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    spelled = b"".join(bytes(entry.bytes or ()) for entry in logprobs.content)
    assert spelled.decode() == REPLY
    assert all(entry.logprob == -0.5 for entry in logprobs.content)
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs.content)
    pieces = [e.token for e in logprobs.content if e.token.startswith("bytes:")]
    assert pieces, "the reply has characters of more than one token"


def test_streamed_logprobs_equal_those_of_the_whole(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": ASK, "logprobs": True, "stop": ["tiny"]}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    streamed = [
        entry
        for chunk in chunks
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert whole.choices[0].message.content == "Hello from the "
    assert streamed == whole.choices[0].logprobs.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_and_the_sequence(
    client: openai.OpenAI, engine: ScriptedEngine, stream: bool
) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, stop=["never", "model, G"], stream=stream
    )
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (text, reason) == ("Hello from the tiny ", "stop")
    assert engine.aborted == {engine.requests[0].id}


def test_the_stop_string_may_be_kept(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, stop="tiny", extra_body={"include_stop_str_in_output": True}
    )
    assert answer.choices[0].message.content == "Hello from the tiny"


def test_special_tokens_are_shown_when_asked(
    client: openai.OpenAI, engine: ScriptedEngine, reply_ids: list[int]
) -> None:
    engine.reply = lambda request: [*reply_ids[:1], EOS_ID, *reply_ids[1:2], 0]
    shown = client.chat.completions.create(
        model="tiny", messages=ASK, extra_body={"skip_special_tokens": False}
    )
    hidden = client.chat.completions.create(model="tiny", messages=ASK)
    assert "<|end|>" in (shown.choices[0].message.content or "")
    assert "<|" not in (hidden.choices[0].message.content or "")


def test_log_probabilities_of_the_prompt(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    asked = {"prompt_logprobs": 1}
    chat = client.chat.completions.create(model="tiny", messages=ASK, n=2, extra_body=asked)
    token_ids = engine.requests[0].prompt_token_ids
    first, second, *others = chat.prompt_logprobs
    assert first is None and len(others) == len(token_ids) - 2
    assert second[str(token_ids[1])]["logprob"] == -0.5
    assert second[str(token_ids[1])]["rank"] == 1
    completion = client.completions.create(model="tiny", prompt=["ab", "c"], extra_body=asked)
    assert [len(c.prompt_logprobs) for c in completion.choices] == [
        len(request.prompt_token_ids) for request in engine.requests[2:]
    ]


def test_an_answer_may_go_on_with_the_last_message(
    client: openai.OpenAI, engine: ScriptedEngine, tokenizer: Tokenizer
) -> None:
    begun = [*ASK, {"role": "assistant", "content": "It is"}]
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    client.chat.completions.create(model="tiny", messages=begun, extra_body=fields)
    token_ids = engine.requests[0].prompt_token_ids
    text = tokenizer.token_bytes.decode(token_ids, skip_special_tokens=False)
    assert text == "<|begin|>user: what is 2+2?\nassistant: It is"
    with pytest.raises(openai.BadRequestError, match="needs a last message of the role"):
        client.chat.completions.create(model="tiny", messages=ASK, extra_body=fields)


def test_ignored_fields_are_accepted(client: openai.OpenAI) -> None:
    client.chat.completions.create(
        model="tiny",
        messages=ASK,
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        response_format={"type": "text"},
        tools=[],
    )
