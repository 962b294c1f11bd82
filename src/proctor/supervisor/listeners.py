"""The listeners that a supervisor serves: how each begins, is decided by others, and ends."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from proctor.call.call import Call
from proctor.call.done import done
from proctor.given import one
from proctor.kernel.progress import DONE, NOTHING
from proctor.observe.events import ContainerAdded, ContainerEnded, TakenOver
from proctor.supervisor.answering import release
from proctor.supervisor.container import Container
from proctor.supervisor.elsewhere import Arrival, Elsewhere
from proctor.supervisor.handlers import Handler
from proctor.supervisor.jobs import Begun, Job, Served
from proctor.supervisor.routes import Routes, chain_of

if TYPE_CHECKING:
    import threading
    from collections import deque
    from collections.abc import Callable, Sequence

    from proctor.kernel.journal import Journal
    from proctor.kernel.notification import NotificationLike
    from proctor.supervisor.deciding import Decider
    from proctor.supervisor.ports import Engine, ListenerPort
    from proctor.supervisor.role import Role
    from proctor.supervisor.world_port import Lock, World

#: Seconds that nobody waits: what is done is the answer, whatever deadline there is for such calls.
_NEVER: Final = 1e6
CLOSED = "this supervisor is closed; make another one"


class Listeners:
    """What :class:`~proctor.supervisor.supervisor.Supervisor` says of listeners is done here.

    :param lock: the decider's.
    :param ended: told when there is one less, with that lock.
    :param handlers: for containers that have none of their own.
    :ivar served: those that are served, by the numbers of their descriptors.
    :ivar closed: whether no more are taken.
    """

    def __init__(
        self,
        world: World,
        lock: Lock,
        ended: threading.Condition,
        engine: Engine,
        decider: Decider,
        role: Role,
        handlers: tuple[Handler, ...],
    ) -> None:
        self._world = world
        self._lock = lock
        self._ended = ended
        self._engine = engine
        self._decider = decider
        self._observers = decider.observers
        self._role = role
        self._handlers = handlers
        self.served: dict[int, Served] = {}
        #: Whose submitted calls are being decided, by thread.
        self._submitted: WeakKeyDictionary[Container, dict[int, deque[Job]]] = WeakKeyDictionary()
        self._ending = 0
        #: Ends that observers are just being told of.
        self.telling = 0
        self.closed = False

    @property
    def any(self) -> bool:
        """Whether one is served, or is just coming to its end."""
        return bool(self.served or self._ending)

    def add(
        self,
        listener: ListenerPort,
        container: Container | None,
        on_end: Callable[[], object] | None,
        journal: Journal | None,
    ) -> None:
        """Serve one more."""
        container = Container() if container is None else a_container(container)
        number = _number(listener)
        if on_end is not None and not callable(on_end):
            raise TypeError(f"on_end={on_end!r}: it is called, without arguments")
        if journal is not None and not hasattr(journal, "buffer"):
            raise TypeError(f"journal={journal!r}: a proctor.Journal is wanted")
        served = Served(
            listener,
            container,
            self._decider.backlog.share(container),
            on_end,
            journal,
            number=number,
        )
        with self._lock:
            if self.closed:
                raise RuntimeError(CLOSED)
            if number in self.served:
                raise ValueError("this listener is served already")
            self.served[number] = served
            served.left = self._left
            served.running = 1  # who closes meanwhile leaves it open until we are done
            first = not served.share.listeners
            served.share.listeners += 1
        try:
            self._begin(served, first, journal)
        except BaseException:
            with self._lock:
                if self.served.get(number) is served:
                    del self.served[number]
                closed = self.closed
                served.keep |= not closed  # what detach() gave back stays open all the same
                served.given_up = True
            self._decider.abandon(served)
            self._leave(served, "closed")
            if closed:  # meanwhile, and the listener with it
                raise RuntimeError(CLOSED) from None
            raise
        finally:
            with self._lock:
                served.running -= 1
            release(served, self._lock, self._observers)
        self._engine.wake()

    def _begin(self, served: Served, first: bool, journal: Journal | None) -> None:
        """Serve it.

        :raises RuntimeError: everything was closed meanwhile."""
        handlers = served.handlers = self._handlers_of(served.container)
        if journal is not None and hasattr(served.listener, "journal"):
            served.listener.journal = journal.buffer
        routes = self._routes(served, handlers)
        served.late = routes.late
        if first:
            self._observers.tell(ContainerAdded(served.container))
        if journal is not None:
            self._take_over(served, journal, handlers)
        self._engine.add(
            served.listener, routes.known, routes.first_sight, lambda: self._end(served),
            stalls=routes, journal=journal,
        )  # fmt: skip
        if served.given_up:  # before there was anything to give up
            self._engine.remove(served.listener, served.late)
            self._decider.abandon(served)
            if self.closed:
                raise RuntimeError(CLOSED)

    def _routes(self, served: Served, handlers: Sequence[Handler]) -> Routes:
        return Routes(served, handlers, self._decider, self._role, self._world, self._engine)

    def _take_over(self, served: Served, journal: Journal, handlers: Sequence[Handler]) -> None:
        """Decide what an earlier monitor received and did not answer."""
        jobs = []
        for each in self._engine.adopt(served.listener, journal):
            call = Call(each.notification, served.listener, container=served.container)
            call.begun = each.performing
            call.untouched = each.known == NOTHING
            received = each.received
            if received is None:  # it was just being received
                received = self._world.clock()  # for whoever comes after us, too
                journal.received(each.slot, received)
            chain = chain_of(handlers, call.name)
            if each.given is not None:  # it has what it asked for, and is to be told
                chain = _telling(call, each.given)
            elif each.known == DONE:  # so is what was done, whatever is decided of such calls now
                chain = _telling(call, each.result)
            jobs.append(Job(call, chain, served, received))
        if jobs:
            self._observers.tell(TakenOver(served.container, len(jobs)))
        for job in jobs:
            self._decider.take_in(job)

    def _handlers_of(self, container: Container) -> tuple[Handler, ...]:
        return self._handlers if container.handlers is None else container.handlers

    def replace(self, listener: ListenerPort, handlers: tuple[Handler, ...]) -> None:
        """Decide its calls by others."""
        served = self._find(listener)
        served.handlers = handlers
        self._reroute(served)

    def reroute(self, container: Container) -> None:
        """Routes are made anew for all of a container."""
        for served in list(self.served.values()):
            if served.container is container:
                self._reroute(served)

    def _reroute(self, served: Served) -> None:
        routes = self._routes(served, served.handlers)
        self._engine.reroute(served.listener, routes.known, routes.first_sight, stalls=routes)

    def _find(self, listener: ListenerPort) -> Served:
        served = self.served.get(_number(listener))
        if served is None:
            raise ValueError("this listener is not served here")
        return served

    def detach(self, listener: ListenerPort) -> None:
        """Give it back."""
        with self._lock:
            served = self._find(listener)
            del self.served[served.number]
            served.keep = served.given_up = True
            self._ended.notify_all()
        self._engine.remove(listener, served.late)
        self._decider.abandon(served)
        self._leave(served, "detached")
        self._engine.wake()

    def submit(
        self,
        call: NotificationLike | Call,
        port: ListenerPort,
        container: Container,
        begun: Begun | None,
    ) -> None:
        """Decide a call that was received elsewhere."""
        served = self._apart(port, container, begun)
        served.keep = True
        made = call if isinstance(call, Call) else Call(call, port)
        made.container = container
        chain = chain_of(self._handlers_of(container), made.name)
        self._decider.take_in(Job(made, chain, served, self._world.clock()))

    def elsewhere(self, port: ListenerPort, container: Container, begun: Begun | None) -> Elsewhere:
        """One whose calls somebody else receives."""
        served = self._apart(port, container, begun)
        return Elsewhere(
            served, self._lock, self._decider, lambda: self._handlers_of(served.container),
            lambda handlers: self._routes(served, handlers), lambda: self.closed,
        )  # fmt: skip

    def receive_from(
        self, fd: int, receive: Callable[[], tuple[NotificationLike, Elsewhere] | None]
    ) -> None:
        """Decide what is received there next."""
        self._engine.watch(fd, Arrival(self._lock, receive))

    def _apart(self, port: ListenerPort, container: Container, begun: Begun | None) -> Served:
        """For calls that are received elsewhere.

        :raises RuntimeError: this is closed."""
        share = self._decider.backlog.share(a_container(container))
        served = Served(port, container, share, journal=begun, number=-1)
        with self._lock:
            if self.closed:
                raise RuntimeError(CLOSED)
            served.busy = self._submitted.setdefault(container, served.busy)
        return served

    def give_up(self, finish: Callable[[], object]) -> None:
        """Close all.

        :param finish: answers what was received and not routed, by whoever has the role."""
        with self._lock:
            left = list(self.served.values())
            self.served.clear()
            for served in left:
                served.given_up = True
        for served in left:
            try:
                self._engine.remove(served.listener, served.late)
            except ValueError:
                pass  # somebody closed it before us; what the engine has of it goes with the engine
            self._decider.abandon(served)
        finish()
        for served in left:
            self._leave(served, "closed")
        # those of listeners that detach() is just giving back, and submitted ones
        self._decider.abandon(None)

    def after_fork(self, lock: Lock, ended: threading.Condition) -> None:
        """In a child of fork(2): let go of all.

        :param lock: in the place of one that somebody may hold who does not exist here."""
        self.closed = True
        self._lock, self._ended = lock, ended
        while self.served:
            self.served.popitem()[1].listener.close()

    def _end(self, served: Served) -> None:
        """Nobody uses the filter any more."""
        with self._lock:
            if self.served.get(served.number) is not served:
                return  # given back by detach(), or close() sees to it
            # forgotten first: once closed, its number may come back as another listener's
            del self.served[served.number]
            self._ending += 1
            self.telling += 1
        try:
            self._decider.bury(served)
            self._leave(served, "ended")
        finally:
            with self._lock:
                self.telling -= 1
                self._ended.notify_all()
        if served.on_end is not None:
            try:
                served.on_end()
            except BaseException as problem:
                self._observers.trouble("on_end", problem, near=served.on_end)
        with self._lock:
            self._ending -= 1
            self._ended.notify_all()

    def _leave(self, served: Served, how: str) -> None:
        """It is not served any more: closed, and told, after the last of its calls."""
        self._decider.seeking.forget()
        with self._lock:
            served.leaving = how
        release(served, self._lock, self._observers)

    def _left(self, served: Served, how: str) -> None:
        with self._lock:
            served.share.listeners -= 1
            last = not served.share.listeners
        # It and its routes know each other, and a journal's descriptor is not to wait for a collector
        served.late = None
        served.journal = None
        if hasattr(served.listener, "journal"):
            served.listener.journal = None
        if last:
            self._observers.tell(ContainerEnded(served.container, how))


def a_container(given: Container) -> Container:
    """
    :raises TypeError: it is none."""
    made: Container = one("container", given, Container, "a proctor.Container")
    return made


def _number(listener: ListenerPort) -> int:
    if not hasattr(listener, "fileno"):
        raise TypeError(
            f"{listener!r} is no listener: proctor.Listener(fd) makes one of a descriptor"
        )
    return listener.fileno()


def _telling(call: Call, number: int) -> tuple[Handler, ...]:
    """Whose only handler says that, however late it is."""
    return (Handler((call.name,), partial(done, number), deadline=_NEVER),)
