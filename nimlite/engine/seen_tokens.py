"""What the penalties need: the tokens that each penalized sequence has seen, on the device."""

from collections.abc import Sequence

import torch

from nimlite.engine.sampler import SamplingRow
from nimlite.kernels.triton.penalties import IN_PROMPT


class SeenTokens:
    """A table with one row of the vocabulary a sequence, kept up to date by the sampler's `count`.

    A sequence keeps its row for as long as each step samples for it; one that comes back later (it
    was preempted) is written anew from the tokens that the host knows.
    """

    def __init__(self, where: torch.device) -> None:
        self.table_PV = torch.zeros((0, 0), dtype=torch.int16, device=where)
        """int16, as the kernels of penalties.py read it."""
        self._places: dict[object, tuple[int, int]] = {}
        """By sequence: its row, and how many of its outputs are counted there."""

    def update(
        self, rows: Sequence[SamplingRow], tokens_R: torch.Tensor, vocab_size: int
    ) -> list[int]:
        """The table's row for each sampling row, -1 without penalties, holding all tokens before
        the one to be sampled. `tokens_R`: what the step before sampled."""
        wanted = {i: row for i, row in enumerate(rows) if row.is_penalized}
        current = {
            row.sequence: self._places[row.sequence][0]
            for row in wanted.values()
            if self._places.get(row.sequence, (0, -1))[1] == row.output_index
        }
        self._grow(len(wanted), vocab_size)
        taken = set(current.values())
        free = (place for place in range(len(self.table_PV)) if place not in taken)
        places = [-1] * len(rows)
        for i, row in wanted.items():
            if row.sequence in current:
                places[i] = current[row.sequence]
            else:
                places[i] = next(free)
                self._write(places[i], row, tokens_R)
        self._places = {
            row.sequence: (places[i], row.output_index + 1)
            for i, row in wanted.items()
            if row.sequence is not None
        }
        return places

    def _grow(self, num_rows: int, vocab_size: int) -> None:
        """Doubling, so that it happens seldom."""
        if num_rows > len(self.table_PV):
            size = 1 << (num_rows - 1).bit_length()
            table_PV = self.table_PV.new_zeros((size, vocab_size))
            if len(self.table_PV):
                table_PV[: len(self.table_PV)] = self.table_PV
            self.table_PV = table_PV

    def _write(self, place: int, row: SamplingRow, tokens_R: torch.Tensor) -> None:
        counts_V = self.table_PV[place].zero_()
        prompt = torch.tensor(row.token_ids[: row.num_prompt_tokens])
        counts_V.index_fill_(0, prompt.to(counts_V.device), IN_PROMPT)
        outputs = torch.tensor(row.token_ids[row.num_prompt_tokens :], dtype=torch.int64)
        outputs = outputs.to(counts_V.device)
        if row.pending_row is not None:
            outputs = torch.cat([outputs, tokens_R[row.pending_row : row.pending_row + 1].long()])
        counts_V.index_add_(0, outputs, torch.ones_like(outputs, dtype=torch.int16))
