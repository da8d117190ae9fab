"""POST /v1/messages and /v1/messages/count_tokens."""

import uuid
from typing import Any

from nimlite.server.answer import Answer
from nimlite.server.anthropic.body import CountTokensRequest, MessagesRequest
from nimlite.server.anthropic.encoder import MessageEncoder
from nimlite.server.anthropic.to_chat import to_chat
from nimlite.server.chat import chat_job, render_chat
from nimlite.server.state import ServerState


def answer_messages(state: ServerState, body: MessagesRequest) -> Answer:
    """The answer to one conversation; errors are raised when it is sent."""
    chat = to_chat(body)
    message_id = f"msg_{uuid.uuid4().hex}"
    return Answer(
        state,
        model_name=body.model,
        stream=bool(body.stream),
        # Every body must have a limit, and Anthropic lets it be larger than what fits.
        prepare=lambda model: chat_job(chat, message_id, model, cuts_limit=True),
        encoder=lambda model: MessageEncoder(body, message_id),
    )


async def count_tokens(state: ServerState, body: CountTokensRequest) -> dict[str, Any]:
    """Tokens of the prompt that such a message would have."""
    state.require_name(body.model)
    prompt = await render_chat(to_chat(body), state.require_ready())
    return {"input_tokens": len(prompt.token_ids)}
