"""Telling who got nothing at a door, and why: so much of one user as somebody can read.

Whoever is refused may come again at once, for as long as he likes, and each time is a line.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: Lines of one user that are told at once, and seconds until there may be one more.
AT_ONCE: Final = 20
_EACH: Final = 1.0
#: Characters of a line: it may quote what he sent.
_LONG: Final = 1500
#: Users of whom it is known what was told; the longest not heard of goes first.
_USERS: Final = 256


class TurnedAway:
    """Tells of one door's, in bounds.

    :param tell: told a sentence.
    :param clock: tells the time in seconds.
    """

    def __init__(
        self, tell: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tell = tell
        self._clock = clock
        #: By what a sentence begins with: when the next one would be due if all came evenly, and how many were left out since the
        #: last.
        self._told: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def __call__(self, why: str) -> None:
        """Somebody was refused.

        :param why: a sentence; what is in front of its first bracket says whose it is."""
        whose, now = why.partition(" (")[0], self._clock()
        due, left = self._told.pop(whose, (float("-inf"), 0))
        due = max(due, now - (AT_ONCE - 1) * _EACH)
        late = due > now
        self._told[whose] = (due, left + 1) if late else (due + _EACH, 0)
        if len(self._told) > _USERS:
            self._told.popitem(last=False)
        if not late:
            before = f"; {left} others before were not told of" if left else ""
            self._tell((why if len(why) <= _LONG else f"{why[:_LONG]}...") + before)
