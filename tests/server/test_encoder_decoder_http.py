"""Encoder-decoders over HTTP, as the real client sees them, against transformers."""

from collections.abc import Iterator

import openai
import pytest
import torch
from fakes.encoder_decoders import TinyEncoderDecoder, encoder_decoder
from fakes.live_engine import EngineServer
from fakes.live_server import running

from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import Library

NUM_WRITTEN = 32
PROMPTS = [
    "Fourscore and seven years ago our fathers brought forth, on this continent,",
    "a new nation",
    "conceived in liberty, and dedicated to the proposition",
]


@pytest.fixture(scope="module", params=["t5", "t5 1.1", "bart", "bart, scaled"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TinyEncoderDecoder:
    return encoder_decoder(request.param, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(model: TinyEncoderDecoder, library: Library) -> Iterator[openai.OpenAI]:
    engine = model.engine(CpuKernels(library, num_threads=1))
    with (
        running(EngineServer(engine, model.tokenizer_directory)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def test_prompts_of_mixed_lengths_get_transformers_answers(
    model: TinyEncoderDecoder, client: openai.OpenAI
) -> None:
    answer = client.completions.create(
        model="tiny",
        prompt=PROMPTS,
        max_tokens=NUM_WRITTEN,
        temperature=0,
        logprobs=1,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, PROMPTS))
    assert answer.usage.completion_tokens == NUM_WRITTEN * len(PROMPTS)
    for prompt, choice in zip(PROMPTS, answer.choices, strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs == pytest.approx(greedy(model, prompt), abs=1e-4)


def greedy(model: TinyEncoderDecoder, prompt: str) -> list[float]:
    """The log-probabilities of what transformers writes."""
    text, start = list(model.spec.decoder_prompt), len(model.spec.decoder_prompt)
    for _ in range(NUM_WRITTEN):
        text.append(int(model.reference_logits(text, source=prompt.encode())[-1].argmax()))
    log_p_WV = model.reference_logits(text, source=prompt.encode())[start - 1 : -1].log_softmax(1)
    written = torch.tensor(text[start:]).unsqueeze(1)
    return list(map(float, log_p_WV.gather(1, written)))


def test_a_stream_is_the_answer_and_an_equal_prompt_is_read_once(client: openai.OpenAI) -> None:
    params = {"model": "tiny", "prompt": "liberty " * 7, "max_tokens": 9, "temperature": 0}
    once = client.completions.create(**params)
    chunks = list(client.completions.create(**params, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == once.choices[0].text
    again = client.completions.create(**params, n=2)
    assert [choice.text for choice in again.choices] == [once.choices[0].text] * 2
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens >= 56


def test_what_an_encoder_can_t_do_is_refused_by_a_sentence(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no log-probabilities: leave out"):
        client.completions.create(model="tiny", prompt="a", echo=True, logprobs=1)
    with pytest.raises(openai.BadRequestError, match="has 300 tokens, but this model's encoder"):
        client.completions.create(model="tiny", prompt="a" * 300)
    with pytest.raises(openai.BadRequestError, match="asks for max_tokens=256, but the decoder's"):
        client.completions.create(model="tiny", prompt="a", max_tokens=256)
    with pytest.raises(openai.BadRequestError, match="gives no embeddings: ask a decoder"):
        client.embeddings.create(model="tiny", input="a")


def test_a_chat_is_answered_by_the_tokenizer_s_template(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
    )
    assert chat.usage is not None and chat.usage.completion_tokens <= 3
