"""POST /v1/chat/completions."""

from typing import Any

from nimlite.server.answer import Answer, new_id
from nimlite.server.choice import Piece, Prompt
from nimlite.server.generation import Job
from nimlite.server.logprobs import chat_logprobs
from nimlite.server.prompts import build_job, check_context
from nimlite.server.protocol import ChatCompletionRequest
from nimlite.server.sampling import sampling_params
from nimlite.server.state import ServedModel, ServerState
from nimlite.server.token_bytes import TokenBytes


def answer_chat(state: ServerState, body: ChatCompletionRequest) -> Answer:
    """The answer to one conversation; errors are raised when it is sent."""
    answer_id = new_id("chatcmpl")

    async def prepare(model: ServedModel) -> Job:
        token_ids = await model.tokenizer.encode_chat(
            [message.for_template() for message in body.messages], max_tokens=model.max_model_len
        )
        limit = body.max_completion_tokens or body.max_tokens
        check_context(len(token_ids), limit, model.max_model_len, param="messages")
        params = sampling_params(
            body,
            max_tokens=limit or model.max_model_len - len(token_ids),
            vocab_size=model.vocab_size,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        )
        return build_job(body, answer_id, (Prompt(token_ids=token_ids),), params)

    return Answer(
        state,
        body,
        answer_id=answer_id,
        prepare=prepare,
        answer_format=lambda model: ChatFormat(
            model.tokenizer.token_bytes, shows_logprobs=bool(body.logprobs)
        ),
    )


class ChatFormat:
    """Choices of chat completions."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, token_bytes: TokenBytes, *, shows_logprobs: bool) -> None:
        self._token_bytes = token_bytes
        self._shows_logprobs = shows_logprobs

    def opening(self, num_choices: int) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            for index in range(num_choices)
        ]

    def delta(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.choice,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": self._logprobs(piece) if piece.positions else None,
            "finish_reason": piece.finish_reason,
        }

    def choice(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.choice,
            "message": {"role": "assistant", "content": piece.text, "refusal": None},
            "logprobs": self._logprobs(piece),
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        return chat_logprobs(piece.positions, self._token_bytes) if self._shows_logprobs else None
