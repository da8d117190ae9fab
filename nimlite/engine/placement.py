"""A sequence's place in the pool: the blocks that it starts with, and those that it gives back."""

from nimlite.engine.block_pool import BlockPool
from nimlite.engine.encoder_input import EncoderInputs, Reading
from nimlite.engine.plan import BlockCopy, ScheduledRead
from nimlite.engine.prefix_cache import NO_MATCH, Match, PrefixCache, slid_blocks
from nimlite.engine.sequence import Sequence, SequenceStatus


class Placement:
    """Writes block tables. Blocks that hold a sequence's first tokens already are shared."""

    def __init__(self, pool: BlockPool, cache: PrefixCache, window: int) -> None:
        """`window`: tokens that any layer sees, the newest included; 0: all."""
        self._pool = pool
        self._cache = cache
        self._window = window
        self._encoder_inputs = EncoderInputs(pool, cache)
        self.num_prompt_tokens = 0
        """Of the sequences that started."""
        self.num_prefix_hits = 0
        """Of these, computed before."""

    def start(
        self, sequence: Sequence, num_running: int, reading: Reading
    ) -> list[BlockCopy] | None:
        """Let a sequence run, with what must be copied before it goes on. None where it does not
        fit."""
        if not self.fits(sequence, num_running) or not self.can_read(sequence, reading):
            return None
        num_computed, num_cached, copies = self.place(sequence, reading)
        if sequence.status is SequenceStatus.WAITING:
            num_prompt = len(sequence.request.prompt_token_ids)
            sequence.num_cached_tokens = num_cached
            self.num_prompt_tokens += num_prompt
            self.num_prefix_hits += num_cached
            sequence.account.charge(num_prompt - num_cached)
        sequence.num_computed_tokens = num_computed
        sequence.source = None
        sequence.status = SequenceStatus.RUNNING
        return copies

    def fits(self, sequence: Sequence, num_running: int) -> bool:
        """Whether all its tokens have room, with one block to spare for each running sequence to
        grow by: admitting it would only have somebody preempted soon."""
        known, _ = self._find_computed(sequence)
        num_new = -(-sequence.num_tokens // self._pool.block_size) - known.num_blocks
        num_wanted = num_new + self._pool.num_free_among(known.blocks) + num_running
        num_wanted += self._encoder_inputs.num_wanted(sequence)
        return num_wanted <= self._pool.num_free_blocks

    def can_read(self, sequence: Sequence, reading: Reading) -> bool:
        """Whether an encoder has read its prompt, or can do so in this step."""
        return self._encoder_inputs.can_place(sequence, reading)

    def has_read(self, read: ScheduledRead) -> None:
        """An encoder has read a prompt."""
        self._encoder_inputs.computed(read)

    def place(self, sequence: Sequence, reading: Reading) -> tuple[int, int, list[BlockCopy]]:
        """Give a sequence that fits the blocks of all its tokens. How many of them are computed,
        how many of its prompt's are, which an encoder may read, and what must be copied before it
        goes on."""
        block_size = self._pool.block_size
        known, num_computed = self._find_computed(sequence)
        self._pool.acquire(known.blocks)
        num_cached = self._encoder_inputs.place(sequence, reading, num_computed)
        num_new = -(-sequence.num_tokens // block_size) - known.num_blocks
        new = self._pool.allocate(num_new)
        sequence.block_table = [0] * known.num_slid + known.blocks + new
        sequence.num_slid = known.num_slid
        if not num_computed % block_size:
            return num_computed, num_cached, []
        # the next write goes to a block that the source holds
        assert sequence.source is not None
        copied = sequence.source.block_table[known.num_blocks]
        return num_computed, num_cached, [BlockCopy(copied, new[0])]

    def slide(self, sequence: Sequence) -> None:
        """Give back the blocks that lie before every window of what is computed from now on."""
        first, position = sequence.num_slid, sequence.num_computed_tokens
        last = slid_blocks(position, self._window, self._pool.block_size)
        if last > first:
            self._pool.release(sequence.block_table[first:last])
            sequence.num_slid = last

    def release(self, sequence: Sequence) -> None:
        """Give back all of its blocks."""
        self._pool.release(sequence.held_blocks)
        self._encoder_inputs.release(sequence)
        sequence.block_table, sequence.num_slid = [], 0

    def check(self, sequence: Sequence) -> None:
        """Assert that it holds what it reads, and that what it will write to is its own."""
        num_computed, size = sequence.num_computed_tokens, self._pool.block_size
        seen = slid_blocks(num_computed, self._window, size)
        assert sequence.num_slid <= seen, f"{sequence} gave a block back that it reads"
        for block in sequence.block_table[num_computed // size :]:
            assert self._pool.ref_counts[block] == 1, f"{sequence} writes to a shared block"
            assert block not in self._cache, f"{sequence} writes to a registered block"

    def _find_computed(self, sequence: Sequence) -> tuple[Match, int]:
        """Full blocks that hold the sequence's first tokens already, and how many tokens are
        computed: those of a source may go on into its next block."""
        source, block_size = sequence.source, self._pool.block_size
        if source and source.status is SequenceStatus.RUNNING and not source.num_preemptions:
            num_shared = sequence.num_prompt_tokens - 1
            first = slid_blocks(num_shared, self._window, block_size)
            if source.num_slid <= first:
                last = num_shared // block_size
                sequence.block_hashes = source.block_hashes[:last]
                return Match(first, source.block_table[first:last]), num_shared
        if sequence.needs_every_token:
            return NO_MATCH, 0
        match = self._cache.match(sequence)
        return match, match.num_blocks * block_size
