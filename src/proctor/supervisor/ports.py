"""The two small doors through which the supervisor meets the world.

:class:`ListenerPort` is one listener; :class:`Engine` is waiting, receiving and answering for many
of them; a world (:mod:`proctor.supervisor.world_port`) says which engine, clock and workers there are.  The kernel stands behind
them in production (:mod:`proctor.supervisor.world`), the executable model in simulation
(:mod:`proctor.model`), with the same observable behaviour: one test-suite runs on all engines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from proctor.call.ports import ValidityPort
from proctor.call.verdict import Wire
from proctor.kernel.abi import AUDIT_ARCH_X86_64
from proctor.kernel.notification import NotificationLike
from proctor.kernel.stalls import HELP, INSIST, SERVE, Stalls
from proctor.records import NamedTuple

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.call.path.following import Sought
    from proctor.call.verdict import Deny, Verdict
    from proctor.kernel.journal import Journal, Pending

__all__ = [
    "HELP", "INSIST", "SERVE", "Below", "Engine", "Later", "ListenerPort", "Route", "Seek", "Seeker",
    "Stalls", "Wire", "route_key",
]  # fmt: skip

#: Called with one received notification; returns the answer, None if it will be answered
#: later through the listener, or True if it was, by what :meth:`Engine.makers` made.
Route = Callable[[NotificationLike], Wire | bool | None]


def route_key(arch: int, nr: int) -> int:
    """Key of a route: the architecture above the number, both as unsigned 32-bit words; the
    architecture such that x86-64's is 0, since small numbers need no new object for each lookup."""
    return ((arch ^ AUDIT_ARCH_X86_64) & 0xFFFFFFFF) << 32 | (nr & 0xFFFFFFFF)


class ListenerPort(ValidityPort, Protocol):
    """One listener, as far as answering needs it.

    "The caller is gone" (ENOENT) is a return value everywhere; EINTR never comes out; anything
    else raises an error of :mod:`proctor.errors`.  All methods may be called from any thread.
    """

    def fileno(self) -> int:
        """The number under which engines know it, and the kernel; -1 for one that is none of the
        kernel's, which is asked by its methods."""
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


class Later(NamedTuple):
    """What a handler or a performer returns whose answer takes a while: no thread waits for it.

    ::

        @proctor.on("rmdir")
        def ask(call):
            here, there = socket.socketpair()
            there.send(b"13")                              # somebody will, some day

            def resume():
                with here:
                    return proctor.deny(int(here.recv(9)))
            return proctor.Later(here.fileno(), resume, here.close)

        assert proctor.run(["rmdir", "x"], [ask], stderr=proctor.DEVNULL).returncode == 1

    Exactly one of ``resume``, ``cancel`` and ``interrupt`` is called, once.  Until then the call is known: its
    deadline is kept, its caller's later calls wait for it, and it takes nothing of its container's
    threads.
    """

    #: A descriptor that is open until then.  It belongs to whoever made this.
    fd: int
    #: Called when ``fd`` is readable, or hung up (poll(2)), on the thread that receives, or, if its container keeps
    #: all threads that it may (:attr:`Quotas.workers <proctor.Quotas>`), when its turn comes: returns what the
    #: function itself would have returned, another Later included.  The call may have been answered by then, if
    #: that comes about at the same time.
    resume: Callable[[], Any]
    #: Called, on any thread, if the call was answered otherwise: by its deadline, by close(), since its caller died.
    cancel: Callable[[], object]
    #: Seconds after which ``resume`` is called although nothing is readable; None: as long as it takes.
    wait: float | None = None
    #: Another one, at which ``resume`` is called as well, such as the caller's pidfd; -1: none.
    gone: int = -1
    #: Called in the place of ``resume``, and says the same, where the call is to be left to another monitor: what is
    #: awaited ends as if the caller had a signal to take.  A denial with ERESTARTSYS says that nothing was done.
    #: None: it cannot be ended so.  Another one: not now.
    interrupt: Callable[[], Any] | None = None

    @property
    def fds(self) -> tuple[int, ...]:
        """What is watched."""
        return (self.fd,) if self.gone < 0 else (self.fd, self.gone)


