"""Closing what users sent.  close(2) may wait for as long as they like: the flush of a file for the FUSE server
that serves it, the last close of a socket for what lingers in it (SO_LINGER, socket(7)); and the close of a
connection closes what was sent by it and never received.  So what users who are not trusted sent is closed by a
thread of each user's own, and who has too much of that is not let in."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable
from typing import Final

from proctor.agent.owners import is_trusted
from proctor.performing.closing import Closers
from proctor.performing.processes import Worker

#: Most descriptors of one user that are being closed before no more is taken from him.
MOST: Final = 1024
#: Seconds without work after which a thread ends.
_IDLE: Final = 1.0


class Dropping:
    """Closes for users; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: Counter[object] = Counter()
        self._closers = Closers(
            lambda worker: self._count(worker, 1), lambda worker: self._count(worker, -1), _IDLE
        )

    def _count(self, worker: Worker, more: int) -> None:
        with self._lock:
            self._left[worker.container] += more
            if not self._left[worker.container]:
                del self._left[worker.container]

    def drop(self, uid: int, fds: Iterable[int]) -> None:
        """Close what that user sent."""
        for fd in fds:
            if is_trusted(uid):
                os.close(fd)
            else:
                self._closers.close(fd, uid)

    def is_late(self, uid: int) -> bool:
        """Whether that user has too much that is not closed."""
        return self._left[uid] >= MOST


#: Of this process.
users: Final = Dropping()
