"""The blocks that keep of a prompt, which an encoder reads, what the decoder attends to.

They lie in the same pool as the blocks of texts. An encoder sees a whole prompt at once, so they
are computed together, in one step: all of them are known, or none is of use.
"""

from dataclasses import dataclass, field

from nimlite.engine.block_pool import BlockPool
from nimlite.engine.plan import ScheduledRead
from nimlite.engine.prefix_cache import PrefixCache
from nimlite.engine.sequence import Sequence


@dataclass(slots=True)
class Reading:
    """How much encoders may still read in a step, and what they shall."""

    budget: int
    reads: list[ScheduledRead] = field(default_factory=list)


class EncoderInputs:
    """Finds, gives and takes back the blocks of prompts that an encoder reads. For a sequence of a
    decoder alone there is nothing to do."""

    def __init__(self, pool: BlockPool, cache: PrefixCache) -> None:
        self._pool = pool
        self._cache = cache

    def find(self, sequence: Sequence) -> list[int]:
        """The blocks of an equal prompt that has been read; empty where there are none."""
        if not sequence.source_token_ids:
            return []
        leader = sequence.source
        if leader is not None and leader.source_table:
            return leader.source_table
        return self._cache.match_source(sequence)

    def num_blocks(self, sequence: Sequence) -> int:
        """Blocks that hold its prompt."""
        return -(-len(sequence.source_token_ids) // self._pool.block_size)

    def num_wanted(self, sequence: Sequence) -> int:
        """Free blocks that it would take now."""
        found = self.find(sequence)
        return self._pool.num_free_among(found) if found else self.num_blocks(sequence)

    def can_place(self, sequence: Sequence, reading: Reading) -> bool:
        """Whether its prompt is known, or can still be read in this step."""
        num_tokens = len(sequence.source_token_ids)
        return num_tokens <= reading.budget or bool(self.find(sequence))

    def place(self, sequence: Sequence, reading: Reading, num_computed: int) -> int:
        """Give it the blocks, which are there. Returns how many tokens of its prompt are computed
        already; those are `num_computed` for a decoder alone."""
        num_tokens = len(sequence.source_token_ids)
        if not num_tokens:
            return num_computed
        found = self.find(sequence)
        if found:
            self._pool.acquire(found)
            sequence.source_table = list(found)
            return num_tokens
        sequence.source_table = self._pool.allocate(self.num_blocks(sequence))
        reading.budget -= num_tokens
        reading.reads.append(ScheduledRead(sequence, sequence.source_table))
        return 0

    def computed(self, read: ScheduledRead) -> None:
        """A step has read it: others may share the blocks, unless they are another's by now."""
        if read.block_table is read.sequence.source_table:
            self._cache.register_source(read.sequence)

    def release(self, sequence: Sequence) -> None:
        """Take the blocks back."""
        self._pool.release(sequence.source_table)
        sequence.source_table = []
