"""POST /v1/chat/completions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from nimlite.engine.request import FinishReason, Grammar, Thoughts
from nimlite.errors import RequestError
from nimlite.server.answer import Answer, new_id
from nimlite.server.choice import Piece, Prompt
from nimlite.server.chunks import ChunkEncoder
from nimlite.server.conversation import Conversation, RenderedPrompt
from nimlite.server.dialect import Dialect
from nimlite.server.forced_calls import calls_grammar
from nimlite.server.generation import Job
from nimlite.server.logprobs import chat_logprobs, prompt_logprobs
from nimlite.server.output_parser import OutputParser
from nimlite.server.prompts import build_job, check_context
from nimlite.server.protocol import ChatCompletionRequest
from nimlite.server.sampling import sampling_params
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.structured import grammar_of
from nimlite.server.thinking_budget import ThinkingBudget
from nimlite.server.token_bytes import TokenBytes
from nimlite.server.tokenizer import Tokenizer
from nimlite.server.tool_calls import CallDelta
from nimlite.server.tools import NamedTool, is_forced, offered_tools


def answer_chat(state: ServerState, body: ChatCompletionRequest) -> Answer:
    """The answer to one conversation; errors are raised when it is sent."""
    answer_id = new_id("chatcmpl")

    async def prepare(model: ServedModel) -> Job:
        return await chat_job(body, answer_id, model)

    return Answer(
        state,
        model_name=body.model,
        stream=bool(body.stream),
        prepare=prepare,
        encoder=lambda model: ChunkEncoder(
            body,
            answer_id,
            ChatFormat(
                model.tokenizer.token_bytes,
                shows_logprobs=bool(body.logprobs),
                shows_thoughts=body.include_reasoning is not False,
            ),
        ),
    )


async def chat_job(
    body: ChatCompletionRequest, answer_id: str, model: ServedModel, *, cuts_limit: bool = False
) -> Job:
    """The conversation as the engine's request, and how its answer is to be read.

    `cuts_limit`: a limit of tokens that doesn't fit into the context is lowered, not refused.
    """
    prompt = await render_chat(body, model)
    num_tokens = len(prompt.token_ids)
    limit = body.max_completion_tokens or body.max_tokens
    if cuts_limit and limit is not None:
        limit = max(1, min(limit, model.max_model_len - num_tokens))
    check_context(num_tokens, limit, model.max_model_len, param="messages")
    params = sampling_params(
        body,
        max_tokens=limit or model.max_model_len - num_tokens,
        vocab_size=model.vocab_size,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
    )

    return build_job(
        body,
        answer_id,
        (Prompt(token_ids=prompt.token_ids),),
        params,
        new_parser=lambda: _output_parser(body, prompt, model.tokenizer.dialect),
        shown_ids=frozenset(model.tokenizer.special_marks.values()),
        thinking_budget=_thinking_budget(body, model.tokenizer),
        grammar=_grammar(body, prompt, model.tokenizer),
    )


def _output_parser(
    body: ChatCompletionRequest, prompt: RenderedPrompt, dialect: Dialect
) -> OutputParser | None:
    tools = offered_tools(body.tools, body.tool_choice)
    schemas = {tool.function.name: tool.function.parameters or {} for tool in tools}
    if grammar_of(body) is not None:
        schemas = {}  # what has a form is no call
    max_calls = 1 if body.parallel_tool_calls is False else None
    return dialect.output_parser(prompt.text, schemas, max_calls=max_calls)


def _thinking_budget(body: ChatCompletionRequest, tokenizer: Tokenizer) -> ThinkingBudget | None:
    reasoning = tokenizer.dialect.reasoning
    if body.thinking_budget is None or reasoning is None:
        return None
    end_ids = tokenizer.encode_part(f"\n{reasoning.end}\n\n")
    return ThinkingBudget(num_tokens=body.thinking_budget, end_ids=end_ids)


def _grammar(
    body: ChatCompletionRequest, prompt: RenderedPrompt, tokenizer: Tokenizer
) -> Grammar | None:
    """What the answer must be; the model may think before it."""
    form, reasoning = _form(body, tokenizer), tokenizer.dialect.reasoning
    if form is None or reasoning is None or prompt.text.rstrip().endswith(reasoning.end):
        return form
    is_open = reasoning.is_open(prompt.text)
    thoughts = Thoughts(begin=reasoning.begin, end=reasoning.end, is_open=is_open)
    return dataclasses.replace(form, thoughts=thoughts)


def _form(body: ChatCompletionRequest, tokenizer: Tokenizer) -> Grammar | None:
    """A call, or what the body says. Raises RequestError where it must be both."""
    form = grammar_of(body)
    if not is_forced(body.tool_choice):
        return form
    if form is not None:
        raise RequestError(
            f"'tool_choice' asks for a call and '{form.param}' for another form: leave one.",
            param="tool_choice",
        )
    return calls_grammar(
        tokenizer.dialect.tools.form,
        [tool.function for tool in offered_tools(body.tools, body.tool_choice)],
        tokenizer.special_marks,
        is_single=body.parallel_tool_calls is False or isinstance(body.tool_choice, NamedTool),
    )


async def render_chat(body: ChatCompletionRequest, model: ServedModel) -> RenderedPrompt:
    """The conversation as the model will read it. Raises RequestError."""
    return await model.tokenizer.encode_chat(_conversation(body), max_tokens=model.max_model_len)


def _conversation(body: ChatCompletionRequest) -> Conversation:
    tools = offered_tools(body.tools, body.tool_choice)
    template_kwargs: dict[str, Any] = {}
    if body.add_generation_prompt is not None:
        template_kwargs["add_generation_prompt"] = body.add_generation_prompt
    if body.reasoning_effort is not None:
        template_kwargs["reasoning_effort"] = body.reasoning_effort
        template_kwargs["enable_thinking"] = body.reasoning_effort != "none"
    return Conversation(
        messages=tuple(message.for_template() for message in body.messages),
        tools=tuple(tool.for_template() for tool in tools),
        template_kwargs=template_kwargs | (body.chat_template_kwargs or {}),
        continues_last=bool(body.continue_final_message),
    )


class ChatFormat:
    """Choices of chat completions."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(
        self, token_bytes: TokenBytes, *, shows_logprobs: bool, shows_thoughts: bool
    ) -> None:
        self._token_bytes = token_bytes
        self._shows_logprobs = shows_logprobs
        self._shows_thoughts = shows_thoughts

    def fields(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """All choices have one prompt."""
        found = pieces[0].prompt_logprobs
        return {"prompt_logprobs": prompt_logprobs(found, self._token_bytes)} if found else {}

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            for index in range(num_choices)
        ]

    def delta(self, piece: Piece) -> dict[str, Any]:
        delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
        if piece.thoughts and self._shows_thoughts:
            delta["reasoning_content"] = piece.thoughts
        if piece.calls:
            delta["tool_calls"] = [_call_delta(call) for call in piece.calls]
        return {
            "index": piece.choice,
            "delta": delta,
            "logprobs": self._logprobs(piece) if piece.positions else None,
            "finish_reason": _finish_reason(piece) if piece.finish_reason else None,
        }

    def choice(self, piece: Piece) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": piece.text, "refusal": None}
        if piece.thoughts and self._shows_thoughts:
            message["reasoning_content"] = piece.thoughts
        if piece.calls:
            message["content"] = piece.text or None
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in piece.calls
            ]
        return {
            "index": piece.choice,
            "message": message,
            "logprobs": self._logprobs(piece),
            "finish_reason": _finish_reason(piece),
        }

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        return chat_logprobs(piece.positions, self._token_bytes) if self._shows_logprobs else None


def _call_delta(call: CallDelta) -> dict[str, Any]:
    function = {"arguments": call.arguments}
    if not call.id:
        return {"index": call.number, "function": function}
    begun = {"index": call.number, "id": call.id, "type": "function"}
    return begun | {"function": {"name": call.name, **function}}


def _finish_reason(piece: Piece) -> str | None:
    if piece.num_calls and piece.finish_reason is FinishReason.STOP:
        return "tool_calls"
    return piece.finish_reason
