"""A real engine that steps only when a test lets it."""

import threading

from nimlite.engine.engine import Engine
from nimlite.engine.request import Delta, EngineStats


class GatedEngine(Engine):
    """Until `open_gate`, each step with work waits for an `allow`."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        self.failure: Exception | None = None
        """What the next step raises."""
        self.at_gate: list[EngineStats] = []
        """What there was when each step began."""
        self._permits = threading.Semaphore(0)
        self._is_open = False
        self._arrived = threading.Condition()

    def allow(self, num_steps: int = 1) -> None:
        self._permits.release(num_steps)

    def open_gate(self) -> None:
        self._is_open = True
        self.allow()

    def wait_at_gate(self, num_steps: int) -> EngineStats:
        """When step number `num_steps` (from 1) is at the gate: what there was then."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.at_gate) >= num_steps, timeout=60)
        return self.at_gate[num_steps - 1]

    def step(self) -> list[Delta]:
        with self._arrived:
            self.at_gate.append(self.stats)
            self._arrived.notify_all()
        if not self._is_open:
            self._permits.acquire()
        if self.failure is not None:
            raise self.failure
        return super().step()
