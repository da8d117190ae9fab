"""Full blocks by what they hold, so that equal prefixes are computed once.

The key of a block is a hash chained over all blocks before it, as in vLLM's automatic prefix
caching: equal keys mean equal tokens from position 0 on. It is a 128-bit digest of the token ids
themselves, so a collision, which would answer from another user's text, is out of the question.
"""

from array import array
from hashlib import blake2b

from nimlite.engine.sequence import Sequence

DIGEST_BYTES = 16


class PrefixCache:
    """Content hash ↔ block id. It owns no blocks: the pool tells it when one is given away."""

    def __init__(self, block_size: int, *, enabled: bool = True) -> None:
        self.block_size = block_size
        self.enabled = enabled
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._hash_of

    def match(self, sequence: Sequence) -> list[int]:
        """The known blocks of the sequence's longest known prefix, always short of its last token:
        without computing at least one there would be no logits to sample from."""
        if not self.enabled:
            return []
        blocks: list[int] = []
        for index in range((len(sequence.token_ids) - 1) // self.block_size):
            block = self._block_of.get(self._hash(sequence, index))
            if block is None:
                break
            blocks.append(block)
        return blocks

    def register(self, sequence: Sequence, first: int, last: int) -> None:
        """Blocks first … last - 1 of the sequence's table are full and computed.

        Where an equal block is known already, that one stays: tables are append-only, so two equal
        blocks are never merged.
        """
        if not self.enabled:
            return
        for index in range(first, last):
            key, block = self._hash(sequence, index), sequence.block_table[index]
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

    def _hash(self, sequence: Sequence, index: int) -> bytes:
        """The chained hash of the sequence's block `index`; each is computed once a sequence."""
        hashes = sequence.block_hashes
        while len(hashes) <= index:
            start = len(hashes) * self.block_size
            tokens = array("q", sequence.token_ids[start : start + self.block_size])
            assert len(tokens) == self.block_size, f"block {index} of {sequence} is not full"
            salt = sequence.request.cache_salt.encode()
            parent = hashes[-1] if hashes else blake2b(salt, digest_size=DIGEST_BYTES).digest()
            hashes.append(blake2b(parent + tokens.tobytes(), digest_size=DIGEST_BYTES).digest())
        return hashes[index]
