"""The blocks of the paged KV pool: who holds which, and which one is given out next."""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from nimlite.engine.prefix_cache import PrefixCache


class BlockPool:
    """Block ids with reference counts. The keys and values themselves are the runner's.

    A block that nobody holds is free, even while the prefix cache still knows its content:
    `acquire` takes it back, until `allocate` needs it for something else. Free blocks are given out
    in this order: those without cached content, then the least recently used.
    """

    def __init__(self, num_blocks: int, block_size: int, cache: PrefixCache) -> None:
        assert num_blocks > 0 and block_size > 0
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.ref_counts = [0] * num_blocks
        """Read-only outside: how many sequences hold each block."""
        self._cache = cache
        # A C linked list with a hash index: pops at the front and unlinks anywhere in O(1).
        self._free = OrderedDict[int, None].fromkeys(range(num_blocks))

    @property
    def num_free_blocks(self) -> int:
        return len(self._free)

    def num_free_among(self, blocks: Iterable[int]) -> int:
        """How many free blocks `acquire(blocks)` would take."""
        return sum(not self.ref_counts[block] for block in blocks)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks to write to; what the prefix cache knew of them is forgotten."""
        assert count <= len(self._free), f"{count} blocks wanted, {len(self._free)} free"
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self.ref_counts[block] = 1
            self._cache.forget(block)
        return blocks

    def acquire(self, blocks: Iterable[int]) -> None:
        """Hold blocks that others hold, or that the prefix cache knows, without writing to them."""
        for block in blocks:
            if not self.ref_counts[block]:
                del self._free[block]
            self.ref_counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one hold on each block of a table.

        The last block is freed first, so that a prefix is evicted from its tail: a tail is of no
        use without its head.
        """
        for block in reversed(blocks):
            self.ref_counts[block] -= 1
            assert self.ref_counts[block] >= 0, f"block {block} was released twice"
            if not self.ref_counts[block]:
                self._free[block] = None
                if block not in self._cache:
                    self._free.move_to_end(block, last=False)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that exactly the block tables of `tables` hold the blocks that are not free."""
        held = Counter(block for table in tables for block in table)
        assert held == Counter({b: n for b, n in enumerate(self.ref_counts) if n}), "wrong counts"
        assert len(self.ref_counts) == self.num_blocks, "a block id out of range"
        assert self._free.keys() == set(range(self.num_blocks)) - held.keys(), "a block is lost"
        self._cache.check_integrity()
