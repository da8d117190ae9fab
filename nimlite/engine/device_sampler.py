"""Sampling where the logits lie, without waiting for the device.

The chosen tokens stay there for the next step to read; a pinned copy brings them to the host while
that step computes. The arithmetic is `HostSampler`'s, over all rows at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nimlite.engine.batch import BatchBuffers
from nimlite.engine.plan import SampledToken
from nimlite.engine.request import Logprob
from nimlite.engine.sampler import SamplingRow, adjust, uniform
from nimlite.kernels.base import Counts

_GREEDY = 1e-6
"""Stands in for temperature 0, whose draw is not used."""


class DeviceSampler:
    """Chooses the tokens of a step on `device`."""

    lookahead = True

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._tokens_R = torch.zeros(max_rows, dtype=torch.int32, device=device)
        # Two take turns: the host reads one while the next step's tokens arrive in the other.
        self._hosts = [
            torch.zeros(max_rows, dtype=torch.int32, pin_memory=self._on_gpu) for _ in range(2)
        ]

    def feed(self, buffers: BatchBuffers, counts: Counts) -> None:
        sources_T = buffers.sources_T[: counts.num_tokens]
        token_ids_T = buffers.batch.token_ids_T[: counts.num_tokens]
        sampled_T = self._tokens_R.index_select(0, sources_T.clamp(min=0))
        token_ids_T.copy_(sampled_T.where(sources_T >= 0, token_ids_T))

    def launch(
        self, logits_RV: torch.Tensor, rows: Sequence[SamplingRow]
    ) -> Callable[[], list[SampledToken]]:
        chosen_R = self._choose(logits_RV, rows)
        logprobs = {
            i: DeviceLogprob.of(logits_RV[i], chosen_R[i], row.params.logprobs)
            for i, row in enumerate(rows)
            if row.params.logprobs is not None
        }
        self._tokens_R[: len(rows)] = chosen_R
        self._hosts.reverse()
        host_R = self._hosts[0][: len(rows)]
        host_R.copy_(self._tokens_R[: len(rows)], non_blocking=True)
        arrived = torch.cuda.current_stream().record_event() if self._on_gpu else None

        def wait() -> list[SampledToken]:
            if arrived is not None:
                arrived.synchronize()
            tokens = [SampledToken(token_id) for token_id in host_R.tolist()]
            for i, found in logprobs.items():
                tokens[i] = tokens[i]._replace(logprob=found.on_host(tokens[i].token_id))
            return tokens

        return wait

    def _choose(self, logits_RV: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
        if any(row.is_adjusted for row in rows):
            logits_RV = torch.stack(
                [
                    adjust(logits_V, row, self._pending(row))
                    if row.is_adjusted
                    else logits_V.float()
                    for logits_V, row in zip(logits_RV, rows, strict=True)
                ]
            )
        greedy_R = logits_RV.argmax(dim=-1)
        if all(row.params.temperature == 0 for row in rows):
            return greedy_R
        temperature_R1, drawn_R = self._draw(logits_RV.float(), rows)
        return greedy_R.where(temperature_R1[:, 0] == 0, drawn_R)

    def _pending(self, row: SamplingRow) -> torch.Tensor | None:
        return None if row.pending_row is None else self._tokens_R[row.pending_row].long()

    def _draw(
        self, logits_RV: torch.Tensor, rows: Sequence[SamplingRow]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The temperatures, and a draw for every row (of no meaning where the temperature is 0)."""
        vocab_size = logits_RV.shape[1]
        settings_R5 = torch.tensor(
            [
                (
                    row.params.temperature,
                    row.params.min_p,
                    row.params.top_p,
                    float(row.params.top_k or vocab_size),
                    uniform(row.seed, row.output_index),
                )
                for row in rows
            ],
            pin_memory=self._on_gpu,
        ).to(self._device, non_blocking=True)
        temperature_R1, min_p_R1, top_p_R1, top_k_R1, u_R1 = settings_R5.unsqueeze(-1).unbind(1)
        probs_RV = (logits_RV / temperature_R1.clamp(min=_GREEDY)).softmax(dim=-1)
        probs_RV = probs_RV.where(probs_RV >= min_p_R1 * probs_RV.amax(-1, keepdim=True), 0.0)
        drawn_R = _invert(probs_RV, u_R1)
        if any(row.params.top_k or row.params.top_p < 1 for row in rows):
            limited_R = _draw_limited(probs_RV, top_k_R1, top_p_R1, u_R1)
            is_limited_R1 = (top_k_R1 < vocab_size) | (top_p_R1 < 1)
            drawn_R = limited_R.where(is_limited_R1[:, 0], drawn_R)
        return temperature_R1, drawn_R


def _draw_limited(
    probs_RV: torch.Tensor, top_k_R1: torch.Tensor, top_p_R1: torch.Tensor, u_R1: torch.Tensor
) -> torch.Tensor:
    """Top-k, then top-p as a share of what top-k left, in the order of their probabilities."""
    values_RV, ids_RV = probs_RV.sort(dim=-1, descending=True)
    ranks_V = torch.arange(probs_RV.shape[1], device=probs_RV.device)
    values_RV = values_RV.where(ranks_V < top_k_R1, 0.0)
    before_RV = values_RV.cumsum(-1) - values_RV
    values_RV = values_RV.where(before_RV < top_p_R1 * values_RV.sum(-1, keepdim=True), 0.0)
    return ids_RV.gather(1, _invert(values_RV, u_R1).unsqueeze(1))[:, 0]


def _invert(weights_RV: torch.Tensor, u_R1: torch.Tensor) -> torch.Tensor:
    """Of each row the first index whose cumulated weight exceeds the share u of the total."""
    cumulated_RV = weights_RV.cumsum(-1, dtype=torch.float64)
    totals_R1 = cumulated_RV[:, -1:]
    found_R1 = torch.searchsorted(cumulated_RV, totals_R1 * u_R1, right=True)
    last_R1 = torch.searchsorted(cumulated_RV, totals_R1.contiguous())
    return torch.minimum(found_R1, last_R1)[:, 0]


@dataclass(frozen=True, slots=True)
class DeviceLogprob:
    """What `Logprob` holds, while it is on its way to the host."""

    chosen: torch.Tensor
    rank: torch.Tensor
    top_values: torch.Tensor
    top_ids: torch.Tensor

    @classmethod
    def of(cls, logits_V: torch.Tensor, token_id: torch.Tensor, count: int) -> "DeviceLogprob":
        logprobs_V = logits_V.float().log_softmax(dim=-1)
        chosen = logprobs_V[token_id]
        best = torch.topk(logprobs_V, count)
        return cls(chosen, 1 + (logprobs_V > chosen).sum(), best.values, best.indices)

    def on_host(self, token_id: int) -> Logprob:
        top = tuple(zip(self.top_ids.tolist(), self.top_values.tolist(), strict=True))
        return Logprob(token_id, float(self.chosen), int(self.rank), top)
