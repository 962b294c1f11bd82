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
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from proctor.call.call import Call
from proctor.call.verdict import Deny, Verdict, deny, let_run
from proctor.given import one
from proctor.observe.events import Observer, Trouble
from proctor.observe.observers import Observers
from proctor.supervisor.container import Container, Quotas
from proctor.supervisor.deciding import Decider, Performer
from proctor.supervisor.handlers import Handler, handlers_of
from proctor.supervisor.jobs import Begun
from proctor.supervisor.leaving import leave
from proctor.supervisor.listeners import CLOSED, Listeners, a_container
from proctor.supervisor.ports import INSIST
from proctor.supervisor.role import Role
from proctor.supervisor.rules import Rules

if TYPE_CHECKING:
    from proctor.kernel.journal import Journal
    from proctor.kernel.notification import NotificationLike
    from proctor.supervisor.elsewhere import Elsewhere
    from proctor.supervisor.ports import ListenerPort, Seeker
    from proctor.supervisor.world_port import World


#: Seconds that close() waits for whoever receives.
_PATIENCE = 5.0
#: Seconds that it waits for what is to be told, and for what is to be logged.
_LAST_WORDS = 1.0


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
            raise TypeError(
                f"world={world!r}: it makes engines, as proctor.supervisor.world_port.World"
            )
        if world is None:
            from proctor.supervisor.world import KernelWorld

            world = KernelWorld()
        own = handlers_of(handlers)
        self._world = world
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
        self._listeners = Listeners(
            world, self._lock, self._ended, self._engine, self._decider, self._role, own
        )
        self._started = False
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
        self._listeners.add(listener, container, on_end, journal)

    def replace(self, listener: ListenerPort, handlers: Iterable[Handler]) -> None:
        """Decide the listener's calls by other handlers from now on; from any thread, while calls
        are in flight.

        Each call is decided by the old handlers or by the new ones, whichever there are when it is
        routed, never by a mixture: those that are being decided, or wait for a worker, keep the old
        ones.  Its container's other listeners keep theirs.

        :raises ValueError: the listener is not served here.
        """
        self._listeners.replace(listener, handlers_of(handlers))

    def reroute(self, container: Container) -> None:
        """Those below have something to say about a container's calls from now on; from any thread."""
        self._listeners.reroute(container)

    def detach(self, listener: ListenerPort) -> None:
        """Stop serving a listener and give it back, open.  What is being decided for it is answered
        with ``close_verdict``; what it has not received waits for whoever reads it next.

        :raises ValueError: the listener is not served here.
        """
        self._listeners.detach(listener)

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
        self._listeners.submit(call, port, container, begun)

    def elsewhere(
        self, port: ListenerPort, container: Container, begun: Begun | None = None
    ) -> Elsewhere:
        """A listener whose calls somebody else receives, one after the other, for :meth:`receive_from`; its ``close()`` closes
        the port, once no call needs that any more.

        :param port: asked whether a call still waits, and told its answer.
        :param container: whose handlers decide, those that it has when a call comes.
        :param begun: as for :meth:`submit`.
        :raises RuntimeError: the supervisor is closed."""
        return self._listeners.elsewhere(port, container, begun)

    def receive_from(
        self, fd: int, receive: Callable[[], tuple[NotificationLike, Elsewhere] | None]
    ) -> None:
        """Call ``receive()`` once, on the thread that receives, when ``fd`` is readable or hung up, and decide there what
        it gives, without waking anybody for it; from any thread.  :meth:`unwatch` stops that, and comes first where it is to
        be called once more.

        :param receive: it is to be quick, and not to raise; None: there is nothing to be decided here.  What it gives is
            left as it is where the supervisor, or what it came from, is closed.
        :raises OSError: the descriptor cannot be waited for."""
        self._listeners.receive_from(fd, receive)

    def limit(self, container: Container, quotas: Quotas) -> None:
        """Let a container take so much from now on, of this supervisor; what it has taken stays."""
        share = self._decider.backlog.share(a_container(container))
        one("quotas", quotas, Quotas, "proctor.Quotas()").check()
        with self._lock:
            container.quotas = quotas
            share.limit(quotas)
        self._engine.wake()

    def taken(self, container: Container) -> tuple[int, int]:
        """What a container takes now: calls that wait or stall, and threads."""
        share = self._decider.backlog.share(a_container(container))
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
        return len(self._listeners.served)

    # Running --------------------------------------------------------------------------------

    def start(self) -> Supervisor:
        """Serve on threads of its own, with every signal blocked there (C074): one that receives, one
        that stands by, and those that are stuck in a call; returns self.

        :raises RuntimeError: it was started already, or is closed; or there are no threads for us.
        """
        if self._started or self._listeners.closed:
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
        if self._listeners.closed:
            raise RuntimeError(CLOSED)
        return self._role.step(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no listener is left, and observers were told of all that was answered; False if
        time was over first."""
        with self._lock:
            return self._ended.wait_for(
                lambda: (
                    not (self._listeners.any or self._decider.calls.answering)
                    or self._listeners.closed
                ),
                timeout,
            )

    def close(self) -> None:
        """Answer what is pending, close every listener, stop the threads; idempotent.

        Callers that were not received yet get ENOSYS from the kernel.  Handlers that are under way are
        not waited for.
        """
        with self._lock:
            if self._listeners.closed:
                return
            self._listeners.closed = self._role.closed = True
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
            if self._listeners.closed:
                return 0
            self._listeners.closed = self._role.leaving = True
            left = list(self._listeners.served.values())
        still = leave(self._world, self._engine, self._decider, self._role, left, patience)
        self._role.closed = True
        self._observers.flush(_LAST_WORDS)
        return still

    def _give_up(self, token: int) -> None:
        if not token:
            self._observers.trouble(
                "whoever receives does not come back; closing without it: callers it received get "
                "their answer when it does, or when this process ends"
            )
        self._listeners.give_up(lambda: self._role.finish(token, _PATIENCE))
        self._engine.close()
        self._world.shutdown()
        for action in self._at_close:
            action()
        if self._started:
            # what was answered a moment ago is going to be told, and what has just ended
            with self._lock:
                self._ended.wait_for(
                    lambda: not (self._decider.calls.answering or self._listeners.telling),
                    _LAST_WORDS,
                )
        self._observers.flush(_LAST_WORDS)

    def _after_fork(self) -> None:
        """In a child of fork(2), where our threads do not exist: give the listeners up.

        While a copy is open anywhere, callers that the monitor left, by close() or by dying, wait
        for ever instead of getting ENOSYS (C094).
        """
        self._role.after_fork()
        self._lock = self._world.lock()  # whoever held it does not exist here
        self._ended = _condition(self._lock)
        self._engine.after_fork()
        self._listeners.after_fork(self._lock, self._ended)

    def trouble(self, text: str, *, counted: bool = True) -> None:
        """Tell observers of trouble that somebody had who works for this supervisor.

        :param counted: whether it is counted how often it comes, whatever numbers are in it; if not, somebody sees to it that it
            does not come too often."""
        if counted:
            self._observers.trouble(text)
        else:
            self._observers.tell(Trouble(text))

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


def _condition(lock: Any) -> threading.Condition:
    return threading.Condition(lock)  # which asks no more of a lock than the port has


#: Supervisors with a thread of their own, for children of fork(2) to know.
_started: Final[WeakSet[Supervisor]] = WeakSet()


def _in_child() -> None:
    for supervisor in list(_started):
        supervisor._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
