"""Closing what may not be closed at once: the flush of close(2) waits for a FUSE or NFS server, and no signal
ends that.  It is done in threads that nobody waits for, one for each container, and counts against the container's
limit until it is done."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from proctor.kernel.threads import quiet_thread
from proctor.performing.processes import Worker

if TYPE_CHECKING:
    from proctor.performing.steps import Reply


class Closers:
    """All of one monitor's; thread-safe.

    :param employ: counts somebody who works for a container.
    :param dismiss: it is done.
    :param idle: seconds without work after which a thread ends.
    """

    def __init__(
        self,
        employ: Callable[[Worker], object],
        dismiss: Callable[[Worker], object],
        idle: float,
    ) -> None:
        self._employ = employ
        self._dismiss = dismiss
        self._idle = idle
        self._changed = threading.Condition()
        #: What the thread of a container has to close.
        self._work: dict[object, deque[tuple[int, Worker]]] = {}

    def close(self, fd: int, container: object) -> None:
        """Have a descriptor closed, which is given away."""
        worker = Worker(container)
        self._employ(worker)
        with self._changed:
            work = self._work.get(container)
            alone = work is None
            if work is None:
                work = self._work[container] = deque()
            work.append((fd, worker))
            self._changed.notify_all()
        if alone:
            try:
                quiet_thread(lambda: self._close_all(container, self._idle), "proctor-closer")
            except RuntimeError:  # no more threads for us: then whoever asks waits
                self._close_all(container, 0)

    def drop(self, reply: Reply, container: object) -> None:
        """Have the descriptors of a reply closed that nobody took."""
        while reply.fds:
            self.close(reply.fds.popitem()[1], container)

    def _close_all(self, container: object, idle: float) -> None:
        work = self._work[container]
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: work, idle):
                    del self._work[container]
                    return
                fd, worker = work[0]
            try:
                os.close(fd)
            except OSError:
                pass  # the flush has failed, and it is closed all the same
            with self._changed:
                work.popleft()
                self._changed.notify_all()
            self._dismiss(worker)

    def end(self, seconds: float) -> int:
        """How many descriptors are not closed after that time; 0 as soon as all are."""
        with self._changed:
            self._changed.wait_for(lambda: not any(self._work.values()), seconds)
            return sum(map(len, self._work.values()))


class Given:
    """A descriptor that a call gives to its caller, closed here when the call is over."""

    __slots__ = ("_closers", "_container", "_fd")

    def __init__(self, closers: Closers, container: object, fd: int) -> None:
        self._closers = closers
        self._container = container
        self._fd = [fd]

    def close(self) -> None:
        """Idempotent."""
        try:
            fd = self._fd.pop()
        except IndexError:
            return
        self._closers.close(fd, self._container)
