"""The logits of a whole text, outside of serving: for the self-test and for tests."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from nimlite.kernels.base import Batch, Kernels, KVLayout
from nimlite.layers.model import Model
from nimlite.models.spec import NUM_SOURCE_TOKENS

_TABLE_WIDTH = 16
"""Tables are widened to a multiple of it, as those of most engines are: for a stride with another
divisor a GPU's kernels would be compiled anew."""


class Closes(Protocol):
    """What ends by being told."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An engine's arithmetic over whole texts (a `selftest.Candidate`)."""

    model: Model
    kernels: Kernels
    num_decoded: int = 0
    """Tokens at a text's end that take a step each."""
    team: Closes | None = None
    """The ranks that compute, too."""

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        return (
            prompt_logits(self.model, self.kernels, prompt, num_decoded=self.num_decoded)
            for prompt in prompts
        )

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """The likeliest tokens after the prompt, each in a step of its own; none, of a model that
        sees whole texts alone."""
        if not self.model.spec.causal:
            return []
        text, start = list(prompt), 0
        step = _steps(self.model, self.kernels, len(prompt) + num_tokens, prompt)
        for _ in range(num_tokens):
            logits_TV = step(text, start, len(text))
            start = len(text)
            text.append(int(logits_TV[-1].argmax()))
        return text[len(prompt) :]

    def close(self) -> None:
        if self.team is not None:
            self.team.close()


@torch.inference_mode()
def prompt_logits(
    model: Model, kernels: Kernels, token_ids: Sequence[int], *, num_decoded: int = 0
) -> torch.Tensor:
    """fp32 logits_TV of every position of one text, over a pool of its own.

    They are computed in one step, but for the last `num_decoded` tokens (or all but the first),
    which take a step each, as generated ones do.
    """
    num_tokens = len(token_ids)
    num_prefilled = max(1, num_tokens - num_decoded) if model.spec.causal else num_tokens
    steps = [(0, num_prefilled), *((i, i + 1) for i in range(num_prefilled, num_tokens))]
    step = _steps(model, kernels, num_tokens, token_ids)
    return torch.cat([step(token_ids, start, end) for start, end in steps])


Step = Callable[[Sequence[int], int, int], torch.Tensor]
"""A text, and the bounds of the tokens to compute now: their fp32 logits_TV."""


def _steps(model: Model, kernels: Kernels, max_tokens: int, beginning: Sequence[int]) -> Step:
    """The steps of one text of at most `max_tokens`, over a pool of its own. An encoder has read
    its `beginning` by then."""
    layout = model.layout
    source = beginning[:NUM_SOURCE_TOKENS] if model.spec.encoder else []
    num_own, num_cross = (-(-count // layout.block_size) for count in (max_tokens, len(source)))
    num_blocks = num_own + num_cross
    own = KVLayout(
        num_blocks, layout.block_size, layout.num_kv_heads, layout.head_dim, layout.dtype
    )
    kv = kernels.allocate_kv(model.num_layers, own)
    cross: dict[str, torch.Tensor] = {}
    if source:
        read = _batch(source, (0, len(source)), num_cross, kv.device)
        first = num_own * layout.block_size
        read = replace(
            read,
            slots_T=read.slots_T + first,
            block_tables_SB=read.block_tables_SB + num_own,
            logit_rows_R=read.logit_rows_R[:0],
        )
        model.encode(read, kv, kernels)
        cross = {"cross_lens_S": read.context_lens_S, "cross_tables_SB": read.block_tables_SB}

    def step(token_ids: Sequence[int], start: int, end: int) -> torch.Tensor:
        batch = replace(_batch(token_ids, (start, end), num_own, kv.device), **cross)
        # a recorded or reused buffer may hold a step's logits only until the next one
        return model(batch, kv, kernels).float().clone()

    return step


def _batch(
    token_ids: Sequence[int], step: tuple[int, int], num_blocks: int, device: torch.device
) -> Batch:
    """The tokens from step[0] to step[1] of the only sequence, which has the first blocks."""
    start, end = step

    def ints(values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    positions_T = ints(range(start, end))
    return Batch(
        token_ids_T=ints(token_ids[start:end]),
        positions_T=positions_T,
        slots_T=positions_T.clone(),
        query_starts_S1=ints([0, end - start]),
        context_lens_S=ints([end]),
        block_tables_SB=ints([*range(num_blocks), *[0] * (-num_blocks % _TABLE_WIDTH)])[None],
        logit_rows_R=ints(range(end - start)),
    )
