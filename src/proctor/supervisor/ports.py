"""The two small doors through which the supervisor meets the world.

:class:`ListenerPort` is one listener; :class:`Engine` is waiting, receiving and answering for many
of them; :class:`World` says which engine, clock and workers there are.  The kernel stands behind
them in production (:mod:`proctor.supervisor.world`), the executable model in simulation
(:mod:`proctor.model`), with the same observable behaviour: one test-suite runs on all engines.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from proctor.call.verdict import Wire
from proctor.kernel.abi import AUDIT_ARCH_X86_64
from proctor.kernel.notification import NotificationLike

if TYPE_CHECKING:
    from types import TracebackType

    from proctor.kernel.journal import Journal

#: Called with one received notification; returns the answer, or None if it will be answered
#: later through the listener.
Route = Callable[[NotificationLike], Wire | None]


def route_key(arch: int, nr: int) -> int:
    """Key of a route: the architecture above the number, both as unsigned 32-bit words; the
    architecture such that x86-64's is 0, since small numbers need no new object for each lookup."""
    return ((arch ^ AUDIT_ARCH_X86_64) & 0xFFFFFFFF) << 32 | (nr & 0xFFFFFFFF)


class ListenerPort(Protocol):
    """One listener, as far as answering needs it.

    "The caller is gone" (ENOENT) is a return value everywhere; EINTR never comes out; anything
    else raises an error of :mod:`proctor.errors`.  All methods may be called from any thread.
    """

    def fileno(self) -> int:
        """The number under which engines know it."""
        ...

    def recv(self, into: memoryview | None = None, slot: int = -1) -> NotificationLike | None:
        """The next notification, waiting for one; None if one was cancelled or nobody is left.

        :param into: memory that is filled as well, in the very moment: ``struct seccomp_notif``.
        :param slot: passed on."""
        ...

    def send(self, id: int, value: int, error: int, flags: int) -> bool:
        """Answer; False if the caller is gone.

        :raises AlreadyAnswered: it was answered before."""
        ...

    def id_valid(self, id: int) -> bool:
        """Whether the notification is received, unanswered and its caller still waits."""
        ...

    def addfd(
        self,
        id: int,
        srcfd: int,
        *,
        at: int | None = None,
        cloexec: bool = False,
        send: bool = False,
    ) -> int | None:
        """Install a descriptor in the caller's table; its number there, None if the caller is gone.
        With ``send`` that number is also the answer, in one step (Linux 5.14).

        :raises TargetFdLimit: EMFILE, or EBADF beyond the limit; the call is then still unanswered.
        """
        ...

    def close(self) -> None:
        """Give this copy of the listener up; idempotent."""
        ...


class Engine(Protocol):
    """Waits for many listeners, receives, routes, answers.

    ``run_once(timeout)`` (seconds; None waits for ever) waits until a listener is readable or hung
    up, :meth:`wake` was called, or time is over; then receives *eagerly*: every notification that
    waits on any ready listener (bounded per round, so that no listener starves another) is received
    before the first is routed, since received ones can no longer be interrupted under
    WAIT_KILLABLE_RECV.  Then each is routed in order of arrival:
    ``routes.get(route_key(arch, nr), fallback)(notification)``; a returned triple is sent at once.
    ENOENT from RECV or SEND is ignored; a listener that shows HUP without IN is removed and its
    ``ended`` called (once).  It returns how many notifications were received.

    A route must not raise; if it does, the engine answers EPERM and lets the exception out of
    ``run_once`` after the rest of the batch was routed.
    """

    def add(
        self,
        listener: ListenerPort,
        routes: Mapping[int, Route],
        fallback: Route,
        ended: Callable[[], object],
        *,
        journal: Journal | None = None,
    ) -> None:
        """Start to serve; from any thread.

        :param journal: where it is written down what was received and not answered: before it is
            routed, until the answer that a route returned was sent.  Other answers are written down
            by whoever gives them (:meth:`Journal.clear`)."""
        ...

    def reroute(self, listener: ListenerPort, routes: Mapping[int, Route], fallback: Route) -> None:
        """Other routes for a listener, if it is served; from any thread.  Each notification is routed
        by the old ones or by the new ones."""
        ...

    def remove(self, listener: ListenerPort, late: Route | None = None) -> None:
        """Stop to serve; from any thread; ``ended`` is not called.  The listener stays open.

        What was received and not yet routed goes to ``late``, since nobody can receive it again;
        without that it is answered ENOSYS, as if the listener were closed (C093)."""
        ...

    def run_once(self, timeout: float | None) -> int:
        """One round, as above; in one thread only."""
        ...

    def run(self, timeout: float | None) -> int:
        """Rounds as above, one after another, until :meth:`wake`, a listener's end, an exception,
        or ``timeout`` seconds in which nothing came; how many notifications were received.  Rounds
        after the first may receive less eagerly while handlers are fast and nobody queues."""
        ...

    def wake(self) -> None:
        """Make a waiting :meth:`run_once` return; from any thread, also before it waits."""
        ...

    def after_fork(self) -> None:
        """In a child of fork(2): give up copies of listeners that the engine has there."""
        ...

    def close(self) -> None:
        """Give up what the engine holds; listeners stay open."""
        ...


class Lock(Protocol):
    """Mutual exclusion, as :class:`threading.Lock`: held briefly, over nothing that can take long."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, or with ``blocking`` False try to."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...

    def __enter__(self) -> bool: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
        /,
    ) -> None: ...


class World(Protocol):
    """What time it is, who waits, and where slow work runs."""

    def clock(self) -> float:
        """Seconds, monotonic."""
        ...

    def engine(self) -> Engine:
        """A new engine."""
        ...

    def lock(self) -> Lock:
        """A new lock, which the threads of this world respect."""
        ...

    def close(self, fd: int) -> None:
        """close(2) on a descriptor that a handler gave away.

        :raises OSError: as close(2)."""
        ...

    def born_since(self, tid: int, when: float) -> bool:
        """Whether the thread ``tid`` came into being after ``when`` (as :meth:`clock`): then whoever
        had that number before is dead.  False where that cannot be told."""
        ...

    @property
    def workers(self) -> int:
        """How many pieces of submitted work may be under way at the same time, all containers
        together; the first of each container is allowed beyond that."""
        ...

    def submit(self, work: Callable[[], None]) -> None:
        """Run slow work elsewhere, soon; it never raises."""
        ...

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Run a coroutine on an event loop; ``done(result, exception)`` is called once, from any
        thread."""
        ...

    def shutdown(self) -> None:
        """No more work will be submitted; what runs may be abandoned."""
        ...