class Seek(NamedTuple):
    """What a handler returns that wants to know where a path leads before it decides: looked for by whoever sees
    what the caller sees, and no more."""

    what: Sought
    #: Called with what it leads to, or the errno that the caller would get, on the thread that receives; with
    #: None if the monitor itself is who the caller is, and may look.  Returns what the function itself would.
    then: Callable[[bytes | int | None], Any]
    #: Whether the call is performed, whatever is found: where it cannot be looked, whoever performs finds what is to be said.
    performed: bool = False


#: Somebody who looks as a caller does, for the core: whatever its owner knows it by, then who the caller was known
#: for and whether its groups decide anything (as for ``_core.Known.same``); a socket, a table, patience and forms as
#: for ``_core.ask_for``.
Loan = tuple[Any, Any, bool, int, int, int, Any]


class Seeker(Protocol):
    """Looks for something as the caller of a call."""

    def seek(self, call: Call, what: Sought) -> bytes | int | Deny | Later:
        """Its name, the caller's errno, a refusal, or that it takes a while."""
        ...

    def lend(self, tid: int, container: Any, follow: bool) -> Loan | None:
        """Somebody who looks as this thread does, if one is known who has nothing else to do; it is given back.

        :param follow: whether a link at the end is followed."""
        ...

    def took_back(self, lent: Any, became: int) -> None:
        """Who was lent was asked nothing (0), has answered (1), or has not (2)."""
        ...


class Below(Protocol):
    """Supervisors below this one, which have their say where a call would run or be performed."""

    @property
    def active(self) -> bool:
        """Whether there may be any."""
        ...

    def __call__(
        self, call: Call, verdict: Verdict, begins: Callable[[], object]
    ) -> Verdict | Later | None:
        """What a call gets instead: None for what was decided, a Later to be resumed with that or
        with something else.

        :param begins: called before one of those below performs it."""
        ...


