"""Closing what may not be closed at once, by threads for which nobody waits.

close(2) may wait for as long as somebody else likes, and no signal need end that: the flush of a file for the FUSE or NFS server
that serves it, the last close of a socket for what lingers in it (SO_LINGER, socket(7)), and that of a connection for what was
sent by it and never received.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Final

from proctor.kernel.threads import quiet_thread

#: Seconds until a thread is tried for again where none was to be had.
_PAUSE: Final = 0.05


class _Batch:
    """What was given away at once."""

    __slots__ = ("left", "then", "whose")

    def __init__(self, left: int, whose: Hashable, then: Callable[[], object]) -> None:
        self.left = left
        self.whose = whose
        self.then = then


class Closers:
    """Close for others; thread-safe.

    What waits holds up nothing else: whoever is about to close leaves somebody behind who waits for work.  Where no thread is
    to be had for that, it tries again.

    :param idle: seconds without work after which a thread ends.
    """

    def __init__(self, idle: float = 1.0) -> None:
        self._idle = idle
        self._lock = threading.Lock()
        self._given, self._closed = (threading.Condition(self._lock) for _ in range(2))
        self._work: deque[tuple[int, _Batch]] = deque()
        self._left: Counter[Hashable] = Counter()
        #: Threads, and how many of them wait for work.
        self._threads = self._waiting = 0

    def close(
        self, fds: Iterable[int], whose: Hashable = None, then: Callable[[], object] = int
    ) -> None:
        """Have these closed, which are given away.

        Only in a process that can have no thread at all does the caller wait.

        :param whose: by which :meth:`left` counts.
        :param then: called once all are closed, by whoever closed the last.
        """
        given = list(fds)
        if not given:
            then()
            return
        batch = _Batch(len(given), whose, then)
        with self._lock:
            self._work += [(fd, batch) for fd in given]
            self._left[whose] += len(given)
            helped = bool(self._threads) or self._start()
            self._given.notify(len(given))
        if not helped:
            while (job := self._take()) is not None:
                self._do(*job)

    def left(self, whose: Hashable = None) -> int:
        """How many of these are not closed yet."""
        return self._left[whose]

    def end(self, seconds: float) -> int:
        """How many descriptors are not closed after that time; 0 as soon as all are."""
        with self._lock:
            self._closed.wait_for(lambda: not self._left, seconds)
            return sum(self._left.values())

    def _start(self) -> bool:
        """Have one thread more that waits for work; False if it cannot be had."""
        try:
            quiet_thread(self._run, "proctor-closer")
        except RuntimeError:
            return False
        self._threads += 1
        self._waiting += 1
        return True

    def _run(self) -> None:
        while (job := self._wait()) is not None:
            self._do(*job)
            with self._lock:
                self._waiting += 1

    def _wait(self) -> tuple[int, _Batch] | None:
        """Work, once somebody else waits for more; None if there is none for too long."""
        with self._lock:
            while True:
                if not self._given.wait_for(lambda: self._work, self._idle):
                    if self._waiting > 1 or self._waiting == self._threads:  # or all are here
                        self._threads -= 1
                        self._waiting -= 1
                        return None
                elif self._waiting > 1 or self._start():
                    self._waiting -= 1
                    return self._work.popleft()
                else:
                    self._given.wait(_PAUSE)

    def _take(self) -> tuple[int, _Batch] | None:
        with self._lock:
            return self._work.popleft() if self._work else None

    def _do(self, fd: int, batch: _Batch) -> None:
        try:
            os.close(fd)
        except OSError:
            pass  # the flush has failed, and it is closed all the same
        with self._lock:
            self._left[batch.whose] -= 1
            if not self._left[batch.whose]:
                del self._left[batch.whose]
            batch.left -= 1
            over = not batch.left
            self._closed.notify_all()
        if over:
            batch.then()


#: Of this process.
closers: Final = Closers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=closers.__init__)  # type: ignore[misc]
