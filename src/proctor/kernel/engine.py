"""The native engine: bookkeeping here, receiving and answering in the native core.

:class:`Engine` serves listeners by their descriptors as :class:`proctor.supervisor.ports.Engine`
says.  It works on a duplicate of each: whatever its caller closes, and whoever gets the number
afterwards, a received id is answered on the listener it came from.  A duplicate is closed when the
listener is removed, or at the end of the round that is under way then, since the receiving thread
may be inside the kernel with it.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import math
import os
import select
from collections.abc import Callable, Mapping

from proctor.kernel import _core

#: The longest wait of epoll(7), in milliseconds.
_LONGEST = 2**31 - 1
#: Stands for its caller's number in the entry of a listener that was removed in this round.
_REMOVED = -1


class Engine:
    """Receive, look the handler up, call it, answer.

    One thread calls :meth:`run_once` over and over; any thread may call the other methods.
    Nothing is called back but from :meth:`run_once`.
    """

    __slots__ = ("_closed", "_epoll", "_event", "_hung", "_leaving", "_lock", "_running", "_served")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._epoll = select.epoll()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._event, select.EPOLLIN)
        #: By the number of our duplicate, as _core.serve wants it: routes, fallback, and for
        #: ourselves ended and the caller's number.
        self._served: dict[int, _core.Served] = {}
        self._leaving: list[int] = []  # duplicates to close once no round can be using them
        self._hung: list[int] = []
        self._running = False
        self._closed = False

    def add(
        self,
        fd: int,
        routes: Mapping[int, _core.Route],
        fallback: _core.Route,
        ended: Callable[[], object],
    ) -> None:
        """Start to serve the listener ``fd``; a dict of ``routes`` is looked into as
        it is then (it may grow while serving), any other mapping is copied.

        :raises FileExistsError: if ``fd`` is served already.
        :raises ValueError: if the engine is closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError("this engine is closed")
            if self._find(fd) is not None:
                raise FileExistsError(errno.EEXIST, f"descriptor {fd} is served already")
            ours = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            live = routes if isinstance(routes, dict) else dict(routes)
            self._served[ours] = (live, fallback, ended, fd)
            try:
                self._epoll.register(ours, select.EPOLLIN)
            except BaseException:
                del self._served[ours]
                os.close(ours)
                raise

    def reroute(self, fd: int, routes: Mapping[int, _core.Route], fallback: _core.Route) -> None:
        """Other routes, as for :meth:`add`; an unknown number is no error."""
        with self._lock:
            ours = self._find(fd)
            if ours is not None:
                live = routes if isinstance(routes, dict) else dict(routes)
                self._served[ours] = (live, fallback, *self._served[ours][2:])

    def remove(self, fd: int, late: _core.Route | None = None) -> None:
        """Stop to serve; an unknown number is no error, ``ended`` is not called.

        What was received and not yet routed goes to ``late``; without that it is answered ENOSYS,
        as if the listener were closed.
        """
        with self._lock:
            ours = self._find(fd)
            if ours is not None:
                ended = self._served[ours][2]
                self._drop(ours)
                if late is not None:
                    self._served[ours] = ({}, late, ended, _REMOVED)
                self._settle()

    def run_once(self, timeout: float | None) -> int:
        """One round: how many notifications were received.

        :param timeout: seconds, rounded up to milliseconds; None waits for ever.  It may come back
            early with 0, after a signal's Python handler ran.
        :raises ValueError: if the engine is closed, or runs in another thread.
        :raises OSError: if epoll or RECV fail in a way that is no ordinary event.

        A reply after the caller is gone, or was answered, is ignored.  Of several exceptions in a
        round the first is raised, the others go to :func:`sys.unraisablehook`.
        """
        return self._run(timeout, 1)

    def run(self, timeout: float | None) -> int:
        """Rounds without end, until :meth:`wake`, a listener's end, an exception, or ``timeout``
        seconds in which nothing came; how many notifications were received.  Errors as in
        :meth:`run_once`."""
        return self._run(timeout, 0)

    def _run(self, timeout: float | None, rounds: int) -> int:
        if timeout is None:
            wait = -1
        else:
            wait = min(math.ceil(timeout * 1000), _LONGEST) if timeout > 0 else 0
        with self._lock:
            if self._closed or self._running:
                raise ValueError("this engine is closed, or runs in another thread")
            self._running = True
        try:
            return _core.serve(
                self._epoll.fileno(), self._event, self._served, self._hung, wait, rounds
            )
        finally:
            ended = self._end_round()
            for call in ended:
                call()

    def _end_round(self) -> list[Callable[[], object]]:
        """Forget the listeners under whose filter nobody is left; what is to be called for them."""
        ended = []
        with self._lock:
            self._running = False
            for ours in self._hung:
                if ours in self._served and self._served[ours][3] != _REMOVED:
                    ended.append(self._served[ours][2])
                    self._drop(ours)
            self._hung.clear()
            self._settle()
        return ended

    def wake(self) -> None:
        """Make a waiting, or else the next, :meth:`run_once` return."""
        with self._lock:
            self._wake()

    def close(self) -> None:
        """Give up everything held, at the end of a round that is under way; idempotent."""
        with self._lock:
            self._closed = True
            self._settle()

    def after_fork(self) -> None:
        """In a child of fork(2): give up the duplicates of listeners there.

        Nothing is locked (whoever held the lock does not exist in the child) and nothing taken out
        of the epoll, which the child shares with its parent."""
        self._lock = _thread.allocate_lock()
        self._running, self._closed = False, True
        for ours in {*self._served, *self._leaving}:
            os.close(ours)
        self._served.clear()
        self._leaving.clear()

    def _find(self, fd: int) -> int | None:
        return next((ours for ours, entry in self._served.items() if entry[3] == fd), None)

    def _drop(self, ours: int) -> None:
        del self._served[ours]
        self._epoll.unregister(ours)
        self._leaving.append(ours)

    def _wake(self) -> None:
        if self._event >= 0:
            try:
                os.eventfd_write(self._event, 1)
            except BlockingIOError:
                pass  # the counter is full: it is awake enough

    def _settle(self) -> None:
        """Close what is to be closed, unless a round is under way: that one does it at its end."""
        if self._running:
            self._wake()
            return
        while self._leaving:
            ours = self._leaving.pop()
            self._served.pop(ours, None)
            os.close(ours)
        if self._closed and self._event >= 0:
            while self._served:  # one by one: if another thread forks, after_fork() closes the rest
                os.close(self._served.popitem()[0])
            self._epoll.close()
            os.close(self._event)
            self._event = -1

    def __del__(self) -> None:
        if hasattr(self, "_closed"):  # not if __init__ failed
            self._running = False
            self.close()
