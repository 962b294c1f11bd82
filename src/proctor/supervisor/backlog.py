"""Jobs that wait: for a worker, or behind an earlier call of the same caller.

Each container has its own workers, as many as its quota says (:mod:`proctor.supervisor.share`); all
together there are as many as the world has, but for the first of each container, which it always
gets.  So one that holds all its workers, by hostile memory, FIFOs or slow handlers, takes nothing
from another.

A target can fill this room as fast as it can fork, call and kill, if workers are stuck.  So jobs
whose caller is gone do not stay: past a threshold the receiving loop looks at some of the oldest
after every few that come (:meth:`Backlog.some`), a constant number for each, and what waits is never
much more than the callers alive.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from proctor.supervisor.jobs import Job
from proctor.supervisor.share import Share

if TYPE_CHECKING:
    from proctor.supervisor.container import Container
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
        self._shares: weakref.WeakKeyDictionary[Container, Share] = weakref.WeakKeyDictionary()
        #: Workers, also those that did not come yet.
        self._workers = 0
        #: Containers that want one more than there are, the one to have the next first.
        self._short: dict[Share, None] = {}
        self._queued = 0
        #: All that wait, the one to be looked at next first, and some that waited.
        self._ring: deque[Job] = deque()
        self._joined = 0

    def __len__(self) -> int:
        """How many jobs are remembered here."""
        return max(self._queued, len(self._ring))

    def share(self, container: Container) -> Share:
        """What a container has of us."""
        with self._lock:
            found = self._shares.get(container)
            if found is None:
                found = self._shares[container] = Share(container.quotas)
            return found

    def put(self, job: Job) -> bool:
        """Let a worker go on with it; False if it was answered meanwhile."""
        share = job.served.share
        with self._lock:
            if job.claimed:
                return False
            share.put(job)
            self._queued += 1
            self.wait(job)
            if not self._ask(share):
                return True
        self._world.submit(lambda: self._work(share))
        return True

    def _ask(self, share: Share) -> bool:
        """Whether a worker is to be asked for (the lock is held)."""
        if not share.lacks:
            return False
        if self._workers >= self._world.workers and share.asked + share.running:
            self._short[share] = None
            return False
        share.asked += 1
        self._workers += 1
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
        if not job.served.share.take_out(job):
            return False
        self._queued -= 1
        return True

    def _work(self, share: Share) -> None:
        """What a worker does that was asked for a container."""
        with self._lock:
            share.asked -= 1
            share, job = self._next(share)
        while job is not None:
            began = self._world.clock()
            self._go_on(job)
            with self._lock:
                share.running -= 1
                share.spent(job, max(0.0, self._world.clock() - began))
                share, job = self._next(share)

    def _next(self, share: Share) -> tuple[Share, Job | None]:
        """What a worker of this container's does next; it ends with None (the lock is held)."""
        if self._short and (share.running or not len(share)):
            share = self._needier(share)
        if self._workers > self._world.workers and share.running:  # one more than there may be
            if share.lacks:
                self._short[share] = None
            self._workers -= 1
            return share, None
        job = share.take() if share.running < share.workers else None
        if job is None:
            self._workers -= 1
            return share, None
        self._queued -= 1
        job.waits = False
        share.running += 1
        if share.lacks:
            self._short[share] = None
        return share, job

    def _needier(self, share: Share) -> Share:
        """The container that is to have this one's worker: another one that is short of them, or the
        same (the lock is held)."""
        for other in list(self._short):
            del self._short[other]
            if other.lacks:
                if share.lacks:
                    self._short[share] = None
                return other
        return share

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
