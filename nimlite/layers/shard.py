"""Which part of every layer a rank holds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of `world` tensor-parallel ranks."""

    rank: int = 0
    world: int = 1

    def share(self, total: int) -> int:
        """How many of `total` equal units (heads, features) this rank holds."""
        assert total % self.world == 0, f"{total} units do not divide over {self.world} ranks"
        return total // self.world

    def kv_heads(self, total: int) -> int:
        """Key/value heads of this rank; with fewer heads than ranks, each is held by several."""
        return max(1, total // self.world)


WHOLE = Shard()
"""The only rank of one."""
