"""Jobs that wait: for a worker, or behind an earlier call of the same caller.

A target can fill this room as fast as it can fork, call and kill, if workers are stuck.  So jobs
whose caller is gone do not stay: past a threshold the receiving loop looks at some of the oldest
after every few that come (:meth:`Backlog.some`), a constant number for each, and what waits is never
much more than the callers alive.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from proctor.supervisor.jobs import Job

if TYPE_CHECKING:
    from proctor.supervisor.ports import Lock, World

#: Jobs that may wait before anybody asks whether their callers live.
MANY: Final = 256
#: Jobs that come from one look to the next.
EVERY: Final = 64


class Backlog:
    """See the module.

    :param lock: guards everything here, and all of a job's own state that is about waiting.
    :param go_on: what a worker does with a job.
    :param wake: brings the receiving loop to its next look.
    """

    def __init__(
        self,
        world: World,
        lock: Lock,
        go_on: Callable[[Job], object],
        wake: Callable[[], object],
    ) -> None:
        self._world = world
        self._lock = lock
        self._go_on = go_on
        self._wake = wake
        #: For a worker, in order of arrival.
        self._queue: OrderedDict[Job, None] = OrderedDict()
        #: Workers that were asked for and did not come yet; never fewer than the queue is long.
        self._asked = 0
        #: All that wait, the one to be looked at next first, and some that waited.
        self._ring: deque[Job] = deque()
        self._joined = 0

    def __len__(self) -> int:
        """How many jobs are remembered here."""
        return max(len(self._queue), len(self._ring))

    def put(self, job: Job) -> bool:
        """Let a worker go on with it; False if it was answered meanwhile."""
        with self._lock:
            if job.claimed:
                return False
            self._queue[job] = None
            self.wait(job)
            if self._asked >= len(self._queue):
                return True
            self._asked += 1
        self._world.submit(self._next)
        return True

    def wait(self, job: Job) -> None:
        """The job waits from now on (the lock is held)."""
        job.waits = True
        if job.remembered:
            return
        job.remembered = True
        self._ring.append(job)
        self._joined += 1
        if self._joined % EVERY == 0 and len(self._ring) > MANY:
            self._wake()

    def take_out(self, job: Job) -> bool:
        """It was answered: no worker is wanted.  Whether one was (the lock is held)."""
        job.waits = False
        if job not in self._queue:
            return False
        del self._queue[job]
        return True

    def _next(self) -> None:
        """What workers do."""
        with self._lock:
            self._asked -= 1
            if not self._queue:
                return  # it was answered meanwhile
            job, _ = self._queue.popitem(last=False)
            job.waits = False
        self._go_on(job)

    def some(self) -> list[Job]:
        """The jobs whose callers should be asked after now: none, mostly.  Afterwards they come
        :meth:`back`."""
        if self._joined < EVERY or len(self._ring) <= MANY:
            return []
        with self._lock:
            count = min(len(self._ring), 2 * self._joined + EVERY)
            self._joined = 0
            some = [self._ring.popleft() for _ in range(count)]
            return [job for job in some if self._waits(job)]

    def back(self, jobs: Iterable[Job]) -> None:
        """These live, or did a moment ago."""
        with self._lock:
            self._ring.extend(job for job in jobs if self._waits(job))

    @staticmethod
    def _waits(job: Job) -> bool:
        job.remembered = job.waits
        return job.waits
