"""How often callers are looked at whose calls take long.

Nothing tells that a signal came, so who waits is looked at now and then.  So many looks a second are left for all, since
who looks at thousands has time for nothing else, and each container has its share of them, whatever another one has
waiting: what one does not need is the others' (max-min fairness).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Seconds between two looks at a caller, at least.
PAUSE: Final = 0.25
#: Looks a second at all callers.
_RATE: Final = 1000.0
#: What is looked at late is looked at less, for so many times as long: a thousand looks are to leave time for what they look
#: at.
_LATE: Final = 4


class _Nobodys:
    """The container of calls that have none."""


_NOBODYS: Final = _Nobodys()


class Looks:
    """Who is looked at, by container; for any thread."""

    def __init__(self) -> None:
        # Whatever a collector ends meanwhile may come back to us
        self._lock = threading.RLock()
        #: Those that are over without having said so are nowhere else, and so not here.
        self._waiting: WeakKeyDictionary[Any, WeakSet[Any]] = WeakKeyDictionary()

    def __len__(self) -> int:
        """How many wait."""
        with self._lock:
            return sum(map(len, self._waiting.values()))

    def begin(self, who: object, container: object) -> None:
        """It waits from now on, if it did not."""
        with self._lock:
            self._waiting.setdefault(container or _NOBODYS, WeakSet()).add(who)

    def end(self, who: object, container: object) -> None:
        """It waits no longer, if it did."""
        key = container or _NOBODYS
        with self._lock:
            some = self._waiting.get(key)
            if some is not None:
                some.discard(who)
                if not some:
                    del self._waiting[key]

    def pause(self, container: object, late: float) -> float:
        """Seconds until the next look at one of a container's.

        :param late: seconds by which this one came late: as far as the container is to blame."""
        with self._lock:
            counts = [len(some) for some in self._waiting.values()]
            mine = len(self._waiting.get(container or _NOBODYS, ()))
        blame = min(1.0, mine * len(counts) / max(1, sum(counts)))
        return max(PAUSE, mine / _level(counts), _LATE * late * blame)


def _level(counts: Iterable[int]) -> float:
    """Looks a second that a container has at most."""
    left, others = _RATE, sorted(counts)
    while others:
        level = left / len(others)
        if others[-1] / PAUSE <= level:
            return _RATE  # all have what they want
        if others[0] / PAUSE > level:
            return level
        left -= others.pop(0) / PAUSE
    return _RATE
