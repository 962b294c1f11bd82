"""The engine in plain Python, over a small :class:`~proctor.supervisor.poller.Poller`.

It says what an engine does, in the fewest lines; the native engine does the same, faster.
The executable model runs the supervisor on this one with a poller of its own, and so does every
machine where the native core is not wanted.
"""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Optional

from proctor.kernel.journal import FREE
from proctor.kernel.stalls import HELP, INSIST, LOOK, PATIENCE, SERVE
from proctor.supervisor.jobs import reply
from proctor.supervisor.poller import POLLHUP, POLLIN, POLLNVAL, Poller
from proctor.supervisor.ports import route_key

if TYPE_CHECKING:
    from proctor.kernel.journal import Journal, Pending
    from proctor.kernel.notification import NotificationLike
    from proctor.kernel.stalls import Stalls
    from proctor.supervisor.ports import ListenerPort, Route
    from proctor.supervisor.world_port import Lock

#: Notifications received from one listener before its neighbours have their turn.
BATCH: Final = 32
#: Looks at somebody who does nothing, after which one looks again only when told.
_IDLE: Final = 2
#: What is routed: a listener's call, or, with None, what else is called.
_At = tuple[Optional["Stalls"], Any]


class _Served:
    __slots__ = ("ended", "journal", "late", "listener", "serial", "ways")

    def __init__(
        self,
        serial: int,
        listener: ListenerPort,
        ways: tuple[Mapping[int, Route], Route, Stalls | None],
        ended: Callable[[], object],
        journal: Journal | None,
    ) -> None:
        self.serial = serial
        self.listener = listener
        self.ways = ways
        self.ended = ended
        self.journal = journal
        self.late: Route = _as_if_closed


