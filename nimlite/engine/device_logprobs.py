"""Log-probabilities of chosen tokens, computed on the device and read when they are wanted."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nimlite.engine.request import Logprob
from nimlite.engine.sampler import SamplingRow


@dataclass(frozen=True, slots=True)
class DeviceLogprobs:
    """What `Logprob` holds for some rows of a step, while it is on its way to the host."""

    counts: dict[int, int]
    """By row of the step: how many of the likeliest tokens it asked for."""
    packed: torch.Tensor
    """fp64 [rows, 2 + 2 k]: log-probability and rank of the chosen token, then the k likeliest
    tokens' log-probabilities and their ids. On the host once the step's event has passed."""

    @classmethod
    def of(
        cls, logits_RV: torch.Tensor, tokens_R: torch.Tensor, rows: Sequence[SamplingRow]
    ) -> "DeviceLogprobs | None":
        """None where no row asks for any."""
        counts = {
            i: row.params.logprobs for i, row in enumerate(rows) if row.params.logprobs is not None
        }
        if not counts:
            return None
        wanted = torch.tensor(list(counts)).to(logits_RV.device, non_blocking=True)
        logprobs_LV = logits_RV[wanted].float().log_softmax(dim=-1)
        chosen_L1 = logprobs_LV.gather(1, tokens_R[wanted].long().unsqueeze(1))
        ranks_L1 = 1 + (logprobs_LV > chosen_L1).sum(1, keepdim=True)
        best = logprobs_LV.topk(max(counts.values()), dim=1)
        parts = (chosen_L1, ranks_L1, best.values, best.indices)
        packed = torch.cat([part.double() for part in parts], dim=1)
        on_gpu = packed.device.type == "cuda"
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=on_gpu)
        host.copy_(packed, non_blocking=True)
        return cls(counts, host)

    def on_host(self, token_ids: Sequence[int]) -> dict[int, Logprob]:
        """By row of the step. `token_ids`: what each row of the step chose."""
        k = max(self.counts.values())
        found = {}
        for (i, count), values in zip(self.counts.items(), self.packed.tolist(), strict=True):
            ids = [int(token_id) for token_id in values[2 + k : 2 + k + count]]
            top = tuple(zip(ids, values[2 : 2 + count], strict=True))
            found[i] = Logprob(token_ids[i], values[0], int(values[1]), top)
        return found
