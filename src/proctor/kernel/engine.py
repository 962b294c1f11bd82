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
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from proctor.kernel import _core
from proctor.kernel.listener import Listener
from proctor.kernel.stalls import LOOK, Stalls

if TYPE_CHECKING:
    from proctor.kernel.journal import Journal, Pending

#: The longest wait of epoll(7), in milliseconds.
_LONGEST = 2**31 - 1


class HasFileno(Protocol):
    """A listener, as far as an engine is concerned."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class _Own:
    """What the core passes on for us."""

    __slots__ = ("ended", "fd", "removed", "stalls")

    def __init__(self, fd: int, ended: Callable[[], object] | None, stalls: Stalls | None) -> None:
        #: The caller's number.
        self.fd = fd
        #: None for what is no listener.
        self.ended = ended
        self.stalls = stalls
        #: In this round.
        self.removed = False


class Engine:
    """Receive, look the handler up, call it, answer: see :class:`proctor.supervisor.ports.Engine`; here is what that
    leaves open.

    Any thread may call any method.  Whoever receives, in :meth:`serve`, is the only one to do so; nothing is called
    back but from there.
    """

    __slots__ = (
        "_closed", "_duplicates", "_ended", "_hung", "_leaving", "_lock", "_loop", "_running", "_served",
    )  # fmt: skip

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._loop = _core.Loop()
        #: By the number of our duplicate, as the core wants it.
        self._served: dict[int, tuple[Any, Any, Any, _Own, Any]] = {}
        #: Of listeners, by their own numbers.
        self._duplicates: dict[int, int] = {}
        self._leaving: list[int] = []  # duplicates to close once no round can be using them
        self._hung: list[int] = []
        #: What is to be called for listeners that ended.
        self._ended: deque[Callable[[], object]] = deque()
        #: Token of the round that is under way; 0 for none, -1 for one whose thread lost the role and
        #: which the next has not gone on with.
        self._running = 0
        self._closed = False

    def add(
        self,
        listener: int | HasFileno,
        routes: Mapping[int, _core.Route],
        fallback: _core.Route,
        ended: Callable[[], object],
        *,
        stalls: Stalls | None = None,
        journal: Journal | None = None,
    ) -> None:
        """A dict of ``routes`` is looked into as it is then (it may grow while serving), any other mapping is copied.

        :raises FileExistsError: if it is served already.
        :raises ValueError: if the engine is closed.
        """
        fd = _number(listener)
        with self._lock:
            if self._closed:
                raise ValueError("this engine is closed")
            if fd in self._duplicates:
                raise FileExistsError(errno.EEXIST, f"descriptor {fd} is served already")
            ours = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            self._served[ours] = _entry(routes, fallback, _Own(fd, ended, stalls))
            try:
                self._loop.watch(ours, True, None if journal is None else journal.buffer)
            except BaseException:
                del self._served[ours]
                os.close(ours)
                raise
            self._duplicates[fd] = ours

    def makers(self, listener: int | HasFileno) -> Any:
        """What has the types that make routes: the core, for listeners that are the kernel's and nothing more."""
        return _core if type(listener) is Listener else None

    def adopt(self, listener: int | HasFileno, journal: Journal) -> list[Pending]:
        fd = _number(listener)
        with self._lock:
            if fd in self._duplicates:
                raise FileExistsError(errno.EEXIST, f"descriptor {fd} is served already")
        return journal.adopt(lambda id: _core.id_valid(fd, id))

    def reroute(
        self,
        listener: int | HasFileno,
        routes: Mapping[int, _core.Route],
        fallback: _core.Route,
        *,
        stalls: Stalls | None = None,
    ) -> None:
        fd = _number(listener)
        with self._lock:
            ours = self._duplicates.get(fd)
            if ours is not None:
                own = self._served[ours][3]
                self._served[ours] = _entry(routes, fallback, _Own(fd, own.ended, stalls))

    def remove(self, listener: int | HasFileno, late: _core.Route | None = None) -> None:
        """An unknown listener is no error."""
        fd = _number(listener)
        with self._lock:
            ours = self._duplicates.get(fd)
            if ours is not None:
                own = self._served[ours][3]
                own.removed = True
                self._drop(ours)
                if late is not None:
                    self._served[ours] = _entry({}, late, own)
                self._settle()

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """
        :raises OSError: it cannot be waited for (EPERM), or not by as many (ENOSPC)."""
        with self._lock:
            before = self._served.get(fd)
            # first: it may be readable at once, and whoever has the role looks only once
            self._served[fd] = _entry({}, callback, _Own(fd, None, None))
            try:
                self._loop.watch(fd, False, None)
            except BaseException:
                if before is None:
                    del self._served[fd]
                else:
                    self._served[fd] = before
                raise

    def unwatch(self, fd: int) -> None:
        with self._lock:
            if fd in self._served and self._served[fd][3].ended is None:
                del self._served[fd]
                self._loop.unwatch(fd)

    # The role -----------------------------------------------------------------------------------
    def lead(
        self,
        how: int,
        taken: Callable[[Any], object],
        patience: float | None = None,
        due: Callable[[], float | None] | None = None,
    ) -> int:

        def needed() -> float | None:
            return 0.0 if self._ended or due is None else due()

        def lost(way: Any, what: Any) -> None:
            with self._lock:
                self._running = -1
            if type(way) is tuple and way[3].stalls is not None:
                way[3].stalls.overtaken(what)
            else:
                taken(way[1] if type(way) is tuple else way)

        looks = -1 if patience is None else math.ceil(patience / LOOK)
        return self._loop.lead(how, lost, looks, needed)

    def has(self, token: int) -> bool:
        return self._loop.generation == token

    @property
    def standing(self) -> bool:
        return self._loop.standing > 0

    @property
    def wanted(self) -> bool:
        return self._loop.wanted > 0

    def serve(self, token: int, timeout: float | None, rounds: int) -> int:
        """
        :param timeout: rounded up to milliseconds.  It may come back early with 0, after a signal's Python handler ran.
        :raises ValueError: if the engine is closed.
        :raises OSError: if epoll or RECV fail in a way that is no ordinary event.

        A reply after the caller is gone, or was answered, is ignored.  Of several exceptions in a
        round the first is raised, the others go to :func:`sys.unraisablehook`.
        """
        if timeout is None:
            wait = -1
        else:
            wait = min(math.ceil(timeout * 1000), _LONGEST) if timeout > 0 else 0
        with self._lock:
            if self._closed:
                self._running = 0
                self._settle()
                raise ValueError("this engine is closed")
        had = self._tell_ended(token)  # whoever had the role may have left some
        if not had:
            return -1
        with self._lock:
            self._running = token
        try:
            count = self._loop.serve(token, self._served, self._hung, wait, rounds)
        finally:
            self._end_round(token)
            had = self._tell_ended(token)
        return count if had else -1

    def _tell_ended(self, token: int) -> bool:
        """Call what is to be called for listeners that ended; False if the role is lost over it."""
        had = self._loop.generation == token
        while had and self._ended:
            had = self._loop.attend(token, self._ended.popleft())
        return had

    def attend(self, token: int, work: Callable[[], object]) -> bool:
        return self._loop.attend(token, work)

    def surrender(self) -> None:
        self._loop.surrender()

    def claim(self) -> bool:
        return _core.claim_routed()

    def resign(self, token: int) -> None:
        self._loop.resign(token)

    def _end_round(self, token: int) -> None:
        """Forget the listeners under whose filter nobody is left."""
        with self._lock:
            if self._loop.generation != token:
                return  # this round is another thread's now
            self._running = 0
            for ours in self._hung:
                own = self._served[ours][3] if ours in self._served else None
                if own is not None and own.ended is not None and not own.removed:
                    self._ended.append(own.ended)
                    self._drop(ours)
            self._hung.clear()
            self._settle()

    def wake(self) -> None:
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
        self._loop.disown()
        for ours in {*self._served, *self._leaving}:
            if ours not in self._served or self._served[ours][3].ended is not None:
                os.close(ours)
        self._served.clear()
        self._duplicates.clear()
        self._leaving.clear()

    def _drop(self, ours: int) -> None:
        del self._duplicates[self._served.pop(ours)[3].fd]
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
            self._loop.let_go(ours)
        if self._closed:
            self._duplicates.clear()
            while self._served:  # one by one: if another thread forks, after_fork() closes the rest
                ours, entry = self._served.popitem()
                if entry[3].ended is not None:
                    self._loop.let_go(ours)
            self._loop.shut()

    def __del__(self) -> None:
        if hasattr(self, "_closed"):  # not if __init__ failed
            self._running = 0
            self.close()


def _number(listener: int | HasFileno) -> int:
    return listener if isinstance(listener, int) else listener.fileno()


def _entry(
    routes: Mapping[int, _core.Route], fallback: Callable[..., Any], own: _Own
) -> tuple[Any, Any, Any, _Own, Any]:
    live = routes if isinstance(routes, dict) else dict(routes)
    stalls = own.stalls
    if stalls is None:
        return live, fallback, _nothing, own, _nothing
    return live, fallback, stalls.settle, own, stalls.amend


def _nothing(*_: object) -> None:
    """Nobody stands by."""
