"""How much of a container's calls a log has: which, and how many in a second."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakKeyDictionary

from proctor.call.verdict import Deny, Perform
from proctor.given import one
from proctor.records import NamedTuple
from proctor.words import one_of

if TYPE_CHECKING:
    from proctor.call.ports import ContainerPort

Level = Literal["all", "performed", "refused", "none"]
#: Each has what those after it have.
LEVELS: Final = ("all", "performed", "refused", "none")


class Amount(NamedTuple):
    """What a log has of a container's calls.

    >>> proctor.Container("web", logging=proctor.Amount("refused", rate=10)).logging.level
    'refused'
    """

    #: ``"performed"``: those that are performed or refused; ``"refused"``: those that are.
    level: Level = "all"
    #: Most calls in a second, in the long run; as many at once.  None: all.
    rate: float | None = None

    def check(self) -> Amount:
        """The same.

        :raises ValueError: there is no such level, or the rate is not more than 0.
        :raises TypeError: the rate is no number."""
        if self.level not in LEVELS:
            raise ValueError(f"logging: level={self.level!r}: it is {one_of(LEVELS)}")
        if self.rate is not None:
            one("logging: rate", self.rate, (int, float), "a number or None")
            if not self.rate > 0:
                raise ValueError(f"logging: rate={self.rate}: more than 0 is wanted")
        return self


class Limits:
    """Counts what a log has, and has not, of each container; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: When the next one would be due if all came evenly, and how many were left out since the last.
        self._kept: WeakKeyDictionary[Any, list[float]] = WeakKeyDictionary()

    def wants(self, container: ContainerPort, verdict: Any, performed: bool = False) -> bool:
        """Whether a call that comes to that would be logged now."""
        amount: Amount | None = container.logging
        if amount is None:
            return True
        if amount.level != "all" and not _reaches(amount.level, verdict, performed):
            return False
        if amount.rate is None:
            return True
        kept = self._kept.get(container)
        return kept is None or kept[0] - 1.0 <= time.monotonic()

    def take(self, container: ContainerPort, verdict: Any, performed: bool) -> int | None:
        """Log one: how many of that container were left out before it; None: this one is left out."""
        amount: Amount | None = container.logging
        if amount is None:
            return 0
        if amount.level != "all" and not _reaches(amount.level, verdict, performed):
            return None
        if amount.rate is None:
            return self.left_out(container)
        now = time.monotonic()
        with self._lock:
            kept = self._kept.setdefault(container, [0.0, 0])
            if kept[0] - 1.0 > now:
                kept[1] += 1
                return None
            kept[0] = max(kept[0], now) + 1 / amount.rate
            left, kept[1] = int(kept[1]), 0
            return left

    def left_out(self, container: ContainerPort) -> int:
        """How many were left out since the last time."""
        with self._lock:
            kept = self._kept.get(container)
            if kept is None:
                return 0
            left, kept[1] = int(kept[1]), 0
            return left


def _reaches(level: Level, verdict: Any, performed: bool) -> bool:
    kind = type(verdict)
    if level == "none":
        return False
    return kind is Deny or (level == "performed" and (performed or kind is Perform))
