"""Guessed tokens in the plan of a step: rows and blocks for them, and their way back."""

from collections.abc import Sequence as Sequences

from nimlite.engine.block_pool import BlockPool
from nimlite.engine.sequence import Sequence
from nimlite.engine.speculation import Speculator


class Drafting:
    """Takes from a step and from the pool only what nobody else could use."""

    def __init__(self, pool: BlockPool, speculator: Speculator | None, max_rows: int) -> None:
        """`max_rows`: of a step in which tokens are guessed, the guesses among them."""
        self._pool = pool
        self._speculator = speculator
        self._max_rows = max_rows
        self.num_drafted = 0
        """Tokens since the start."""
        self.num_accepted = 0

    def room(self, num_running: int, num_sequences: int) -> int:
        """Tokens that a step may guess: each of `num_sequences`, running or waiting, has its row
        first."""
        if self._speculator is None or not self._speculator.can_pay(num_running):
            return 0
        return max(0, self._max_rows - num_sequences)

    def promises(self, running: Sequences[Sequence]) -> bool:
        """Whether guesses are worth to wait for the tokens of the step in flight."""
        if self._speculator is None:
            return False
        return any(s.num_pending and self._speculator.promises(s) for s in running)

    def draft(
        self, sequence: Sequence, num_running: int, num_rows: int, room: int
    ) -> tuple[int, ...]:
        """Guesses for a decode whose own block is there, with the blocks that they need. For them
        nobody is preempted, and a block is left for each running sequence to grow by."""
        assert self._speculator is not None
        num_tokens, table = len(sequence.token_ids), sequence.block_table
        room = min(room, sequence.max_num_tokens - num_tokens - 1)
        if room <= 0 or sequence.beams is not None:
            return ()
        drafts = self._speculator.draft(sequence, num_running, num_rows, room)
        block_size = self._pool.block_size
        num_more = -(-(num_tokens + len(drafts)) // block_size) - len(table)
        num_spare = max(0, self._pool.num_free_blocks - num_running)
        table += self._pool.allocate(min(num_more, num_spare))
        del drafts[len(table) * block_size - num_tokens :]
        sequence.num_drafted = len(drafts)
        return tuple(drafts)

    def count(self, num_drafted: int, num_sampled: int) -> None:
        """A chunk has been computed."""
        self.num_drafted += num_drafted
        self.num_accepted += max(0, num_sampled - 1)

    def roll_back(self, sequence: Sequence, num_computed: int) -> None:
        """The guesses were right up to there; blocks that only held wrong ones are given back."""
        sequence.num_computed_tokens = num_computed
        num_blocks = -(-num_computed // self._pool.block_size)
        table = sequence.block_table
        if num_blocks < len(table):
            self._pool.release(table[num_blocks:])
            sequence.block_table = table[:num_blocks]
