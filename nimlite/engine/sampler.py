"""From logits to tokens.

Each row is sampled by itself with one uniform number that depends only on (seed, position among the
outputs), so a request's text does not depend on what else is in the batch.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch

from nimlite.engine.batch import BatchBuffers
from nimlite.engine.plan import SampledToken
from nimlite.engine.request import Logprob, SamplingParams
from nimlite.engine.token_masks import TokenMask
from nimlite.kernels.base import Counts

_NOT_SAMPLED = SampledToken(-1)
"""Behind a guess that was wrong."""
_CANDIDATES = 256
"""Most likely tokens looked at first for top-p and top-k: sorting the whole vocabulary costs
milliseconds."""

MIN_TEMPERATURE = 1e-5
"""Below it the logits would leave the range of fp32; the choice is the most likely token anyway."""


class SamplingRow(NamedTuple):
    """What the choice of one token depends on, besides its logits."""

    params: SamplingParams
    seed: int
    output_index: int
    token_ids: Sequence[int]
    """The prompt and all outputs so far, for the penalties."""
    num_prompt_tokens: int
    suppressed: Sequence[int] = ()
    """Tokens that may not be chosen yet (the stops, before `min_tokens`)."""
    pending_row: int | None = None
    """Where the last token is still on the device: its row in the output of the step before."""

    guess: int | None = None
    """A drafted token that it stands behind: it counts where the row before chose that one."""
    sequence: object = None
    """Whose it is, for a sampler that remembers what a sequence has seen."""

    @property
    def is_penalized(self) -> bool:
        """Whether the choice depends on the tokens before it."""
        params = self.params
        return bool(
            params.frequency_penalty or params.presence_penalty or params.repetition_penalty != 1
        )

    @property
    def is_adjusted(self) -> bool:
        """Whether anything but temperature and filters stands between its logits and the choice."""
        return bool(self.suppressed or self.params.logit_bias or self.is_penalized)


class Sampler(Protocol):
    """Chooses the tokens of a step, on the device where the logits lie."""

    lookahead: bool
    """Whether the chosen tokens stay on the device for the next step to read."""

    @property
    def tokens_R(self) -> torch.Tensor | None:  # noqa: N802 - a tensor's shape
        """There, if they do."""

    def feed(self, buffers: BatchBuffers, counts: Counts) -> None:
        """Fill in the input tokens that the step before sampled and the host has not seen."""

    def launch(
        self, logits_RV: torch.Tensor, rows: Sequence[SamplingRow], mask: TokenMask | None = None
    ) -> Callable[[], list[SampledToken]]:
        """Choose one token a row, of those that `mask` leaves; the function that is returned waits
        for them."""


class HostSampler:
    """Chooses at once, row by row."""

    lookahead = False
    tokens_R = None

    def feed(self, buffers: BatchBuffers, counts: Counts) -> None:
        """The host knows every token."""

    def launch(
        self, logits_RV: torch.Tensor, rows: Sequence[SamplingRow], mask: TokenMask | None = None
    ) -> Callable[[], list[SampledToken]]:
        tokens = sample(logits_RV, rows, mask)
        return lambda: tokens


def sample(
    logits_RV: torch.Tensor, rows: Sequence[SamplingRow], mask: TokenMask | None = None
) -> list[SampledToken]:
    """Choose one token a row. The logits (fp32) are left as they were."""
    greedy = logits_RV.argmax(dim=-1).tolist()
    allowed = {} if mask is None else dict(zip(mask.rows, mask.bits_GW, strict=True))
    tokens: list[SampledToken] = []
    for i, row in enumerate(rows):
        if row.guess is not None and row.guess != tokens[-1].token_id:
            tokens.append(_NOT_SAMPLED)
            continue
        logits_V = adjust(logits_RV[i], row) if row.is_adjusted else logits_RV[i]
        if i in allowed:
            token_id = _choose_among(logits_V, allowed[i], row)
        elif row.params.temperature > 0 or row.is_adjusted:
            token_id = _choose(logits_V, row)
        else:
            token_id = greedy[i]
        count = row.params.logprobs
        logprob = None if count is None else logprob_of(logits_RV[i], token_id, count)
        tokens.append(SampledToken(token_id, logprob))
    return tokens


def _choose(logits_V: torch.Tensor, row: SamplingRow) -> int:
    if row.params.temperature > 0:
        return _draw(logits_V, row.params, uniform(row.seed, row.output_index))
    return int(logits_V.argmax())


def _choose_among(logits_V: torch.Tensor, bits_W: np.ndarray, row: SamplingRow) -> int:
    """Among the tokens with a bit (as `TokenMask` has them). Where they are few, the others are
    not even looked at."""
    bits_V = np.unpackbits(bits_W.view(np.uint8), count=len(logits_V), bitorder="little")
    is_allowed_V = bits_V.view(np.bool_)
    if np.count_nonzero(is_allowed_V) > len(logits_V) // 4:
        return _choose(logits_V.where(torch.from_numpy(is_allowed_V), -torch.inf), row)
    ids = np.flatnonzero(is_allowed_V)
    return int(ids[_choose(logits_V[torch.from_numpy(ids)], row)])


def uniform(seed: int, output_index: int) -> float:
    """A number in [0, 1) that is a function of its arguments alone."""
    digest = hashlib.blake2b(struct.pack("<qq", seed, output_index), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def logprob_of(logits_V: torch.Tensor, token_id: int, count: int) -> Logprob:
    """The log-probability of `token_id` under the model itself (before temperature and penalties),
    and the `count` best ones."""
    logprobs_V = logits_V.log_softmax(dim=-1)
    chosen = float(logprobs_V[token_id])
    best = torch.topk(logprobs_V, count) if count else None
    top = (
        () if best is None else tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    )
    return Logprob(token_id, chosen, 1 + int((logprobs_V > chosen).sum()), top)


def adjust(logits_V: torch.Tensor, row: SamplingRow) -> torch.Tensor:
    """The logits after penalties, bias and suppression."""
    params = row.params
    logits_V = logits_V.float()
    if params.repetition_penalty != 1:
        # Keskar et al., 2019 (arXiv:1909.05858): tokens seen before, in the prompt too
        is_seen_V = _count(row.token_ids, logits_V) > 0
        penalty = torch.where(
            logits_V > 0, 1 / params.repetition_penalty, params.repetition_penalty
        )
        logits_V = logits_V.where(~is_seen_V, logits_V * penalty)
    if params.frequency_penalty or params.presence_penalty:
        counts_V = _count(row.token_ids[row.num_prompt_tokens :], logits_V)
        logits_V = logits_V - params.frequency_penalty * counts_V
        logits_V = logits_V - params.presence_penalty * (counts_V > 0)
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias))
        biases = torch.tensor(list(params.logit_bias.values()), dtype=logits_V.dtype)
        logits_V = logits_V.index_add(0, ids, biases)
    if row.suppressed:
        ids = torch.tensor(row.suppressed)
        logits_V = logits_V.index_fill(0, ids, -torch.inf)
    return logits_V


def _count(token_ids: Sequence[int], like_V: torch.Tensor) -> torch.Tensor:
    """How often each token of the vocabulary occurs: fp32."""
    ids = torch.tensor(token_ids, dtype=torch.int64)
    return torch.zeros_like(like_V).index_add_(0, ids, torch.ones_like(ids, dtype=like_V.dtype))


def _draw(logits_V: torch.Tensor, params: SamplingParams, u: float) -> int:
    """Temperature, then min-p, then top-k, then top-p, then the inverse of the distribution
    function at `u`."""
    probs_V = (logits_V / max(params.temperature, MIN_TEMPERATURE)).softmax(dim=-1)
    if params.min_p > 0:
        probs_V = probs_V.where(probs_V >= params.min_p * probs_V.max(), 0.0)
    limit = params.top_k if 0 < params.top_k < len(probs_V) else len(probs_V)
    if limit == len(probs_V) and params.top_p >= 1:
        return _invert(probs_V, u)
    total = float(probs_V.sum())
    best = torch.topk(probs_V, min(limit, _CANDIDATES))
    if len(best.values) < limit and float(best.values.sum()) < params.top_p * total:
        best = torch.topk(probs_V, limit)
    values = best.values
    # top-p is a share of what top-k left
    kept = float(values.sum()) if limit < len(probs_V) and len(values) == limit else total
    before = values.cumsum(0) - values
    values = values.where(before < params.top_p * kept, 0.0)
    return int(best.indices[_invert(values, u)])


def _invert(weights_V: torch.Tensor, u: float) -> int:
    """The first index whose cumulated weight exceeds the share `u` of the total."""
    cumulated_V = weights_V.cumsum(0, dtype=torch.float64)
    index = int(torch.searchsorted(cumulated_V, cumulated_V[-1] * u, right=True))
    # u close to 1 can round up to the total: the last token with a weight is meant then
    return min(index, int(torch.searchsorted(cumulated_V, cumulated_V[-1])))
