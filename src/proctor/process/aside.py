"""Closing what came from processes that are not trusted, by threads for which nobody waits: closing a file of a FUSE of
theirs takes as long as that likes, and so does closing a socket that lingers (SO_LINGER of socket(7)), or one by which such
a thing was sent and never received."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable

from proctor.kernel.threads import quiet_thread


def close_aside(fds: Iterable[int], then: Callable[[], object] = int) -> None:
    """Close them, and go on."""
    Aside().close(fds, then)


class Aside:
    """Closes one after another; thread-safe.

    :param idle: seconds without work after which its thread ends."""

    def __init__(self, idle: float = 0) -> None:
        self._idle = idle
        self._changed = threading.Condition()
        self._left: deque[int] = deque()
        self._busy = False

    @property
    def left(self) -> int:
        """How many are not closed yet."""
        return len(self._left)

    def close(self, fds: Iterable[int], then: Callable[[], object] = int) -> None:
        """Close these, which are given away, and go on once nothing is left."""
        with self._changed:
            self._left += fds
            start = not self._busy and bool(self._left)
            self._busy |= start
            self._changed.notify()
        if start:
            try:
                quiet_thread(lambda: self._run(then), "proctor-aside")
            except RuntimeError:  # no threads: it is tried again with the next one
                with self._changed:
                    self._busy = False
        elif not self._left:
            then()

    def _run(self, then: Callable[[], object]) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._left, self._idle):
                    self._busy = False
                    break
                fd = self._left[0]
            try:
                os.close(fd)
            except OSError:
                pass  # the flush has failed, and it is closed all the same
            with self._changed:
                self._left.popleft()
        then()
