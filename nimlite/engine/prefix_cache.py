"""Full blocks by what they hold, so that equal prefixes are computed once.

The key of a block is a hash chained over all blocks before it, as in vLLM's automatic prefix
caching: equal keys mean equal tokens from position 0 on. It is a 128-bit digest of the token ids
themselves, so a collision, which would answer from another user's text, is out of the question.
"""

from array import array
from hashlib import blake2b
from typing import NamedTuple

from nimlite.engine.sequence import Sequence

DIGEST_BYTES = 16


class Match(NamedTuple):
    """Known blocks at the beginning of a sequence."""

    num_slid: int
    """Blocks before them that nobody will read: they lie before every window."""
    blocks: list[int]

    @property
    def num_blocks(self) -> int:
        return self.num_slid + len(self.blocks)


NO_MATCH = Match(0, [])


class PrefixCache:
    """Content hash ↔ block id. It owns no blocks: the pool tells it when one is given away."""

    def __init__(self, block_size: int, *, window: int = 0, enabled: bool = True) -> None:
        """`window`: tokens that any layer sees, the newest included; 0: all."""
        self.block_size = block_size
        self._window = window
        self.enabled = enabled
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._hash_of

    def match(self, sequence: Sequence) -> Match:
        """The sequence's longest known prefix, always short of its last token: without computing at
        least one there would be no logits to sample from. Of the prefix only those blocks must be
        known that the next token sees something of."""
        if not self.enabled:
            return NO_MATCH
        begin = end = first = 0  # of the blocks found last, and the first one needed of the match
        blocks: list[int] = []
        for index in range((len(sequence.token_ids) - 1) // self.block_size):
            block = self._block_of.get(self._hash(sequence, index))
            if block is None:
                if not self._window:
                    break
                begin = index + 1
                continue
            blocks += [0] * (index - len(blocks)) + [block]
            needed = slid_blocks((index + 1) * self.block_size, self._window, self.block_size)
            if begin <= needed:
                first, end = needed, index + 1
        return Match(first, blocks[first:end])

    def register(self, sequence: Sequence, first: int, last: int) -> None:
        """Blocks first … last - 1 of the sequence's table are full and computed. Those that it does
        not hold any more are passed over.

        Where an equal block is known already, that one stays: tables are append-only, so two equal
        blocks are never merged.
        """
        if not self.enabled:
            return
        for index in range(max(first, sequence.num_slid), last):
            self._remember(self._hash(sequence, index), sequence.block_table[index])

    def match_source(self, sequence: Sequence) -> list[int]:
        """The known blocks of what an encoder has read for an equal prompt: all, or none."""
        if not self.enabled or not sequence.source_token_ids:
            return []
        blocks = [self._block_of.get(key) for key in self._source_keys(sequence)]
        known = [block for block in blocks if block is not None]
        return known if len(known) == len(blocks) else []

    def register_source(self, sequence: Sequence) -> None:
        """An encoder has read the sequence's prompt into its `source_table`."""
        if not self.enabled:
            return
        for key, block in zip(self._source_keys(sequence), sequence.source_table, strict=True):
            self._remember(key, block)

    def _remember(self, key: bytes, block: int) -> None:
        if key not in self._block_of:
            assert block not in self._hash_of, f"block {block} was registered and then written"
            self._block_of[key] = block
            self._hash_of[block] = key

    def forget(self, block: int) -> None:
        """The block is about to be overwritten."""
        key = self._hash_of.pop(block, None)
        if key is not None:
            del self._block_of[key]

    def check_integrity(self) -> None:
        """Assert that the two maps are inverse to each other."""
        assert self._hash_of == {block: key for key, block in self._block_of.items()}

    def _source_keys(self, sequence: Sequence) -> list[bytes]:
        root = _root(sequence)
        count = -(-len(sequence.source_token_ids) // self.block_size)
        return [
            blake2b(root + index.to_bytes(8), digest_size=DIGEST_BYTES, person=b"source").digest()
            for index in range(count)
        ]

    def _hash(self, sequence: Sequence, index: int) -> bytes:
        """The chained hash of the sequence's block `index`; each is computed once a sequence."""
        hashes = sequence.block_hashes
        while len(hashes) <= index:
            start = len(hashes) * self.block_size
            tokens = array("q", sequence.token_ids[start : start + self.block_size])
            assert len(tokens) == self.block_size, f"block {index} of {sequence} is not full"
            parent = hashes[-1] if hashes else _root(sequence)
            hashes.append(blake2b(parent + tokens.tobytes(), digest_size=DIGEST_BYTES).digest())
        return hashes[index]


def slid_blocks(position: int, window: int, block_size: int) -> int:
    """Blocks that hold nothing that a token at `position`, or a later one, sees."""
    return max(0, position - window + 1) // block_size if window else 0


def _root(sequence: Sequence) -> bytes:
    """What stands before a sequence's first block: its salt, and all that an encoder has read."""
    root = blake2b(sequence.request.cache_salt.encode(), digest_size=DIGEST_BYTES).digest()
    if not sequence.source_token_ids:
        return root
    tokens = array("q", sequence.source_token_ids).tobytes()
    return blake2b(root + tokens, digest_size=DIGEST_BYTES, person=b"encoder").digest()
