"""The supervisor's insides for whoever stands in for its threads: simulations and fakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proctor.supervisor.supervisor import Supervisor


class Driver:
    """Drives one supervisor by hand, in its world's time."""

    __slots__ = ("_supervisor",)

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def serve(self) -> None:
        """What the threads do that :meth:`Supervisor.start` begins, and those that they ask for."""
        self._supervisor._role.serve()

    def stop(self) -> None:
        """Let threads end as soon as they come back, and answer nothing."""
        self._supervisor._role.closed = True
        self._supervisor._engine.close()

    def next_due(self) -> float | None:
        """World time of the nearest deadline; None if there is none."""
        return self._supervisor._decider.calls.next_due()

    def expire(self) -> None:
        """Answer in the place of handlers that took too long, as :meth:`Supervisor.step` does."""
        decider = self._supervisor._decider
        decider.tend()
        while (overdue := decider.next_overdue()) is not None:
            overdue()

    @property
    def remembered(self) -> int:
        """How many calls are known beyond the thread that decides them, or were a moment ago."""
        decider = self._supervisor._decider
        return max(len(decider.calls), len(decider.backlog))

    @property
    def held(self) -> int:
        """How many threads calls keep."""
        return self._supervisor._decider.backlog.held

    @property
    def waiting(self) -> bool:
        """Whether a call waits for its turn."""
        return self._supervisor._decider.patience()[0] == 0.0
