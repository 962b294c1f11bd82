"""A listener whose notifications somebody else receives (LXC's monitor), and asks about one after the other.

They are routed on the thread that receives, as those of listeners that are served here, but for the engine's own code, which
answers by the kernel's listener: the answer is to go to whoever asks.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from proctor.supervisor.answering import release
from proctor.supervisor.jobs import Served, reply
from proctor.supervisor.ports import route_key
from proctor.supervisor.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proctor.call.verdict import Wire
    from proctor.kernel.notification import NotificationLike
    from proctor.supervisor.deciding import Decider
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.world_port import Lock

#: What a caller gets where its route raises, as an engine has it: whoever asks waits for an answer.
_FAILED: Final = (0, -errno.EPERM, 0)


class Arrival:
    """What is received next by one :class:`Elsewhere`, on the thread that receives.

    :param receive: gives it, and where it came from; None: there is nothing to be decided here."""

    __slots__ = ("_lock", "_receive", "at", "lost")

    def __init__(
        self, lock: Lock, receive: Callable[[], tuple[NotificationLike, Elsewhere] | None]
    ) -> None:
        self._lock = lock
        self._receive = receive
        #: What is being routed.
        self.at: tuple[Elsewhere, NotificationLike] | None = None
        #: Somebody else has the role.
        self.lost = False

    def __call__(self) -> None:
        found = self._receive()
        if found is not None:
            notification, elsewhere = found
            elsewhere.arrived(notification, self)

    def overtaken(self) -> bool:
        """Somebody else has the role, on whose thread this is; False if nothing is being routed."""
        with self._lock:
            self.lost = True
            at = self.at
        if at is None:
            return False
        elsewhere, notification = at
        elsewhere.overtaken(notification)
        return True


class Elsewhere:
    """See the module.

    :param served: its port, which is closed with it, once no call needs it any more.
    :param handlers: those that decide now.
    :param routes: makes routes of handlers.
    :param closed: whether nothing is decided any more."""

    __slots__ = ("_closed", "_decider", "_handlers", "_lock", "_made", "_make", "_routes", "served")

    def __init__(
        self,
        served: Served,
        lock: Lock,
        decider: Decider,
        handlers: Callable[[], Sequence[Handler]],
        routes: Callable[[Sequence[Handler]], Routes],
        closed: Callable[[], bool],
    ) -> None:
        self.served = served
        self._lock = lock
        self._decider = decider
        self._handlers = handlers
        self._make = routes
        self._closed = closed
        #: Of which handlers the routes are made.
        self._made: Sequence[Handler] = handlers()
        self._routes = routes(self._made)
        served.left = self._left

    def _left(self, served: Served, how: str) -> None:
        served.journal = None

    def close(self) -> None:
        """Nothing comes from there any more.  Idempotent."""
        with self._lock:
            self.served.leaving = "closed"
        release(self.served, self._lock, self._decider.observers)

    def submit(self, notification: NotificationLike, *, begun: bool = False) -> None:
        """Decide one that was received on a thread that is not ours, when its turn comes; from any thread.

        :param begun: an earlier monitor had begun to perform it.
        :raises RuntimeError: nothing is decided any more."""
        with self._lock:
            if self._closed() or self.served.leaving:
                raise RuntimeError("nothing comes from there any more")
            self.served.running += 1
        try:
            job = self._current().job(notification)
            job.call.begun = begun
            self._decider.take_in(job)
        finally:
            self._done()

    def arrived(self, notification: NotificationLike, arrival: Arrival) -> None:
        """Decide it, on the thread that has the role, or has lost it over receiving this."""
        served = self.served
        with self._lock:
            if self._closed() or served.leaving:
                return  # it is left as it is
            served.running += 1
            if not arrival.lost:
                arrival.at = (self, notification)
        try:
            if arrival.at is None:
                self._decider.take_in(self._current().job(notification))
            else:
                self._route(notification, arrival)
        finally:
            self._done()

    def _done(self) -> None:
        with self._lock:
            self.served.running -= 1
        release(self.served, self._lock, self._decider.observers)

    def _current(self) -> Routes:
        handlers = self._handlers()
        if handlers is not self._made:
            self._made, self._routes = handlers, self._make(handlers)
        return self._routes

    def _route(self, notification: NotificationLike, arrival: Arrival) -> None:
        key = route_key(notification.arch, notification.nr)
        routes = self._routes
        wire: Wire | bool | None = _FAILED
        try:
            routes = self._current()
            wire = routes.known.get(key, routes.first_sight)(notification)
        finally:
            with self._lock:
                lost, arrival.at = arrival.lost, None
            if lost:
                routes.settle(notification, wire)
            elif wire is not None:
                reply(self.served, notification, wire)

    def overtaken(self, notification: NotificationLike) -> None:
        """Whoever routes it has lost the role."""
        self._routes.overtaken(notification)
