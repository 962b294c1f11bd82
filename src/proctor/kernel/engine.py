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
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from proctor.kernel import _core

#: The longest wait of epoll(7), in milliseconds.
_LONGEST = 2**31 - 1
#: How to wait for the role: for a stall only; for a stall, or until nobody has it; it is wanted now.
HELP, SERVE, INSIST = range(3)


class Stalls(Protocol):
    """Who is told when the thread that routes a listener's call loses the role over it."""

    def overtaken(self, notification: Any) -> object:
        """The call is still being routed; another thread receives from now on.  Called on that."""
        ...

    def settle(self, notification: Any, wire: _core.Wire | None) -> object:
        """The thread has come to its end: it returned ``wire``, which is not sent.  Called on it."""
        ...


class _Nobody:
    """For those who never lose the role, since nobody stands by."""

    def overtaken(self, notification: Any) -> None:
        """See :class:`Stalls`."""

    def settle(self, notification: Any, wire: _core.Wire | None) -> None:
        """See :class:`Stalls`."""


class _Own:
    """What the core passes on for us."""

    __slots__ = ("ended", "fd", "overtaken", "removed")

    def __init__(
        self, fd: int, ended: Callable[[], object], overtaken: Callable[[Any], object]
    ) -> None:
        #: The caller's number.
        self.fd = fd
        self.ended = ended
        self.overtaken = overtaken
        #: In this round.
        self.removed = False


class Engine:
    """Receive, look the handler up, call it, answer.

    Any thread may call any method.  Whoever receives, in :meth:`run_once`, :meth:`run` or
    :meth:`serve`, is the only one to do so; nothing is called back but from there.
    """

    __slots__ = ("_closed", "_hung", "_leaving", "_lock", "_loop", "_running", "_served")

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._loop = _core.Loop()
        #: By the number of our duplicate, as the core wants it.
        self._served: dict[int, tuple[Any, Any, Any, _Own]] = {}
        self._leaving: list[int] = []  # duplicates to close once no round can be using them
        self._hung: list[int] = []
        #: Token of the round that is under way; 0 for none, -1 for one whose thread lost the role and
        #: which the next has not gone on with.
        self._running = 0
        self._closed = False

    def add(
        self,
        fd: int,
        routes: Mapping[int, _core.Route],
        fallback: _core.Route,
        ended: Callable[[], object],
        *,
        stalls: Stalls | None = None,
        journal: memoryview | bytearray | None = None,
    ) -> None:
        """Start to serve the listener ``fd``; a dict of ``routes`` is looked into as
        it is then (it may grow while serving), any other mapping is copied.

        :param journal: memory of a :class:`~proctor.kernel.journal.Journal`.
        :raises FileExistsError: if ``fd`` is served already.
        :raises ValueError: if the engine is closed.
        """
        told = stalls if stalls is not None else _Nobody()
        with self._lock:
            if self._closed:
                raise ValueError("this engine is closed")
            if self._find(fd) is not None:
                raise FileExistsError(errno.EEXIST, f"descriptor {fd} is served already")
            ours = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            live = routes if isinstance(routes, dict) else dict(routes)
            self._served[ours] = (live, fallback, told.settle, _Own(fd, ended, told.overtaken))
            try:
                self._loop.watch(ours, True, journal)
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
                _, _, settle, own = self._served[ours]
                own.removed = True
                self._drop(ours)
                if late is not None:
                    self._served[ours] = ({}, late, settle, own)
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
        with self._lock:
            if self._closed or self._running:
                raise ValueError("this engine is closed, or runs in another thread")
        token = self.lead(SERVE, _ignore)
        try:
            return self.serve(token, timeout, rounds)
        finally:
            self.resign(token)

    # The role -----------------------------------------------------------------------------------
    def lead(self, how: int, taken: Callable[[Any], object]) -> int:
        """Wait for the role of receiving; see :meth:`_core.Loop.lead <Loop>`.

        :param taken: called with the work in which another thread stalled, unless that is a listener's
            call, whose :class:`Stalls` is told.
        :returns: the token; 0 if enough threads wait, or the engine is closed.
        """

        def lost(way: Any, what: Any) -> None:
            with self._lock:
                self._running = -1
            if type(way) is tuple and what is not None:
                way[3].overtaken(what)
            else:
                taken(way)

        return self._loop.lead(how, lost)

    def serve(self, token: int, timeout: float | None, rounds: int) -> int:
        """At most so many rounds (0: without end, as :meth:`run`); how many notifications were
        received, -1 if the role is lost."""
        if timeout is None:
            wait = -1
        else:
            wait = min(math.ceil(timeout * 1000), _LONGEST) if timeout > 0 else 0
        with self._lock:
            if self._closed:
                raise ValueError("this engine is closed")
            self._running = token
        try:
            count = self._loop.serve(token, self._served, self._hung, wait, rounds)
        finally:
            ended = self._end_round(token)
            had = True
            for call in ended:
                if had:
                    had = self._loop.attend(token, call)
                else:
                    call()
        return count if had else -1

    def attend(self, token: int, work: Callable[[], object]) -> bool:
        """Call ``work`` as something that is routed; False if the role was lost over it."""
        return self._loop.attend(token, work)

    def resign(self, token: int) -> None:
        """Give the role up."""
        self._loop.resign(token)
        with self._lock:
            if self._running == -1:
                self._running = 0
                self._settle()

    def _end_round(self, token: int) -> list[Callable[[], object]]:
        """Forget the listeners under whose filter nobody is left; what is to be called for them."""
        ended: list[Callable[[], object]] = []
        with self._lock:
            if self._running != token:
                return ended  # the next thread's
            self._running = 0
            for ours in self._hung:
                if ours in self._served and not self._served[ours][3].removed:
                    ended.append(self._served[ours][3].ended)
                    self._drop(ours)
            self._hung.clear()
            self._settle()
        return ended

    def wake(self) -> None:
        """Make a waiting, or else the next, :meth:`run_once` return."""
        self._loop.wake()

    def close(self) -> None:
        """Give up everything held, at the end of a round that is under way; idempotent."""
        with self._lock:
            self._closed = True
            self._loop.close()
            self._settle()

    def after_fork(self) -> None:
        """In a child of fork(2): give up the duplicates of listeners there.

        Nothing is locked (whoever held the lock does not exist in the child) and nothing taken out
        of the epoll, which the child shares with its parent."""
        self._lock = _thread.allocate_lock()
        self._running, self._closed = 0, True
        for ours in {*self._served, *self._leaving}:
            os.close(ours)
        self._served.clear()
        self._leaving.clear()

    def _find(self, fd: int) -> int | None:
        return next(
            (
                ours
                for ours, entry in self._served.items()
                if entry[3].fd == fd and not entry[3].removed
            ),
            None,
        )

    def _drop(self, ours: int) -> None:
        del self._served[ours]
        self._loop.unwatch(ours)
        self._leaving.append(ours)

    def _settle(self) -> None:
        """Close what is to be closed, unless a round is under way: that one does it at its end."""
        if self._running:
            self._loop.wake()
            return
        self._loop.forget()
        while self._leaving:
            ours = self._leaving.pop()
            self._served.pop(ours, None)
            os.close(ours)
        if self._closed:
            while self._served:  # one by one: if another thread forks, after_fork() closes the rest
                os.close(self._served.popitem()[0])
            self._loop.shut()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):  # not if __init__ failed
            self._running = 0
            self.close()


def _ignore(work: object) -> None:
    """Nobody stands by."""
