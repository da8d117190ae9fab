"""From the hidden states of a step to what its chunks add to the embeddings of their texts."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from nimlite.engine.plan import ScheduledChunk
from nimlite.engine.sequence import Sequence as RequestSequence
from nimlite.models.embedding import Pooling

Pooled = dict[RequestSequence, np.ndarray]
"""As `StepOutput.pooled`."""


def pool(chunks: Sequence[ScheduledChunk], x_TD: torch.Tensor) -> Callable[[], Pooled]:
    """Pool the chunks' final hidden states where they lie; the function that is returned waits for
    the result."""
    parts = dict(_parts(chunks, x_TD))
    if not parts:
        return dict
    found_CD = torch.stack(list(parts.values()))
    if found_CD.is_cpu:
        return lambda: dict(zip(parts, found_CD.numpy(), strict=True))
    host_CD = torch.empty(found_CD.shape, pin_memory=True)
    host_CD.copy_(found_CD, non_blocking=True)
    arrived = torch.cuda.current_stream().record_event()

    def wait() -> Pooled:
        arrived.synchronize()
        return dict(zip(parts, host_CD.numpy(), strict=True))

    return wait


def _parts(
    chunks: Sequence[ScheduledChunk], x_TD: torch.Tensor
) -> Iterator[tuple[RequestSequence, torch.Tensor]]:
    """fp32, by whose chunk it is."""
    begin = 0
    for chunk in chunks:
        end = begin + chunk.num_tokens
        sequence = chunk.sequence
        match sequence.pooling:
            case Pooling.MEAN:
                yield sequence, x_TD[begin:end].sum(0, dtype=torch.float32)
            case Pooling.LAST if chunk.start + chunk.num_tokens == sequence.num_prompt_tokens:
                yield sequence, x_TD[end - 1].float()
            case Pooling.CLS if chunk.start == 0:
                yield sequence, x_TD[begin].float()
        begin = end
