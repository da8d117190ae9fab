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
    max_num_tokens: int = 0
    """Tokens of a step: what an encoder reads at once."""
    num_decoder_prompt: int = 0
    """Tokens before the outputs of a model whose prompts an encoder reads; 0: it has none."""

    @property
    def max_tokens(self) -> int:
        """Prompt and outputs that one request can have."""
        if self.num_decoder_prompt:
            half = self.num_blocks // 2 * self.block_size
            return min(self.max_model_len, self.max_num_tokens, half)
        return min(self.max_model_len, self.num_blocks * self.block_size)

    def check(self, request: Request) -> None:
        """Raises ContextLengthError for a request that could never run, RequestError for what an
        encoder's prompts don't have."""
        if self.num_decoder_prompt:
            self._check_encoder(request)
            return
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

    def _check_encoder(self, request: Request) -> None:
        """Prompt and outputs have the context to themselves each, and share the pool."""
        num_prompt, max_tokens = len(request.prompt_token_ids), request.params.max_tokens
        if request.params.prompt_logprobs is not None:
            raise RequestError(
                "This model's prompt is read by an encoder, which gives its tokens no"
                " log-probabilities: leave out prompt_logprobs, or echo with logprobs.",
                param="prompt_logprobs",
            )
        if request.pooling is not None:
            raise RequestError(
                "This model writes a text from what its encoder has read, and gives no embeddings:"
                " ask a decoder, or a model for embeddings."
            )
        longest = min(self.max_model_len, self.max_num_tokens)
        if num_prompt > longest:
            why = f"this model's encoder reads up to {longest}"
            if longest < self.max_model_len:
                why += f" in one step (NIM_MAX_NUM_TOKENS; the model allows {self.max_model_len})"
            raise ContextLengthError(
                f"This request's prompt has {num_prompt} tokens, but {why}. Shorten it to {longest}"
                " or fewer.",
                param="prompt",
            )
        room = self.max_model_len - self.num_decoder_prompt
        held = self.num_blocks - -(-num_prompt // self.block_size)
        room_there = held * self.block_size - self.num_decoder_prompt
        if max_tokens <= min(room, room_there):
            return
        holder = (
            f"the decoder's context holds {room}"
            if room <= room_there
            else f"the KV cache of this server holds {max(room_there, 0)} beside its prompt"
            f" ({self.num_blocks} blocks of {self.block_size})"
        )
        raise ContextLengthError(
            f"This request asks for max_tokens={max_tokens}, but {holder}. Lower max_tokens"
            + ("." if room <= room_there else ", or shorten the prompt."),
            param="max_tokens",
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
