"""Calls that are being decided, and the listeners that they came by."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proctor.call.call import Call
    from proctor.call.verdict import Perform
    from proctor.kernel.journal import Journal
    from proctor.supervisor.container import Container
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.ports import ListenerPort, Route
    from proctor.supervisor.share import Share


class Served:
    """One listener in the supervisor's care."""

    __slots__ = (
        "busy",
        "container",
        "given_up",
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
        journal: Journal | None = None,
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
            job.line = self.busy[job.tid] = deque([job])

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


class Job:
    """One call on its way to a verdict.  ``claimed`` is set once, by whoever answers."""

    __slots__ = (
        "call",
        "chain",
        "claimed",
        "due",
        "error",
        "index",
        "line",
        "performed",
        "received",
        "remembered",
        "said",
        "seen",
        "served",
        "slow",
        "tid",
        "waits",
    )

    def __init__(
        self, call: Call, chain: Sequence[Handler], served: Served, received: float
    ) -> None:
        self.call = call
        self.tid = call.tid
        self.chain = chain
        self.served = served
        self.received = received
        self.index = 0
        self.claimed = False
        #: Whether it left the receiving thread (and is therefore known to the supervisor).
        self.slow = False
        #: What a handler said, and its label, while that waits for a worker.
        self.said: tuple[Any, str] | None = None
        #: Nobody works at it: it waits for a worker, or behind an earlier call.
        self.waits = False
        #: The backlog asks after its caller, now and then.
        self.remembered = False
        #: The calls of its caller, in order, this one among them.
        self.line: deque[Job] | None = None
        #: What asked for it to be performed, if that began.
        self.performed: Perform | None = None
        #: Text and facts for observers.
        self.seen: tuple[str, str] = ("", "")
        self.due: float | None = None
        self.error: BaseException | None = None
