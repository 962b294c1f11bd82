"""The supervisor: listeners in, verdicts out.

What it promises, whatever handlers do:

* every received call is answered at most once and, unless its caller is gone, at least once;
* a handler that raises, or returns nonsense, or lets a call run after looking at its memory, gives
  ``on_error`` (deny, EPERM) and a logged traceback; one that takes too long gives ``on_deadline``;
* calls of one caller (thread) are decided in order, also when a signal makes it call again while
  the first handler still runs;
* a handler runs on the thread that received its call, and one that stalls holds up nobody else:
  another thread receives from then on (:mod:`proctor.supervisor.role`), so that queued calls become
  uninterruptible as soon as the kernel can make them (WAIT_KILLABLE_RECV; C080);
* a listener whose filter nobody uses any more is forgotten and closed; closing answers what is
  pending;
* calls that wait and whose callers are gone are forgotten: a target that forks, calls and kills
  while all threads are stuck does not fill our memory (:mod:`proctor.supervisor.backlog`).

It is the same code on the native engine, on the Python one, and on the executable model.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet

from proctor.call.call import Call
from proctor.call.verdict import Deny, Verdict, answer, deny, let_run
from proctor.given import one
from proctor.observe.events import ContainerAdded, ContainerEnded, Observer, TakenOver
from proctor.observe.observers import Observers
from proctor.supervisor.answering import release
from proctor.supervisor.container import Container, Quotas
from proctor.supervisor.deciding import Decider, Performer
from proctor.supervisor.handlers import Handler, handlers_of
from proctor.supervisor.jobs import Begun, Job, Served
from proctor.supervisor.leaving import leave
from proctor.supervisor.ports import INSIST
from proctor.supervisor.role import Role
from proctor.supervisor.routes import Routes, chain_of
from proctor.supervisor.rules import Rules

if TYPE_CHECKING:
    from collections import deque

    from proctor.kernel.journal import Journal
    from proctor.kernel.notification import NotificationLike
    from proctor.supervisor.ports import ListenerPort, Seeker, World


#: Seconds that close() waits for whoever receives.
_PATIENCE = 5.0
#: Seconds that it waits for what is to be told, and for what is to be logged.
_LAST_WORDS = 1.0
_CLOSED = "this supervisor is closed; make another one"


class Supervisor:
    """Answers the calls of any number of listeners.

    ::

        handler = proctor.Handler(["mkdir", "mkdirat"], lambda call: proctor.deny(errno.EROFS))
        program = proctor.filter_for([handler]).compile().code
        with proctor.Supervisor([handler]) as supervisor:
            with proctor.launch(["mkdir", "x"], program=program, fds={0: 0}) as target:
                supervisor.add(proctor.Listener(target.take_listener()))
                supervisor.start()
                assert target.wait(None) == 1

    :param handlers: for every listener whose container has no handlers of its own.  Tried in order;
        the first verdict wins.
    :param default: for calls that no handler wants.
    :param on_error: when a handler raises or returns nonsense.
    :param on_deadline: when ``deadline`` (seconds, per call, from its reception; a handler's own
        one goes first) has passed.
    :param close_verdict: for what is pending when the supervisor closes; ENOSYS is what the kernel
        itself says when a listener goes away.
    :param performer: carries :func:`~proctor.call.verdict.perform` out.
    :param seeker: finds out where a path leads as a caller sees it that is not what the monitor is
        (:class:`proctor.performing.Performers`), for handlers of policies whose rules are about paths; None:
        such calls are refused.
    :param observers: told of what happens, each from whichever thread it happens on; they must be
        quick, and what they raise is trouble, no more (:mod:`proctor.observe.events`).  Calls that
        were received from a listener which is given up before they are decided are outcomes, too
        ("close").  Of calls that the kernel itself answers, since nobody received them, nothing is
        known here.  Where one wants text, a look at the caller's memory is taken after the verdict
        is settled and before it is given.
    :param world: clock, engine and workers; the kernel's by default.
    """

    def __init__(
        self,
        handlers: Iterable[Handler] = (),
        *,
        default: Verdict | None = None,
        on_error: Deny | None = None,
        deadline: float | None = None,
        on_deadline: Verdict | None = None,
        close_verdict: Deny | None = None,
        performer: Performer | None = None,
        seeker: Seeker | None = None,
        observers: Iterable[Observer] = (),
        world: World | None = None,
    ) -> None:
        if performer is not None and not callable(performer):
            raise TypeError(f"performer={performer!r}: it is called with (call, verdict)")
        if seeker is not None and not callable(getattr(seeker, "seek", None)):
            raise TypeError(
                f"seeker={seeker!r}: it looks for callers, as proctor.performing.Performers do"
            )
        if world is not None and not hasattr(world, "engine"):
            raise TypeError(f"world={world!r}: it makes engines, as proctor.supervisor.ports.World")
        if world is None:
            from proctor.supervisor.world import KernelWorld

            world = KernelWorld()
        self._world = world
        self._handlers = handlers_of(handlers)
        self._engine = world.engine()
        self._lock = world.lock()
        self._ended = _condition(self._lock)
        rules = Rules(
            default if default is not None else let_run(),
            on_error if on_error is not None else deny(errno.EPERM),
            deadline,
            on_deadline if on_deadline is not None else deny(errno.EPERM),
            close_verdict if close_verdict is not None else deny(errno.ENOSYS),
        )
        self._observers = Observers(observers, world.lock())
        self._decider = Decider(
            world, self._lock, self._ended, rules, performer, self._observers, self._engine, seeker
        )  # fmt: skip
        self._role = Role(world, self._lock, self._engine, self._decider)
        self._served: dict[int, Served] = {}
        #: Whose submitted calls are being decided, by thread.
        self._submitted: WeakKeyDictionary[Container, dict[int, deque[Job]]] = WeakKeyDictionary()
        self._started = False
        self._ending = 0
        self._closed = False
        self._at_close: list[Callable[[], object]] = [self._decider.seeking.close]

    # Listeners ------------------------------------------------------------------------------

    def add(
        self,
        listener: ListenerPort,
        container: Container | None = None,
        *,
        on_end: Callable[[], object] | None = None,
        journal: Journal | None = None,
    ) -> None:
        """Serve one more listener; also while running, from any thread.

        Ownership moves here: it is closed at its end or by :meth:`close`, unless :meth:`detach`
        gives it back.

        :param container: what it belongs to; one of its own, with the supervisor's handlers, if
            None.
        :param on_end: called once when nobody uses its filter any more.
        :param journal: where it is written down which of its calls are received and not answered, for
            whoever serves it after this process.  What an earlier monitor left there is decided now,
            before anything is received: once, and with the time it has waited counted; what its
            caller does not wait for any more is forgotten.  See :attr:`Call.begun
            <proctor.call.call.Call>` for what had begun to be performed.  It stays its owner's.
        :raises ValueError: the listener is served already.
        :raises TypeError: it is no listener, or ``container`` no container.
        :raises RuntimeError: the supervisor is closed.
        """
        container = Container() if container is None else _container(container)
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
            if self._closed:
                raise RuntimeError(_CLOSED)
            if number in self._served:
                raise ValueError("this listener is served already")
            self._served[number] = served
            served.left = self._left
            served.running = 1  # who closes meanwhile leaves it open until we are done
            first = not served.share.listeners
            served.share.listeners += 1
        try:
            self._begin(served, first, journal)
        except BaseException:
            with self._lock:
                if self._served.get(number) is served:
                    del self._served[number]
                closed = self._closed
                served.keep |= not closed  # what detach() gave back stays open all the same
                served.given_up = True
            self._decider.abandon(served)
            self._leave(served, "closed")
            if closed:  # meanwhile, and the listener with it
                raise RuntimeError(_CLOSED) from None
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
        routes = self._routes(served, handlers)
        served.late = routes.late
        if first:
            self._observers.tell(ContainerAdded(served.container))
        if journal is not None:
            if hasattr(served.listener, "journal"):
                served.listener.journal = journal.buffer
            self._take_over(served, journal, handlers)
        self._engine.add(
            served.listener, routes.known, routes.first_sight, lambda: self._end(served),
            stalls=routes, journal=journal,
        )  # fmt: skip
        if served.given_up:  # before there was anything to give up
            self._engine.remove(served.listener, served.late)
            self._decider.abandon(served)
            if self._closed:
                raise RuntimeError(_CLOSED)

    def _routes(self, served: Served, handlers: Sequence[Handler]) -> Routes:
        return Routes(served, handlers, self._decider, self._role, self._world, self._engine)

    def _take_over(self, served: Served, journal: Journal, handlers: Sequence[Handler]) -> None:
        """Decide what an earlier monitor received and did not answer."""
        jobs = []
        for each in self._engine.adopt(served.listener, journal):
            call = Call(each.notification, served.listener, container=served.container)
            call.begun = each.performing
            received = each.received
            if received is None:  # it was just being received
                received = self._world.clock()  # for whoever comes after us, too
                journal.received(each.slot, received)
            chain = chain_of(handlers, call.name)
            if each.given is not None:  # it has what it asked for, and is to be told
                chain = (Handler((call.name,), partial(_told, each.given)),)
            jobs.append(Job(call, chain, served, received))
        if jobs:
            self._observers.tell(TakenOver(served.container, len(jobs)))
        for job in jobs:
            self._decider.take_in(job)

    def _handlers_of(self, container: Container) -> tuple[Handler, ...]:
        return self._handlers if container.handlers is None else container.handlers

    def replace(self, listener: ListenerPort, handlers: Iterable[Handler]) -> None:
        """Decide the listener's calls by other handlers from now on; from any thread, while calls
        are in flight.

        Each call is decided by the old handlers or by the new ones, whichever there are when it is
        routed, never by a mixture: those that are being decided, or wait for a worker, keep the old
        ones.  Its container's other listeners keep theirs.

        :raises ValueError: the listener is not served here.
        """
        served = self._find(listener)
        served.handlers = handlers_of(handlers)
        self._reroute(served)

    def _reroute(self, served: Served) -> None:
        routes = self._routes(served, served.handlers)
        self._engine.reroute(served.listener, routes.known, routes.first_sight, stalls=routes)

    def reroute(self, container: Container) -> None:
        """Those below have something to say about a container's calls from now on; from any thread."""
        for served in list(self._served.values()):
            if served.container is container:
                self._reroute(served)

    def _find(self, listener: ListenerPort) -> Served:
        served = self._served.get(_number(listener))
        if served is None:
            raise ValueError("this listener is not served here")
        return served

    def detach(self, listener: ListenerPort) -> None:
        """Stop serving a listener and give it back, open.  What is being decided for it is answered
        with ``close_verdict``; what it has not received waits for whoever reads it next.

        :raises ValueError: the listener is not served here.
        """
        with self._lock:
            served = self._find(listener)
            del self._served[served.number]
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
        begun: Begun | None = None,
    ) -> None:
        """Decide one call that was received elsewhere (by an LXC proxy, from a recording, a fake),
        and answer it through ``port``, which stays its owner's; from any thread.  It returns at once.

        Calls of one caller of the container that are submitted are decided in the order in which
        they are; they and those of its listeners have nothing to do with each other.

        :param call: the notification, with ids of threads as this process sees them; or a call that
            was made of one, with memory and a caller of its own.
        :param port: asked whether the call still waits, and told its answer.
        :param container: whose handlers decide.
        :param begun: told when performing it begins, and whether that came to nothing.
        :raises RuntimeError: the supervisor is closed.
        """
        made = call if isinstance(call, Call) else Call(call, port)
        made.container = _container(container)
        chain = chain_of(self._handlers_of(container), made.name)
        served = Served(
            port, container, self._decider.backlog.share(container), journal=begun, number=-1
        )
        served.keep = True
        with self._lock:
            if self._closed:
                raise RuntimeError(_CLOSED)
            served.busy = self._submitted.setdefault(container, served.busy)
        self._decider.take_in(Job(made, chain, served, self._world.clock()))

    def limit(self, container: Container, quotas: Quotas) -> None:
        """Let a container take so much from now on, of this supervisor; what it has taken stays."""
        share = self._decider.backlog.share(_container(container))
        one("quotas", quotas, Quotas, "proctor.Quotas()").check()
        with self._lock:
            container.quotas = quotas
            share.limit(quotas)
        self._engine.wake()

    def taken(self, container: Container) -> tuple[int, int]:
        """What a container takes now: calls that wait or stall, and threads."""
        share = self._decider.backlog.share(_container(container))
        with self._lock:
            return share.calls, share.held

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """Call ``callback()`` once, on the thread that receives, when ``fd`` is readable or hung up; from
        any thread.  It must be quick, and is not to raise.

        :raises OSError: it cannot be waited for."""
        self._engine.watch(fd, callback)

    def unwatch(self, fd: int) -> None:
        """Stop that."""
        self._engine.unwatch(fd)

    @property
    def listeners(self) -> int:
        """How many listeners are served now."""
        return len(self._served)

    # Running --------------------------------------------------------------------------------

    def start(self) -> Supervisor:
        """Serve on threads of its own, with every signal blocked there (C074): one that receives, one
        that stands by, and those that are stuck in a call; returns self.

        :raises RuntimeError: it was started already, or is closed; or there are no threads for us.
        """
        if self._started or self._closed:
            raise RuntimeError("this supervisor was started already")
        _started.add(self)
        self._role.start()
        self._started = True
        return self

    def step(self, timeout: float | None = None) -> int:
        """One round: wait (at most ``timeout`` seconds), receive, decide, answer, expire.

        For those who bring their own loop instead of :meth:`start`.  It takes as long as the handlers
        that it calls; while one of them stalls another thread receives, until the next step.
        Returns how many calls were received by it.

        :raises RuntimeError: the supervisor is closed.
        """
        if self._closed:
            raise RuntimeError(_CLOSED)
        return self._role.step(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no listener is left, and observers were told of all that was answered; False if
        time was over first."""
        with self._lock:
            return self._ended.wait_for(
                lambda: (
                    not (self._served or self._ending or self._decider.calls.answering)
                    or self._closed
                ),
                timeout,
            )

    def close(self) -> None:
        """Answer what is pending, close every listener, stop the threads; idempotent.

        Callers that were not received yet get ENOSYS from the kernel.  Handlers that are under way are
        not waited for.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = self._role.closed = True
            self._ended.notify_all()
        token = 0
        try:
            token = self._role.lead(INSIST, _PATIENCE)
        finally:  # Ctrl-C while we wait: nobody else is going to do the rest
            self._give_up(token)

    def hand_over(self, patience: float = 5.0) -> int:
        """Leave every listener to whoever serves it next, in another process, with the same journal.

        Nothing is received or begun any more.  What is being performed is answered, or interrupted as by a signal and
        left as it was received; what nobody had begun is left, too.  Listeners stay open, and so that nobody answers
        what is left, the process is to end after this: there is no :meth:`close`.

        :param patience: seconds at most for what cannot be interrupted.
        :returns: how many calls are being performed all the same, which whoever serves next must not have done again.
        """
        with self._lock:
            if self._closed:
                return 0
            self._closed = self._role.closed = True
            left = list(self._served.values())
        still = leave(self._world, self._engine, self._decider, self._role, left, patience)
        self._observers.flush(_LAST_WORDS)
        return still

    def _give_up(self, token: int) -> None:
        if not token:
            self._observers.trouble(
                "whoever receives does not come back; closing without it: callers it received get "
                "their answer when it does, or when this process ends"
            )
        with self._lock:
            left = list(self._served.values())
            self._served.clear()
            for served in left:
                served.given_up = True
        for served in left:
            try:
                self._engine.remove(served.listener, served.late)
            except ValueError:
                pass  # somebody closed it before us; what the engine has of it goes with the engine
            self._decider.abandon(served)
        if token:  # what was received and not routed is answered
            self._role.finish(token, _PATIENCE)
        for served in left:
            self._leave(served, "closed")
        # those of listeners that detach() is just giving back, and submitted ones
        self._decider.abandon(None)
        self._engine.close()
        self._world.shutdown()
        for action in self._at_close:
            action()
        if self._started:
            with self._lock:  # what was answered a moment ago is going to be told
                self._ended.wait_for(lambda: not self._decider.calls.answering, _LAST_WORDS)
        self._observers.flush(_LAST_WORDS)

    def _after_fork(self) -> None:
        """In a child of fork(2), where our threads do not exist: give the listeners up.

        While a copy is open anywhere, callers that the monitor left, by close() or by dying, wait
        for ever instead of getting ENOSYS (C094).
        """
        self._closed = True
        self._role.after_fork()
        self._lock = self._world.lock()  # whoever held it does not exist here
        self._ended = _condition(self._lock)
        self._engine.after_fork()
        while self._served:
            self._served.popitem()[1].listener.close()

    def trouble(self, text: str) -> None:
        """Tell observers of trouble that somebody had who works for this supervisor."""
        self._observers.trouble(text)

    def on_close(self, action: Callable[[], object]) -> None:
        """Run ``action`` at the end of :meth:`close`.

        :raises TypeError: it cannot be called."""
        if not callable(action):
            raise TypeError(f"on_close({action!r}): it is called, without arguments")
        self._at_close.append(action)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self, served: Served) -> None:
        """Nobody uses the filter any more."""
        with self._lock:
            if self._served.get(served.number) is not served:
                return  # given back by detach(), or close() sees to it
            # forgotten first: once closed, its number may come back as another listener's
            del self._served[served.number]
            self._ending += 1
        self._decider.bury(served)
        self._leave(served, "ended")
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


def _container(given: Container) -> Container:
    made: Container = one("container", given, Container, "a proctor.Container")
    return made


def _number(listener: ListenerPort) -> int:
    if not hasattr(listener, "fileno"):
        raise TypeError(
            f"{listener!r} is no listener: proctor.Listener(fd) makes one of a descriptor"
        )
    return listener.fileno()


def _told(number: int, call: Call) -> Verdict:
    """What an earlier monitor had given to a caller."""
    return answer(number)


def _condition(lock: Any) -> threading.Condition:
    return threading.Condition(lock)  # which asks no more of a lock than the port has


#: Supervisors with a thread of their own, for children of fork(2) to know.
_started: Final[WeakSet[Supervisor]] = WeakSet()


def _in_child() -> None:
    for supervisor in list(_started):
        supervisor._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
