"""A plan in the making."""

from dataclasses import dataclass, field

from nimlite.engine.encoder_input import Reading
from nimlite.engine.plan import BlockCopy, ScheduledChunk, StepPlan


@dataclass(slots=True)
class Step:
    """What there is room for, and what is planned so far."""

    budget: int
    logit_budget: int
    reading: Reading
    num_drafted: int = 0
    chunks: list[ScheduledChunk] = field(default_factory=list)
    copies: list[BlockCopy] = field(default_factory=list)
    pools: bool = False

    def plan(self, number: int, num_tokens: int) -> StepPlan:
        """As it is, as the step `number`."""
        return StepPlan(
            step=number,
            chunks=tuple(self.chunks),
            copies=tuple(self.copies),
            num_tokens=num_tokens,
            num_drafted=self.num_drafted,
            reads=tuple(self.reading.reads),
            pools=self.pools,
        )
