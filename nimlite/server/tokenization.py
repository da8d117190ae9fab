"""POST /tokenize, /detokenize and …/render: what the model would read, without inference."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from nimlite.errors import RequestError
from nimlite.server.chat import render_chat
from nimlite.server.completions import encode_prompts
from nimlite.server.messages import ChatMessage
from nimlite.server.protocol import ChatCompletionRequest, CompletionRequest, TokenIds
from nimlite.server.sampling import check_token_ids
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.strict import Strict
from nimlite.server.tools import MAX_TOOLS, Tool
from nimlite.server.validation import checked


class TokenizeRequest(Strict):
    """POST /tokenize: a text, or a conversation."""

    model: str | None = None
    """Unset: the one that is served."""
    prompt: str | None = None
    add_special_tokens: bool | None = None
    """Of a text; unset: as completions do it. A chat template writes its own."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _check_one(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("Give either 'prompt' or 'messages'.", param="prompt")
        return self


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: str | None = None
    """Unset: the one that is served."""
    tokens: TokenIds


async def tokenize(state: ServerState, body: TokenizeRequest) -> dict[str, Any]:
    """The token ids, in vLLM's shape."""
    model = _model(state, body.model)
    if body.messages is None:
        assert body.prompt is not None
        [token_ids] = await model.tokenizer.encode(
            [body.prompt],
            max_tokens=model.max_model_len,
            add_special_tokens=body.add_special_tokens is not False,
        )
    else:
        token_ids = (await render_chat(_as_chat(body, state), model)).token_ids
    texts = [model.tokenizer.token_bytes.text(token_id) for token_id in token_ids]
    return {
        "count": len(token_ids),
        "max_model_len": model.max_model_len,
        "tokens": token_ids,
        "token_strs": texts if body.return_token_strs else None,
    }


def detokenize(state: ServerState, body: DetokenizeRequest) -> dict[str, Any]:
    """The text of token ids, special ones included, in vLLM's shape."""
    model = _model(state, body.model)
    check_token_ids(body.tokens, model.vocab_size, param="tokens")
    text = model.tokenizer.token_bytes.decode(body.tokens, skip_special_tokens=False)
    return {"prompt": text}


async def render_conversation(state: ServerState, body: ChatCompletionRequest) -> dict[str, Any]:
    """The prompt that a chat completion of this body would have."""
    model = _model(state, body.model)
    prompt = await render_chat(body, model)
    return _rendered(model, prompt.text, prompt.token_ids)


async def render_prompts(state: ServerState, body: CompletionRequest) -> list[dict[str, Any]]:
    """The prompts that a completion of this body would have."""
    model = _model(state, body.model)
    token_bytes = model.tokenizer.token_bytes
    prompts = await encode_prompts(body, model)
    return [
        _rendered(
            model,
            token_bytes.decode(prompt.token_ids, skip_special_tokens=False),
            prompt.token_ids,
        )
        for prompt in prompts
    ]


def _model(state: ServerState, name: str | None) -> ServedModel:
    if name is not None:
        state.require_name(name)
    return state.require_ready()


def _as_chat(body: TokenizeRequest, state: ServerState) -> ChatCompletionRequest:
    assert body.messages is not None
    fields = {
        "model": body.model or state.config.served_model_names[0],
        "messages": body.messages,
        "tools": body.tools,
        "add_generation_prompt": body.add_generation_prompt,
        "chat_template_kwargs": body.chat_template_kwargs,
    }
    return checked(ChatCompletionRequest, fields)


def _rendered(model: ServedModel, text: str, token_ids: tuple[int, ...]) -> dict[str, Any]:
    return {
        "prompt": text,
        "prompt_token_ids": token_ids,
        "count": len(token_ids),
        "max_model_len": model.max_model_len,
    }
