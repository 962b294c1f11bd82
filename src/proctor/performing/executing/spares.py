"""The next executor that is used once."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from proctor.performing.executing.beginning import PLAINLY, Beginning
from proctor.performing.trouble import Ended, Trouble

if TYPE_CHECKING:
    from threading import Lock

    from proctor.performing.executing.processes import Executor


class Spare:
    """Begun before somebody wants it, since who had one is likely to want the next.

    :param born: makes one that is nobody's.
    :param lock: is held where that is said.
    """

    def __init__(self, born: Callable[[], Executor], lock: Lock) -> None:
        #: If it is there, and since when.
        self.waiting: tuple[Executor, float] | None = None
        self._born = born
        self._lock = lock
        #: How it begins.
        self._begins = PLAINLY
        #: Who wants one, or has the reaper look.
        self._wants: SimpleQueue[None] = SimpleQueue()
        self._closed = False

    def take(self, begins: Beginning) -> Executor | None:
        """If it is there and begins so (the lock is held)."""
        return self.drop() if self.waiting and self.waiting[0].begins is begins else None

    def drop(self, since: float | None = None) -> Executor | None:
        """If it is there, since then at the latest; its taker's to close (the lock is held)."""
        if self.waiting is None or (since is not None and self.waiting[1] > since):
            return None
        dropped, self.waiting = self.waiting[0], None
        return dropped

    def close(self) -> Executor | None:
        """There is to be none any more; as :meth:`drop`."""
        self._closed = True
        return self.drop()

    def want(self, begins: Beginning) -> None:
        """The next one is to begin so (the lock is held)."""
        self._begins = begins
        self.wake()

    def wake(self) -> None:
        """Whoever is in :meth:`wanted` returns."""
        self._wants.put(None)

    def wanted(self, seconds: float = 0) -> bool:
        """Wait until somebody wants one."""
        try:
            self._wants.get(timeout=max(0.0, seconds))
        except Empty:
            return False
        return True

    def needed(self) -> bool:
        """Whether somebody wants one just now, or has it waiting (the lock is held)."""
        return self.waiting is not None or not self._wants.empty()

    def prepare(self) -> None:
        """Have it begun."""
        while self.wanted():
            pass  # one is enough
        made = None
        try:
            made = self._born()
            made.begins = self._begins
            reply = made.begins.ask(made)
            if reply is not None:  # or else whoever wants it hears that
                made.begins.begun(made, reply)
            with self._lock:
                if not self._closed and not (
                    self.waiting and self.waiting[0].begins is made.begins
                ):
                    before, self.waiting = self.drop(), (made, time.monotonic())
                    made = before
        except (Ended, Trouble):
            pass  # which is said to whoever wants the next
        if made is not None:
            made.kill()
            made.close()
