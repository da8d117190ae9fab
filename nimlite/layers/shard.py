"""Which part of a model a rank holds: of every layer a share (tensor parallelism), and of the
layers some (pipeline parallelism). Nothing here computes."""

import math
from dataclasses import dataclass

_GROUP = 128
"""Neighbouring features that may share a scale, and are not torn apart where that can be helped."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Rank `rank` of the `world` that share the layers of stage `stage` of `stages`.

    Ranges are a rank's part of so many neighbours, counted over all ranks.
    """

    rank: int = 0
    world: int = 1
    stage: int = 0
    stages: int = 1

    @classmethod
    def of(cls, rank: int, tp: int, pp: int) -> "Shard":
        """Of the rank with that number of tp * pp. The first ones hold the last stage: so rank 0,
        which schedules, has the logits."""
        assert rank < tp * pp
        return cls(rank % tp, tp, pp - 1 - rank // tp, pp)

    @property
    def is_first(self) -> bool:
        """Whether tokens come in here."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether logits come out here."""
        return self.stage == self.stages - 1

    def layers(self, num_layers: int) -> range:
        """The stage's layers; the first stages have one more where they do not come out even, for
        the last one has the head."""
        first, end = (
            -(-stage * num_layers // self.stages) for stage in (self.stage, self.stage + 1)
        )
        return range(first, end)

    def features(self, total: int) -> range:
        """An even share of `total` features or vocabulary entries, in whole groups."""
        group = math.gcd(total, _GROUP)
        while group > 1 and total // group < self.world:
            group //= 2
        count = total // group
        first, end = (rank * count // self.world * group for rank in (self.rank, self.rank + 1))
        return range(first, end)

    def kv_heads(self, num_kv_heads: int) -> range:
        """Key/value heads; where they are fewer than ranks, several ranks hold the same one."""
        first = self.rank * num_kv_heads // self.world
        end = (self.rank + 1) * num_kv_heads // self.world
        return range(first, max(end, first + 1))

    def heads(self, num_heads: int, num_kv_heads: int) -> range:
        """Query heads: all those of the rank's key/value heads, or a share where that is held by
        several."""
        group = num_heads // num_kv_heads
        held = self.kv_heads(num_kv_heads)
        if num_kv_heads >= self.world:
            return range(held.start * group, held.stop * group)
        sharers = self.world // num_kv_heads
        place, first = self.rank % sharers, held.start * group
        return range(first + place * group // sharers, first + (place + 1) * group // sharers)

    def holds(self, name: str, num_layers: int, *, tied: bool) -> bool:
        """Whether the engine tensor `name` belongs to the stage. `tied`: the embedding is the head,
        too."""
        if name.startswith("layers."):
            return int(name.split(".")[1]) in self.layers(num_layers)
        if name.startswith("head"):
            return self.is_last
        if name == "embedding" and tied and self.is_last:
            return True
        return self.is_first or name.startswith("final_norm")


WHOLE = Shard()
"""The only rank of one."""


def refusal(
    num_heads: int, num_kv_heads: int, num_features: int, num_layers: int, *, tp: int, pp: int
) -> str | None:
    """Why a model can't be split like that, in one sentence; None: it can. `num_features`: of the
    smallest part that is split."""
    if pp > num_layers:
        return f"pp={pp} stages need a layer each, and the model has {num_layers}."
    if tp > num_kv_heads:
        sharers, group = tp // num_kv_heads, num_heads // num_kv_heads
        if tp % num_kv_heads or sharers > group:
            return (
                f"tp={tp} ranks can't share {num_heads} query heads over {num_kv_heads} key/value"
                f" heads: take up to {num_kv_heads}, or a multiple of it up to {num_heads}."
            )
    if tp > num_features:
        return f"tp={tp} ranks can't share {num_features} features."
    return None
