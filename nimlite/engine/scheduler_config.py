"""What bounds the scheduler."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """The limits of one step and of one request."""

    max_num_seqs: int
    """Sequences that may run at once."""
    max_num_tokens: int
    """Tokens computed in one step, over all sequences."""
    max_model_len: int
    """Prompt and outputs of one request."""
    window: int = 0
    """Tokens that any layer sees, the newest included; 0: all."""
    max_logit_rows: int = 1024
    """Prompt positions whose logits one step may compute, for `prompt_logprobs`."""
    eos_token_ids: frozenset[int] = frozenset()
    num_stages: int = 1  # steps under way together, each with its share of the sequences
    whole_texts: bool = False  # a text is computed in one step, or waits for the next
    decoder_prompt: tuple[int, ...] = ()
    """Where an encoder reads the prompts, whole: what a sequence's own text begins with."""