class Engine(Protocol):
    """Waits for many listeners, receives, routes, answers; one thread at a time, which can change.

    A thread that wants to do so gets a *token* by :meth:`lead`, and with that calls :meth:`serve`:
    rounds of waiting, receiving and routing.  A round waits until a listener is readable or hung up,
    :meth:`wake` was called, or time is over; then receives *eagerly*: every notification that
    waits on any ready listener (bounded per round, so that no listener starves another) is received
    before the first is routed, since received ones can no longer be interrupted under
    WAIT_KILLABLE_RECV.  Then each is routed in order of arrival:
    ``routes.get(route_key(arch, nr), fallback)(notification)``; a returned triple is sent at once.
    ENOENT from RECV or SEND is ignored; a listener that shows HUP without IN is removed and its
    ``ended`` called (once).

    A thread whose route is found twice at the same call, 2 ms apart, has stalled, and loses the role to
    one that waits in :meth:`lead`, with all that was received and not routed: at once if anything is left of that, comes,
    or is due, else after 20 ms, since nobody else is held up by then.  The listener's
    :class:`~proctor.kernel.stalls.Stalls` is told, on both threads; what the route returns in the end is
    given to it, not sent.

    A route must not raise; if it does, the engine answers EPERM and lets the exception out of
    ``serve`` after the rest of the batch was routed.
    """

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
        """Start to serve; from any thread.

        :param stalls: None where no thread stands by.
        :param journal: where it is written down what was received and not answered: before it is
            routed, until the answer that a route returned was sent.  Other answers are written down
            by whoever gives them (:meth:`Journal.clear`)."""
        ...

    def makers(self, listener: ListenerPort) -> Any:
        """What has the types that make routes for calls of the listener in the engine's own code (``Usual``, ``Constant``,
        ``Seen``, ``Performed`` and ``Doing`` of :mod:`proctor.kernel._core`); None where there is no such thing."""
        ...

    def adopt(self, listener: ListenerPort, journal: Journal) -> list[Pending]:
        """What a monitor that died had received from the listener and not answered, the oldest first;
        slots of calls for whose answer nobody waits any more are freed.  Whoever calls this answers
        them, and calls it before :meth:`add`, with the same journal.

        :raises FileExistsError: the listener is served already, by us."""
        ...

    def reroute(
        self,
        listener: ListenerPort,
        routes: Mapping[int, Route],
        fallback: Route,
        *,
        stalls: Stalls | None = None,
    ) -> None:
        """Other routes for a listener, if it is served; from any thread.  Each notification is routed
        by the old ones or by the new ones."""
        ...

    def remove(self, listener: ListenerPort, late: Route | None = None) -> None:
        """Stop to serve; from any thread; ``ended`` is not called.  The listener stays open.

        What was received and not yet routed goes to ``late``, since nobody can receive it again;
        without that it is answered ENOSYS, as if the listener were closed (C093)."""
        ...

    def watch(self, fd: int, callback: Callable[[], object]) -> None:
        """Call ``callback()`` once, as something that is routed, when ``fd`` is readable or hung up;
        from any thread.  It is open until that was called, or :meth:`unwatch` was.

        :raises OSError: it cannot be waited for."""
        ...

    def unwatch(self, fd: int) -> None:
        """Stop that; from any thread; an unknown number is no error."""
        ...

    def lead(
        self,
        how: int,
        taken: Callable[[Any], object],
        patience: float | None = None,
        due: Callable[[], float | None] | None = None,
    ) -> int:
        """Wait for the role of receiving: the token, or 0.

        :param how: HELP waits for a stall.  SERVE also takes a role that nobody has, unless somebody
            insists.  Of both one thread waits, and others are given 0 at once.  INSIST asks whoever has
            the role to give it up.
        :param taken: called if another thread stalled, in what is no listener's call, with what it is
            at: the work of :meth:`attend`, or the callback of :meth:`watch`.
        :param patience: seconds to wait at most while something is routed; None for no limit.
        :param due: seconds after which whoever has the role has something to do though nothing comes, None for nothing.
            Called on the thread that waits, when another one stalls.  Without it that is always so.
        :returns: 0 also when the engine is closed.
        """
        ...

    def serve(self, token: int, timeout: float | None, rounds: int) -> int:
        """Rounds as above; how many notifications were received, -1 if the role is lost.

        :param timeout: seconds until it is to return, though more may be coming; None for no limit.
        :param rounds: at most so many; 0: until :meth:`wake`, a listener's end, an exception, somebody
            who insists on the role, or a round in which nothing came.  Rounds after the first may
            receive less eagerly while handlers are fast and nobody queues."""
        ...

    def attend(self, token: int, work: Callable[[], object]) -> bool:
        """Call ``work`` as something that is routed; False if the role was lost over it."""
        ...

    def has(self, token: int) -> bool:
        """Whether the role was not lost."""
        ...

    def surrender(self) -> None:
        """In a route, on the thread that has the role: it is expected to stall, and whoever stands by
        need not look twice."""
        ...

    def claim(self) -> bool:
        """In a route: whether its call is answered by this thread from here on, whoever has the role; then it has to be,
        and the route returns True.  False where that is to be claimed as others' answers are."""
        ...

    def resign(self, token: int) -> None:
        """Give the role up; nothing happens if it was lost."""
        ...

    @property
    def standing(self) -> bool:
        """Whether some thread waits for a stall."""
        ...

    @property
    def wanted(self) -> bool:
        """Whether somebody insists on having the role."""
        ...

    def wake(self) -> None:
        """Make a waiting :meth:`serve` return; from any thread, also before it waits."""
        ...

    def after_fork(self) -> None:
        """In a child of fork(2): give up copies of listeners that the engine has there."""
        ...

    def close(self) -> None:
        """Give up what the engine holds; listeners stay open.  All who wait for the role return."""
        ...
