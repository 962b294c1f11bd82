"""Calls that are known beyond the thread that decides them.

Most never are: who receives a call answers it, and nobody else hears of it.  A call becomes known when
it has to wait (for its turn, behind an earlier one of its caller, for a coroutine, for something
readable), or when the thread that decides it loses the role of receiving over it.  From then on its
caller's later calls wait for it, its deadline is kept, and the end of supervision answers it; and its
caller is looked at now and then, which may have a signal to die of.

A thread can lose the role before it has a :class:`Job` for its call, or without ever making one.  Then
another job stands in for it, made by the thread that took the role over, and the first one's, if it is
made, takes that one's place (:meth:`InFlight.merge`).
"""

from __future__ import annotations

import errno
import heapq
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Deny, deny
from proctor.supervisor.looks import PAUSE, Looks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from threading import Condition

    from proctor.supervisor.jobs import Job, Key, Served
    from proctor.supervisor.ports import Later
    from proctor.supervisor.rules import Rules
    from proctor.supervisor.world_port import Lock

#: What calls get that are too many for their container's quota.
_TOO_MANY: Final = deny(errno.ENOMEM)
#: Deadlines of answered calls that may be left lying about.
_SPARE: Final = 64


class Due:
    """When, and what then: a call's deadline, what is awaited for it no longer, or a look at its caller."""

    __slots__ = ("_count", "job", "later", "look", "when")

    def __init__(self, when: float, count: int, job: Job, later: Later | None, look: bool) -> None:
        self.when = when
        self._count = count
        self.look = look
        #: None: it is answered.
        self.job: Job | None = job
        self.later = later

    def __lt__(self, other: Due) -> bool:
        return (self.when, self._count) < (other.when, other._count)

    def stale(self) -> bool:
        """Whether it is of no interest any more."""
        job, later = self.job, self.later
        if job is None or job.claimed:
            return True
        return later is not None and (job.later is None or job.later[0] is not later)


