"""Calls that are being decided, and the listeners that they came by."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from proctor.errors import AlreadyAnswered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proctor.call.call import Call
    from proctor.call.verdict import Perform, Wire
    from proctor.kernel.notification import NotificationLike
    from proctor.observe.events import Outcome
    from proctor.supervisor.container import Container
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.inflight import Due
    from proctor.supervisor.ports import Later, ListenerPort, Route
    from proctor.supervisor.share import Share


#: A call: its listener, and the id of its notification.
Key = tuple["Served", int]


class Begun(Protocol):
    """Whoever serves a listener next knows by it what had begun to be performed: as
    :class:`~proctor.kernel.journal.Journal`."""

    def performs(self, notification: NotificationLike) -> None:
        """It begins now."""
        ...

    def begun(self, notification: NotificationLike) -> bool:
        """Whether it has begun."""
        ...

    def left(self, notification: NotificationLike) -> None:
        """It has not begun: nothing was done."""
        ...

    def clear(self, notification: NotificationLike) -> None:
        """It was answered."""
        ...


class Replies(Protocol):
    """What :func:`reply` needs of a listener that is served."""

    @property
    def listener(self) -> ListenerPort:
        """Who is told."""
        ...

    @property
    def journal(self) -> Begun | None:
        """Who is told that it is over."""
        ...


def reply(served: Replies, notification: NotificationLike, wire: Wire | bool) -> None:
    """Answer what was routed to its end.

    :param wire: a bool where whoever routed it has answered."""
    if not isinstance(wire, bool):
        try:
            served.listener.send(notification.id, *wire)
        except AlreadyAnswered:
            pass  # the route answered by itself and returned a reply as well; the first one stands
    if served.journal is not None:
        served.journal.clear(notification)


class Served:
    """One listener in the supervisor's care."""

    __slots__ = (
        "busy",
        "container",
        "given_up",
        "handlers",
        "journal",
        "keep",
        "late",
        "leaving",
        "left",
        "listener",
        "number",
        "on_end",
        "running",
        "share",
    )

    def __init__(
        self,
        listener: ListenerPort,
        container: Container,
        share: Share,
        on_end: Callable[[], object] | None = None,
        journal: Begun | None = None,
        *,
        number: int,
    ) -> None:
        self.listener = listener
        #: The listener's, while it is open.
        self.number = number
        self.container = container
        self.share = share
        self.on_end = on_end
        #: What was received and not answered, for whoever comes after us.
        self.journal = journal
        #: tid → that caller's calls: the one being decided, then those that wait for it.
        self.busy: dict[int, deque[Job]] = {}
        #: Jobs that still may speak to the listener, or of their outcome.
        self.running = 0
        #: Who decide its calls.
        self.handlers: Sequence[Handler] = ()
        #: Why it is not served any more, and what is to be done once none of them is left.
        self.leaving = ""
        self.left: Callable[[Served, str], object] | None = None
        #: Where calls go that were received before it was given up, and not decided.
        self.late: Route | None = None
        #: By ``detach`` or ``close``: calls that come now are not decided any more.
        self.given_up = False
        #: Given back by ``detach``: not ours to close.
        self.keep = False

    def line_up(self, job: Job) -> None:
        """Its caller's later calls wait for this one from now on (the lock is held)."""
        if job.tid:
            job.line = self.busy.setdefault(job.tid, deque())
            job.line.append(job)

    def step_out(self, job: Job) -> Job | None:
        """It is answered: the call of the same caller that is decided next, if it was its turn (the
        lock is held)."""
        line, job.line = job.line, None
        if line is None:
            return None
        if line[0] is not job:
            line.remove(job)
            return None
        line.popleft()
        if line:
            # one that is just being answered sees to those behind it by itself
            return None if line[0].claimed else line[0]
        if self.busy.get(job.tid) is line:
            del self.busy[job.tid]
        return None

    def stand_in(self, job: Job, other: Job) -> None:
        """``other`` has the place of ``job`` in its line (the lock is held)."""
        line, job.line = job.line, None
        other.line = line
        if line is not None:
            line[line.index(job)] = other


class Job:
    """One call on its way to a verdict.  ``claimed`` is set once, by whoever answers."""

    # Defaults, which cost nothing: most calls need no others.
    #: The thread that received it is at it, or was.
    routed = False
    index = 0
    claimed = False
    #: Whether others than the thread that decides it know of it: it waits, or that thread stalled.
    known = False
    #: It stands in for one that the engine's own code claimed, and answers.
    given = False
    #: Observers are being told of its answer, and somebody waits for that.
    answering = False
    #: That is over, and all else.
    done = False
    #: What a coroutine said, and its label, while that waits for its turn.
    said: tuple[Any, str] | None = None
    #: What is awaited for it, who is to say then what came of it, and whether it is performed.
    later: tuple[Later, str, bool] | None = None
    #: That is there, and it waits for its turn.
    due = False
    #: Its handlers were asked: what waits for a turn goes on.
    begun = False
    #: Nobody works at it: it waits for its turn, behind an earlier call, or for something else.
    waits = False
    #: The backlog asks after its caller, now and then.
    remembered = False
    #: The calls of its caller, in order, this one among them.
    line: deque[Job] | None = None
    #: What is due for it some time, while it is not answered.
    dues: tuple[Due, ...] = ()
    #: When its caller is looked at again; 0 if it was not yet.
    next_look = 0.0
    #: Those below were asked.
    below = False
    #: What asked for it to be performed, if that began.
    performed: Perform | None = None
    #: Given its outcome once observers were told of it.
    noted: Callable[[Outcome], None] | None = None
    #: Text and facts for observers.
    seen: tuple[str, str] = ("", "")
    error: BaseException | None = None

    def __init__(
        self, call: Call, chain: Sequence[Handler], served: Served, received: float
    ) -> None:
        self.call = call
        self.tid = call.tid
        self.chain = chain
        self.served = served
        self.received = received
        #: Which call it is.
        self.key: Key = (served, call.id)
