"""Closing what was opened for callers, on a file system that may take its time over it: it counts against the
container's limit until it is done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from proctor.kernel.closing import Closers
from proctor.performing.executing.workers import Worker
from proctor.performing.paths import pins

if TYPE_CHECKING:
    from proctor.performing.executing.requests import Reply

#: Seconds that a file system has before a call goes on without it.
_LAST_MOMENTS: Final = 0.1


class Counting(Closers):
    """All of one monitor's.

    :param employ: counts somebody who works for a container.
    :param dismiss: it is done.
    """

    def __init__(
        self, employ: Callable[[Worker], object], dismiss: Callable[[Worker], object], idle: float
    ) -> None:
        super().__init__(idle)
        self._employ = employ
        self._dismiss = dismiss

    def close_for(self, container: object, *fds: int, seconds: float = 0) -> None:
        """Have descriptors closed, which are given away.  Each counts.

        :param seconds: how long that is waited for."""
        if not fds:
            return
        closed, left = threading.Event(), list(fds)

        def over(worker: Worker) -> None:
            self._dismiss(worker)
            left.pop()
            if not left:
                closed.set()

        for fd in fds:
            worker = Worker(container)
            self._employ(worker)
            self.close([fd], then=partial(over, worker))
        closed.wait(seconds)

    def close_shortly(self, container: object, *fds: int) -> None:
        """The same; that is waited for a moment, in which most file systems are done."""
        self.close_for(container, *fds, seconds=_LAST_MOMENTS)

    def close_copy(self, container: object, fd: int) -> None:
        """Close a duplicate of a caller's descriptor; the same where that may have to wait."""
        if pins.flushes(fd):
            self.close_shortly(container, fd)
        else:
            os.close(fd)

    def drop(self, reply: Reply, container: object) -> None:
        """Have the descriptors of a reply closed that nobody took."""
        while reply.fds:
            self.close_for(container, reply.fds.popitem()[1])


class Given:
    """A descriptor that a call gives to its caller, closed here when the call is over."""

    __slots__ = ("_closers", "_container", "_fd")

    def __init__(self, closers: Counting, container: object, fd: int) -> None:
        self._closers = closers
        self._container = container
        self._fd = [fd]

    def close(self) -> None:
        """Idempotent."""
        try:
            fd = self._fd.pop()
        except IndexError:
            return
        self._closers.close_for(self._container, fd)