class InFlight:
    """See the module.  Methods want the lock held where they do not say that they take it.

    :param lock: guards jobs, lines and the counts of :class:`Served`.
    :param told: of that lock; notified when :attr:`answering` becomes 0.
    :param wake: brings the receiving thread to look at :meth:`next_due`.
    """

    def __init__(
        self, lock: Lock, told: Condition, rules: Rules, wake: Callable[[], object]
    ) -> None:
        self._lock = lock
        self._told = told
        self._rules = rules
        self._wake = wake
        #: By listener and notification, the oldest first.
        self._jobs: dict[Key, Job] = {}
        #: The last that was answered without being known, by the thread that received it.
        self._last: Job | None = None
        #: One that a thread routes, perhaps.
        self.routing: Job | None = None
        #: Calls that others know of, and of whose answer observers are being told.
        self.answering = 0
        #: Nothing is decided any more.
        self.over = False
        #: What stalled threads are at, by listener and notification.
        self.taken: dict[Key, Job] = {}
        self._dues: list[Due] = []
        self._count = 0
        #: Whose callers were looked at.
        self._looks = Looks()

    def __len__(self) -> int:
        return max(len(self._jobs), len(self._dues) // 2)

    def refused(self, job: Job) -> tuple[Deny, str] | None:
        """What is answered at once, and why, instead of letting the call be known."""
        if job.served.given_up or self.over:
            return self._rules.close_verdict, "close"
        return (_TOO_MANY, "quota") if job.served.share.full else None

    def register(self, job: Job) -> None:
        """It is known from now on, and so is its deadline."""
        job.known = True
        job.served.running += 1
        job.served.share.calls += 1
        self._jobs[job.key] = job
        own = [handler.deadline for handler in job.chain if handler.deadline is not None]
        limit = min(own) if own else self._rules.deadline
        if limit is not None:
            self.due_at(job, job.received + limit)
        if job.tid:
            self.due_at(job, job.received + PAUSE, look=True)

    def look_again(self, job: Job, now: float) -> None:
        """Its caller was looked at now, and is again after a while, as many as there are of its container's."""
        container = job.served.container
        self._looks.begin(job, container)
        _over(job, [each for each in job.dues if each.look])
        late = now - job.next_look if job.next_look else 0.0
        job.next_look = now + self._looks.pause(container, late)
        self.due_at(job, job.next_look, look=True)

    def due_at(
        self, job: Job, when: float, later: Later | None = None, *, look: bool = False
    ) -> None:
        """Something is due for it then: its deadline, the end of a wait, or a look at its caller."""
        self._count += 1
        if len(self._dues) > 2 * len(self._jobs) + _SPARE:
            # answered long before their deadline: nothing is kept for them until then
            self._dues[:] = [each for each in self._dues if not each.stale()]
            heapq.heapify(self._dues)
        if not self._dues or when < self._dues[0].when:
            self._wake()  # whoever waits is to wait no longer than that
        due = Due(when, self._count, job, later, look)
        if later is not None:  # what was awaited before is there
            _over(job, [each for each in job.dues if each.later is not None])
        job.dues = (*job.dues, due)
        heapq.heappush(self._dues, due)

    def merge(self, job: Job) -> bool:
        """If another job stands in for this one, take its place.  Whether it is known."""
        if job.known or not self.taken:
            return job.known
        other = self.taken.get(job.key)
        if other is None or other is job:
            return False
        if other.claimed:
            job.claimed = True
            return False
        self.taken[job.key] = self._jobs[job.key] = job
        job.received = other.received
        other.claimed = True  # nobody finds it again by its deadline
        job.known = True
        job.served.stand_in(other, job)
        for due in other.dues:
            self.due_at(job, due.when, look=due.look)
        _over(other, other.dues)
        return True

    def claim(self, job: Job) -> bool:
        """Whether it is ours to answer: only once.  Takes the lock."""
        with self._lock:
            self.merge(job)
            if job.claimed:
                return False
            job.claimed = True
            if job.known:
                self.tells(job)
            elif job.routed:
                self._last = job
            return True

    def at(self, key: Key) -> Job | None:
        """The job that a thread is at which routes this call, as far as it is to be found."""
        for job in (self._last, self.routing):
            if job is not None and job.key == key:
                return job
        return self._jobs.get(key)

    def tells(self, job: Job) -> None:
        """Observers are going to be told of its answer."""
        job.answering = True
        self.answering += 1

    def forget(self, job: Job) -> None:
        """It is answered."""
        job.done = True
        if not job.known:
            return
        self._jobs.pop(job.key, None)
        _over(job, job.dues)
        if job.next_look:
            self._looks.end(job, job.served.container)
        job.served.running -= 1
        job.served.share.calls -= 1

    def told(self, job: Job) -> None:
        """Observers were told of its answer, and of what ended with it."""
        if job.answering:
            self.answering -= 1
            if not self.answering:
                self._told.notify_all()

    def next_due(self) -> float | None:
        """World time of the nearest deadline; None if there is none."""
        try:
            return self._dues[0].when
        except IndexError:
            return None

    def due(self, now: float) -> tuple[Job, Later | None, bool] | None:
        """One for which something is due now, and whether that is a look; None if there is none.  Takes the lock."""
        with self._lock:
            while self._dues and (self._dues[0].when <= now or self._dues[0].stale()):
                first = heapq.heappop(self._dues)
                if first.job is not None and not first.stale():
                    return first.job, first.later, first.look
            return None

    def pending(self, served: Served | None) -> list[Job]:
        """All of one listener, or all.  Takes the lock."""
        with self._lock:
            return [job for job in self._jobs.values() if served is None or job.served is served]


def _over(job: Job, dues: Iterable[Due]) -> None:
    """These are no more, and keep nothing of it as long as they lie about."""
    for due in dues:
        due.job = due.later = None
    job.dues = tuple(due for due in job.dues if due.job is not None)
