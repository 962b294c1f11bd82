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

    def turn(self) -> int:
        """One turn of the thread that :meth:`Supervisor.start` begins: rounds without end while no
        deadline is near, one round otherwise."""
        return self._supervisor._turn()

    def next_due(self) -> float | None:
        """World time of the nearest deadline; None if there is none."""
        return self._supervisor._decider.next_due()

    def expire(self) -> None:
        """Answer in the place of handlers that took too long, as :meth:`Supervisor.step` does."""
        self._supervisor._decider.expire()

    @property
    def remembered(self) -> int:
        """How many calls are known beyond the receiving thread: waiting, being worked at, or
        answered a moment ago."""
        return self._supervisor._decider.remembered
