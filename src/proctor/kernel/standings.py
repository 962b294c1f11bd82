"""The threads that are known from one call to the next, by their numbers, and how many they may be."""

from __future__ import annotations

import resource
import select
import threading
from collections.abc import Callable
from typing import Final

from proctor.kernel.standing import Standing

#: Threads that are known at the same time, five or six descriptors each: at least, and at most.
FEW, MANY = 32, 512
#: So many of them may be dead before one looks.
_FEW_DEAD: Final = 8


def room(part: int) -> int:
    """How many threads may be known that one part of so many of our descriptors is for: to know one costs less than to
    meet it at each call, and some descriptors."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MANY if limit < 0 else max(FEW, min(MANY, limit // part))


class Standings:
    """Those that are known, by their numbers; thread-safe.

    :param most: how many: who has more callers than that meets them at each call."""

    __slots__ = ("_crowded", "_lock", "_most", "known")

    def __init__(self, most: int = FEW) -> None:
        self._most = most
        #: How many are known when the dead are looked for: as often as that doubles, since each is asked then.
        self._crowded = _FEW_DEAD
        #: All of them, the longest not heard of first.
        self.known: dict[int, Standing] = {}
        self._lock = threading.Lock()

    def take(self, tid: int) -> Standing | None:
        """The standing of a thread, for the asker alone: it is given back, or closed.  What was read for
        its last call is forgotten."""
        standing = self.known.pop(tid, None)  # in one step: no lock is needed
        if standing is not None:
            standing._text = b""
        return standing

    def give_back(self, standing: Standing) -> None:
        """Know it for its next call; the longest not heard of is forgotten."""
        with self._lock:
            before = self.known.pop(standing.tid, None)
            self.known[standing.tid] = standing
            oldest = None
            if len(self.known) > self._most:
                known = [*self.known]  # in one step: others may be taken out meanwhile
                oldest = self.known.pop(known[0], None)
            crowded = len(self.known) >= self._crowded
        for each in (before, oldest):
            if each is not None:
                each.close()
        if crowded:
            self.bury()
            self._crowded = 2 * len(self.known) + _FEW_DEAD

    def bury(self) -> None:
        """Forget those that are dead, where that can be seen."""
        poll, known = select.poll(), {}
        for standing in list(self.known.values()):
            pidfd = standing._pidfd  # somebody may have taken it out, and close it now
            if pidfd >= 0:
                known[pidfd] = standing
                poll.register(pidfd, select.POLLIN)
        dead = {known[fd] for fd, _ in poll.poll(0)}
        if dead:
            self.forget(dead.__contains__)

    def forget(self, over: Callable[[Standing], bool]) -> None:
        """Forget those of which that is said."""
        for tid in [tid for tid, standing in list(self.known.items()) if over(standing)]:
            gone = self.known.pop(tid, None)
            if gone is not None:
                gone.close()

    def close(self) -> None:
        """Forget them all."""
        with self._lock:
            known = list(self.known.values())
            self.known.clear()
        for each in known:
            each.close()
