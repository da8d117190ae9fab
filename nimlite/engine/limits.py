"""What one request may ask of an engine: plain data, so that whoever is far from it can refuse."""

from dataclasses import dataclass

from nimlite.engine.request import Request, SamplingParams
from nimlite.errors import ContextLengthError, RequestError


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """The context and the KV pool; the smaller one decides."""

    max_model_len: int
    num_blocks: int
    block_size: int

    @property
    def max_tokens(self) -> int:
        """Prompt and outputs that one request can have."""
        return min(self.max_model_len, self.num_blocks * self.block_size)

    def check(self, request: Request) -> None:
        """Raises ContextLengthError for a request that could never run."""
        num_prompt, max_tokens = len(request.prompt_token_ids), request.params.max_tokens
        limit = self.max_tokens
        if num_prompt + max_tokens <= limit:
            return
        holder = (
            f"the context of this model holds {limit}"
            if limit == self.max_model_len
            else f"the KV cache of this server holds {limit} ({self.num_blocks} blocks of "
            f"{self.block_size})"
        )
        room = limit - num_prompt
        remedy = (
            f"Lower max_tokens to {room} or less, or shorten the prompt."
            if room > 0
            else f"Shorten the prompt to fewer than {limit} tokens."
        )
        raise ContextLengthError(
            f"This request needs {num_prompt + max_tokens} tokens ({num_prompt} in the prompt and "
            f"{max_tokens} of max_tokens), but {holder}. {remedy}",
            param="max_tokens" if room > 0 else "prompt",
        )


def check_params(params: SamplingParams) -> None:
    """Raises RequestError for what can't be sampled by. The server has checks of its own, by the
    names of its API."""
    rules = (
        ("max_tokens", params.max_tokens >= 1, "at least 1"),
        ("temperature", params.temperature >= 0, "0, for the likeliest token, and more"),
        ("top_p", 0 < params.top_p <= 1, "more than 0, and at most 1"),
        ("top_k", params.top_k >= 0, "0, for no limit, and more"),
    )
    for name, is_right, allowed in rules:
        if not is_right:
            value = getattr(params, name)
            raise RequestError(f"{name}={value} can't be used. Allowed: {allowed}.", param=name)