class PyEngine:
    """See :class:`proctor.supervisor.ports.Engine`, whose contract this is word by word."""

    def __init__(
        self,
        poller: Poller,
        clock: Callable[[], float] = time.monotonic,
        lock: Callable[[], Lock] = threading.Lock,
    ) -> None:
        self._poller = poller
        self._clock = clock
        self._served: dict[int, _Served] = {}
        self._watched: dict[int, Callable[[], object]] = {}
        self._serials = itertools.count()
        self._leave = False  # serve() is to return, though more may be coming
        #: What was received and is not routed; these are the role's.
        self._batch: deque[tuple[int, _Served, NotificationLike]] = deque()
        #: What else is to be called.
        self._others: deque[Callable[[], object]] = deque()
        #: Guards what follows: who has the role, and what they are at; and that what is served no more is
        #: not waited for.
        self._lock = lock()
        self._led = False
        self._generation = 0
        #: Odd while something is being routed.
        self._serial = 0
        self._at: _At = (None, None)
        #: When that was last expected to take long.
        self._surrendered = -1
        self._insist = 0
        self.standing = False
        #: Whoever stands by sleeps, and wants to be told when something is routed.
        self._asleep = False
        self._closed = False

    # What is served -----------------------------------------------------------------------------
    def add(
        self,
        listener: ListenerPort,
        routes: Mapping[int, Route],
        fallback: Route,
        ended: Callable[[], object],
        *,
        stalls: Stalls | None = None,
        journal: Journal | None = None,
    ) -> None:
        fd = listener.fileno()
        ways = (routes, fallback, stalls)
        self._served[fd] = _Served(next(self._serials), listener, ways, ended, journal)
        try:
            self._poller.register(fd)
        except BaseException:
            del self._served[fd]
            raise

    def makers(self, listener: ListenerPort) -> None:
        """Nothing is faster than Python here."""

    def adopt(self, listener: ListenerPort, journal: Journal) -> list[Pending]:
        if listener.fileno() in self._served:
            raise FileExistsError(errno.EEXIST, f"{listener.fileno()} is served already")
        return journal.adopt(listener.id_valid)

    def reroute(
        self,
        listener: ListenerPort,
        routes: Mapping[int, Route],
        fallback: Route,
        *,
        stalls: Stalls | None = None,
    ) -> None:
        served = self._served.get(listener.fileno())
        if served is not None:
            served.ways = (routes, fallback, stalls)

    def remove(self, listener: ListenerPort, late: Route | None = None) -> None:
        fd = listener.fileno()
        served = self._served.get(fd)
        if served is not None:
            served.late = late or served.late
            with self._lock:
                if self._served.pop(fd, None) is not None:  # else its end was faster
                    self._poller.unregister(fd)

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        with self._lock:  # whoever finds it readable looks then for whom that is
            self._poller.register(fd)
            self._watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        with self._lock:
            if self._watched.pop(fd, None) is not None:
                self._poller.unregister(fd)

    # The role -----------------------------------------------------------------------------------
    def lead(
        self,
        how: int,
        taken: Callable[[Any], object],
        patience: float | None = None,
        due: Callable[[], float | None] | None = None,
    ) -> int:
        with self._lock:
            token = self._take(how)
            if token or (how != INSIST and self.standing):
                return token
            self._insist += how == INSIST
            self.standing = self.standing or how != INSIST
            seen = self._serial
        until = None if patience is None else self._clock() + patience
        try:
            token, at = self._look(how, seen, until, due)
        finally:
            with self._lock:
                self._insist -= how == INSIST
                if how != INSIST:
                    self.standing = self._asleep = False
        if at is not None:
            stalls, what = at
            if stalls is not None:
                stalls.overtaken(what)
            else:
                taken(what)
        return token

    def _look(
        self,
        how: int,
        seen: int,
        until: float | None,
        due: Callable[[], float | None] | None,
    ) -> tuple[int, _At | None]:
        """Look at whoever has the role until it is ours: (the token or 0, what the other one stalled in
        if it did)."""
        idle = 0
        while True:
            sleeps = how != INSIST and idle >= _IDLE
            rung = self._poller.rung()  # before all that is looked at: a later ring ends the wait
            if how == INSIST:
                self.wake()
            else:
                self._asleep = sleeps  # said first, and then the serial is looked at
            quiet = self._serial == seen and self._led and not self._closed
            if (not sleeps or quiet) and self._serial != self._surrendered:
                self._poller.look(None if sleeps else LOOK, rung)
            with self._lock:
                token = self._take(how)
                if token or self._closed or (until is not None and self._clock() >= until):
                    return token, None
                now = self._serial
                stalls = now % 2 != 0 and now in (seen, self._surrendered)
            if stalls:
                if how != INSIST and due is not None:
                    self._hold_on(now, due)
                with self._lock:
                    if self._serial == now and not self._closed:
                        # it still is where it was: the role is ours
                        at, self._at = self._at, (None, None)
                        self._generation += 1
                        self._serial += 1
                        return self._generation, at
            idle = idle + 1 if now == seen and not sleeps else 0
            seen = now

    def _hold_on(self, seen: int, due: Callable[[], float | None]) -> None:
        """Where somebody stalls: until the role is needed, or something else is being routed."""
        left = due()
        until = self._clock() + (PATIENCE if left is None else min(left, PATIENCE))
        while self._serial == seen and not self._closed and self._clock() < until:
            if self._batch or self._others or self._poller.some(LOOK):
                break

    def _take(self, how: int) -> int:
        """The role, if nobody has it and it is for the asking (the lock is held)."""
        if self._led or self._closed or how == HELP or (how == SERVE and self._insist):
            return 0
        self._led = True
        self._generation += 1
        return self._generation

    def has(self, token: int) -> bool:
        return self._generation == token

    @property
    def wanted(self) -> bool:
        return self._insist > 0

    def surrender(self) -> None:
        now = self._serial
        if now % 2 != 0:
            self._surrendered = now
            self._poller.ring()

    def claim(self) -> bool:
        return False

    def resign(self, token: int) -> None:
        with self._lock:
            if self._generation == token:
                self._led = False
        self._poller.ring()

    def attend(self, token: int, work: Callable[[], object]) -> bool:
        return self._generation == token and self._called(token, (None, work), work)[1]

    def _called(self, token: int, at: _At, work: Callable[[], Any]) -> tuple[Any, bool]:
        """Call what is routed, where the role can be lost: (what it returned, whether it was not)."""
        self._at = at
        self._serial += 1
        if self._asleep:
            self._poller.ring()
        had = False
        try:
            result = work()
        finally:
            with self._lock:
                had = self._generation == token
                if had:
                    self._serial += 1
                    self._at = (None, None)
        return result, had

    # Rounds -------------------------------------------------------------------------------------
    def serve(self, token: int, timeout: float | None, rounds: int) -> int:
        total = 0
        until = None if timeout is None else self._clock() + timeout
        while self._generation == token:
            found = self._round(token, timeout)
            if found < 0:
                break
            total += found
            leave, self._leave = self._leave, False
            if until is not None:
                timeout = until - self._clock()
            if (
                rounds
                or not found
                or leave
                or self._insist
                or (timeout is not None and timeout <= 0)
            ):
                return total
        return -1

    def _round(self, token: int, timeout: float | None) -> int:
        """One round: how many notifications there were, -1 if the role is lost."""
        problem: BaseException | None = None  # for after the batch: its callers wait for answers
        batch, others = self._batch, self._others
        if not batch and not others:  # otherwise whoever had the role left something
            began = next(self._serials)
            for fd, bits in self._poller.wait(timeout):
                served, callback = self._served.get(fd), self._watched.get(fd)
                if callback is not None:
                    with self._lock:
                        if self._watched.get(fd) is not callback:
                            continue  # its number may be another one's by now
                        self._poller.unregister(fd)
                    others.append(callback)
                elif served is None:
                    with (
                        self._lock
                    ):  # whoever removes it just now is done with that before we look again
                        continue
                elif served.serial > began:
                    continue  # the number may have been another listener's when the wait was over
                elif bits & POLLIN:
                    try:
                        self._receive(fd, served)
                    except (OSError, ValueError) as raised:
                        problem = problem or raised
                elif bits & (POLLHUP | POLLNVAL):
                    with self._lock:
                        if self._served.pop(fd, None) is None:
                            continue  # another thread removed it just now
                        self._poller.unregister(fd)
                    self._leave = True
                    others.append(served.ended)
        count, had = len(batch), True
        while had and (batch or others):
            try:
                if batch:
                    had = self._route(token, *batch.popleft())
                else:
                    each = others.popleft()
                    had = self._called(token, (None, each), each)[1]
            except BaseException as raised:
                problem = problem or raised
                had = self._generation == token
        if problem is not None:
            raise problem
        return count if had else -1

    def _receive(self, fd: int, served: _Served) -> None:
        """Take what waits, at most BATCH: a received call can no longer be interrupted."""
        for _ in range(BATCH):
            if self._served.get(fd) is not served:
                return  # removed meanwhile; what was received already is answered all the same
            try:
                notification = self._recv(served)
            except (OSError, ValueError):
                if self._served.get(fd) is served:
                    raise
                return  # removed, and closed by its new owner
            if notification is not None:
                self._batch.append((fd, served, notification))
            if not self._poller.ready(fd):
                return

    def _recv(self, served: _Served) -> NotificationLike | None:
        """Receive one notification, into the journal if there is one: it is there before anybody but
        the kernel knows of it."""
        journal = served.journal
        if journal is None:
            return served.listener.recv()
        slot, place = journal.place()
        if place is None:
            return served.listener.recv()
        received = False
        try:
            notification = served.listener.recv(place, slot)
            received = notification is not None
        finally:
            if received:
                journal.received(slot, self._clock())
            else:
                journal.mark(slot, FREE)
        return notification

    def _route(self, token: int, fd: int, served: _Served, notification: NotificationLike) -> bool:
        """Whether the role was not lost over it."""
        routes, fallback, stalls = served.ways
        route = routes.get(route_key(notification.arch, notification.nr), fallback)
        removed = self._served.get(fd) is not served  # received, and then another thread removed it
        if removed:
            route = served.late
        had, said = True, None
        try:
            said, had = self._called(token, (stalls, notification), lambda: route(notification))
            if had and said is not None:
                reply(served, notification, said)
        except BaseException as problem:
            had = self._generation == token
            if removed and isinstance(problem, (OSError, ValueError)):
                return had  # its new owner closed it: the kernel answered
            said = (0, -errno.EPERM, 0)
            if had:
                reply(served, notification, said)
            raise
        finally:
            if not had and stalls is not None:
                stalls.settle(notification, said)
        return had

    def wake(self) -> None:
        self._leave = True
        self._poller.wake()

    def after_fork(self) -> None:
        self._closed = True
        self._generation += 1  # a thread that has the role, in a route, has lost it here
        self._served.clear()

    def close(self) -> None:
        self._closed = True
        self._served.clear()
        self._poller.ring()
        self._poller.close()


def _as_if_closed(notification: NotificationLike) -> tuple[int, int, int]:
    return (0, -errno.ENOSYS, 0)
