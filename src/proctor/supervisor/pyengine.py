"""The engine in plain Python, over a small :class:`Poller`.

It says what an engine does, in the fewest lines; the native engine does the same, faster.
The executable model runs the supervisor on this one with a poller of its own, and so does every
machine where the native core is not wanted.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from proctor.errors import AlreadyAnswered
from proctor.kernel.journal import FREE
from proctor.supervisor.ports import route_key

if TYPE_CHECKING:
    from proctor.kernel.journal import Journal
    from proctor.kernel.notification import NotificationLike
    from proctor.supervisor.ports import ListenerPort, Route

#: Poll bits; the same numbers as :data:`select.POLLIN` and so on, which Windows lacks.
POLLIN: Final = 0x001
POLLERR: Final = 0x008
POLLHUP: Final = 0x010
POLLNVAL: Final = 0x020

#: Notifications received from one listener before its neighbours have their turn.
BATCH: Final = 32


class Poller(Protocol):
    """Level-triggered waiting for IN and HUP on listeners, by their number."""

    def register(self, fd: int) -> None:
        """Start to watch."""
        ...

    def unregister(self, fd: int) -> None:
        """Stop to watch; an unknown number is no error."""
        ...

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """(number, poll bits) of everything ready; empty after :meth:`wake` or in time."""
        ...

    def ready(self, fd: int) -> bool:
        """Whether POLLIN is set on one listener right now."""
        ...

    def wake(self) -> None:
        """Make a waiting :meth:`wait`, or the next one, return."""
        ...

    def close(self) -> None:
        """Give up what is held."""
        ...


class EpollPoller:
    """:class:`Poller` over epoll(7) and an eventfd."""

    def __init__(self) -> None:
        import os
        import select
        import threading

        self._os = os
        self._select = select
        self._epoll = select.epoll()
        #: Nobody writes to a number that is being closed: it may be another file's then.
        self._lock = threading.Lock()
        self._waits = self._closed = False
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._event, POLLIN)

    def register(self, fd: int) -> None:
        """See :class:`Poller`."""
        self._epoll.register(fd, POLLIN)

    def unregister(self, fd: int) -> None:
        """See :class:`Poller`."""
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass  # closed already: the kernel forgot it by itself

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """See :class:`Poller`."""
        with self._lock:
            self._waits = True
        try:
            found = self._epoll.poll(timeout, 64)
            for at, (fd, _) in enumerate(found):
                if fd == self._event:
                    try:
                        self._os.eventfd_read(fd)
                    except BlockingIOError:
                        pass
                    del found[at]
                    break
            return found
        finally:
            with self._lock:
                self._waits = False
                if self._closed:
                    self._give_back()

    def ready(self, fd: int) -> bool:
        """See :class:`Poller`."""
        one = self._select.poll()
        one.register(fd, POLLIN)
        return any(bits & POLLIN for _, bits in one.poll(0))

    def wake(self) -> None:
        """See :class:`Poller`."""
        with self._lock:
            self._wake()

    def _wake(self) -> None:
        if self._event >= 0:
            try:
                self._os.eventfd_write(self._event, 1)
            except BlockingIOError:
                pass  # the counter is full: it is awake enough

    def close(self) -> None:
        """See :class:`Poller`."""
        with self._lock:
            self._closed = True
            if self._waits:
                self._wake()  # what is closed under a wait does not end it: the waiting thread closes
            else:
                self._give_back()

    def _give_back(self) -> None:
        self._epoll.close()
        event, self._event = self._event, -1
        if event >= 0:
            self._os.close(event)


class _Served:
    __slots__ = ("ended", "journal", "late", "listener", "serial", "ways")

    def __init__(
        self,
        serial: int,
        listener: ListenerPort,
        routes: Mapping[int, Route],
        fallback: Route,
        ended: Callable[[], object],
        journal: Journal | None,
    ) -> None:
        self.journal = journal
        self.serial = serial
        self.listener = listener
        self.ways = (routes, fallback)
        self.ended = ended
        self.late: Route = _as_if_closed


class PyEngine:
    """See :class:`proctor.supervisor.ports.Engine`, whose contract this is word by word."""

    def __init__(self, poller: Poller, clock: Callable[[], float] = time.monotonic) -> None:
        self._poller = poller
        self._clock = clock
        self._served: dict[int, _Served] = {}
        self._serials = itertools.count()
        self._leave = False  # run() is to return, though more may be coming

    def add(
        self,
        listener: ListenerPort,
        routes: Mapping[int, Route],
        fallback: Route,
        ended: Callable[[], object],
        *,
        journal: Journal | None = None,
    ) -> None:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        fd = listener.fileno()
        served = _Served(next(self._serials), listener, routes, fallback, ended, journal)
        self._served[fd] = served
        try:
            self._poller.register(fd)
        except BaseException:
            del self._served[fd]
            raise

    def reroute(self, listener: ListenerPort, routes: Mapping[int, Route], fallback: Route) -> None:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        served = self._served.get(listener.fileno())
        if served is not None:
            served.ways = (routes, fallback)

    def remove(self, listener: ListenerPort, late: Route | None = None) -> None:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        fd = listener.fileno()
        served = self._served.get(fd)
        if served is not None:
            served.late = late or served.late
            if self._served.pop(fd, None) is not None:  # else its end was faster
                self._poller.unregister(fd)

    def run_once(self, timeout: float | None) -> int:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        batch: deque[tuple[int, _Served, NotificationLike]] = deque()
        began = next(self._serials)
        problem: BaseException | None = None  # for after the batch: its callers wait for answers
        for fd, bits in self._poller.wait(timeout):
            served = self._served.get(fd)
            if served is None or served.serial > began:
                continue  # the number may have been another listener's when the wait was over
            if bits & POLLIN:
                try:
                    self._receive(fd, served, batch)
                except (OSError, ValueError) as raised:
                    problem = problem or raised
            elif bits & (POLLHUP | POLLNVAL):
                if self._served.pop(fd, None) is None:
                    continue  # another thread removed it just now
                self._poller.unregister(fd)
                self._leave = True
                served.ended()
        count = len(batch)
        while batch:
            fd, served, notification = batch.popleft()
            try:
                if self._served.get(fd) is served:
                    self._route(served, notification)
                else:
                    self._removed(served, notification)
            except BaseException as raised:
                problem = problem or raised
        if problem is not None:
            raise problem
        return count

    def run(self, timeout: float | None) -> int:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        total = 0
        while count := self.run_once(timeout):
            total += count
            if self._leave:
                break
        self._leave = False
        return total

    def _receive(
        self, fd: int, served: _Served, batch: deque[tuple[int, _Served, NotificationLike]]
    ) -> None:
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
                batch.append((fd, served, notification))
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

    @staticmethod
    def _removed(served: _Served, notification: NotificationLike) -> None:
        """Received, and then another thread removed the listener."""
        try:
            reply = served.late(notification)
            if reply is not None:
                _send(served, notification, reply)
        except (OSError, ValueError):
            pass  # its new owner closed it: the kernel answered

    @staticmethod
    def _route(served: _Served, notification: NotificationLike) -> None:
        key = route_key(notification.arch, notification.nr)
        try:
            routes, fallback = served.ways
            reply = routes.get(key, fallback)(notification)
            if reply is not None:
                _send(served, notification, reply)
        except BaseException:
            _send(served, notification, (0, -errno.EPERM, 0))
            raise

    def wake(self) -> None:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        self._leave = True
        self._poller.wake()

    def after_fork(self) -> None:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        self._served.clear()

    def close(self) -> None:
        """See :class:`~proctor.supervisor.ports.Engine`."""
        self._served.clear()
        self._poller.close()


def _as_if_closed(notification: NotificationLike) -> tuple[int, int, int]:
    return (0, -errno.ENOSYS, 0)


def _send(served: _Served, notification: NotificationLike, reply: tuple[int, int, int]) -> None:
    try:
        served.listener.send(notification.id, *reply)
    except AlreadyAnswered:
        pass  # the route answered by itself and returned a reply as well; the first one stands
    if served.journal is not None:
        served.journal.clear(notification)
