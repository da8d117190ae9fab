"""Sampling where the logits lie, without waiting for the device.

The chosen tokens stay there for the next step to read; a pinned copy brings them to the host while
that step computes. The choice is made by the Triton kernels, for all rows at once.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from nimlite.engine.batch import BatchBuffers
from nimlite.engine.device_logprobs import DeviceLogprobs
from nimlite.engine.plan import SampledToken
from nimlite.engine.sampler import MIN_TEMPERATURE, SamplingRow, uniform
from nimlite.engine.seen_tokens import SeenTokens
from nimlite.engine.token_masks import TokenMask
from nimlite.kernels.base import Counts
from nimlite.kernels.triton.argmax import argmax
from nimlite.kernels.triton.device import Device
from nimlite.kernels.triton.feed import feed
from nimlite.kernels.triton.penalties import Adjustments, adjust, count
from nimlite.kernels.triton.sample import SampleConfig, SamplingInputs, sample
from nimlite.kernels.triton.token_mask import forbid


class DeviceSampler:
    """Chooses the tokens of a step on the device `where`."""

    def __init__(
        self,
        max_rows: int,
        where: torch.device,
        *,
        lookahead: bool = True,
        config: SampleConfig = SampleConfig(),  # noqa: B008 - frozen
    ) -> None:
        """`lookahead`: whether the next step may be launched before the host knows the tokens."""
        self.lookahead = lookahead
        self._config = config
        self._where = where
        self._device = Device.of(where)
        self._on_gpu = where.type == "cuda"
        self.tokens_R = torch.zeros(max_rows, dtype=torch.int32, device=where)
        # Two take turns: the host reads one while the next step's tokens arrive in the other.
        self._hosts = [
            torch.zeros(max_rows, dtype=torch.int32, pin_memory=self._on_gpu) for _ in range(2)
        ]
        self._seen = SeenTokens(where)

    def feed(self, buffers: BatchBuffers, counts: Counts) -> None:
        num_tokens = counts.num_tokens
        token_ids_T = buffers.batch.token_ids_T[:num_tokens]
        feed(self.tokens_R, buffers.sources_T[:num_tokens], token_ids_T, self._device)

    def launch(
        self, logits_RV: torch.Tensor, rows: Sequence[SamplingRow], mask: TokenMask | None = None
    ) -> Callable[[], list[SampledToken]]:
        if not rows:
            return list
        tokens_R = self.tokens_R[: len(rows)]
        adjusted_RV, seen_rows_R = self._adjusted(logits_RV, rows)
        if mask is not None:
            if adjusted_RV is logits_RV:
                adjusted_RV = logits_RV.to(torch.float32, copy=True)
            self._forbid(adjusted_RV, mask)
        if all(row.params.temperature == 0 for row in rows):
            argmax(adjusted_RV, tokens_R, self._device)
        else:
            sample(adjusted_RV, self._inputs(rows), tokens_R, self._device, self._config)
        if seen_rows_R is not None:
            count(tokens_R, self._seen.table_PV, seen_rows_R, self._device)
        logprobs = DeviceLogprobs.of(logits_RV, tokens_R, rows)
        self._hosts.reverse()
        host_R = self._hosts[0][: len(rows)]
        host_R.copy_(tokens_R, non_blocking=True)
        arrived = torch.cuda.current_stream().record_event() if self._on_gpu else None

        def wait() -> list[SampledToken]:
            if arrived is not None:
                arrived.synchronize()
            token_ids = host_R.tolist()
            if logprobs is None:
                return [SampledToken(token_id) for token_id in token_ids]
            found = logprobs.on_host(token_ids)
            return [SampledToken(t, found.get(i)) for i, t in enumerate(token_ids)]

        return wait

    def _adjusted(
        self, logits_RV: torch.Tensor, rows: Sequence[SamplingRow]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The logits after penalties, bias and suppression (a copy where there are any), and the
        row of the table of seen tokens that each row's choice is to be counted in."""
        if not any(row.is_adjusted for row in rows):
            return logits_RV, None
        is_penalized = any(row.is_penalized for row in rows)
        seen_rows = [-1] * len(rows)
        if is_penalized:
            seen_rows = self._seen.update(rows, self.tokens_R, logits_RV.shape[1])
        biases = [_biases(row) for row in rows]
        width = max(1, *(len(bias) for bias in biases))
        ids = np.full((len(rows), width), -1, np.int32)
        values = np.zeros((len(rows), width), np.float32)
        for i, bias in enumerate(biases):
            ids[i, : len(bias)] = list(bias)
            values[i, : len(bias)] = list(bias.values())
        penalties = np.array(
            [
                (p.repetition_penalty, p.presence_penalty, p.frequency_penalty)
                for p in (row.params for row in rows)
            ],
            np.float32,
        )
        seen_rows_R = self._send(np.array(seen_rows, np.int32))
        adjustments = Adjustments(
            self._seen.table_PV,
            seen_rows_R,
            self._send(penalties),
            self._send(ids),
            self._send(values),
        )
        adjusted_RV = logits_RV.to(torch.float32, copy=True)
        adjust(adjusted_RV, adjustments, self._device)
        return adjusted_RV, seen_rows_R if is_penalized else None

    def _forbid(self, logits_RV: torch.Tensor, mask: TokenMask) -> None:
        rows_G = self._send(np.array(mask.rows, np.int32))
        forbid(logits_RV, rows_G, self._send(mask.bits_GW.view(np.int32)), self._device)

    def _inputs(self, rows: Sequence[SamplingRow]) -> SamplingInputs:
        columns = np.empty((5, len(rows)), np.float32)
        top_k = columns[1].view(np.int32)
        for i, row in enumerate(rows):
            p = row.params
            columns[0, i] = max(p.temperature, MIN_TEMPERATURE) if p.temperature else 0.0
            top_k[i] = p.top_k
            columns[2, i] = p.top_p
            columns[3, i] = p.min_p
            columns[4, i] = uniform(row.seed, row.output_index)
        temperature_R, top_k_R, top_p_R, min_p_R, uniform_R = self._send(columns).unbind(0)
        return SamplingInputs(temperature_R, top_k_R.view(torch.int32), top_p_R, min_p_R, uniform_R)

    def _send(self, array: np.ndarray) -> torch.Tensor:
        host = torch.from_numpy(array)
        return host.pin_memory().to(self._where, non_blocking=True) if self._on_gpu else host


def _biases(row: SamplingRow) -> dict[int, float]:
    """Token ids and what is added to their logits."""
    return {**row.params.logit_bias, **dict.fromkeys(row.suppressed, float("-inf"))}
