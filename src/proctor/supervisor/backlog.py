"""Jobs that wait: for their turn, or behind an earlier call of the same caller.

Whoever receives takes those whose turn it is between two rounds, a container after another; within one,
:mod:`proctor.supervisor.share` says which.  All containers together hold as many threads as the world
has, but for the first of each, which it always gets.  So one that holds all its threads, by hostile
memory, FIFOs or slow handlers, takes nothing from another.

A target can fill this room as fast as it can fork, call and kill, if its threads are stuck.  So jobs
whose caller is gone do not stay: past a threshold the receiving thread looks at some of the oldest
after every few that come (:meth:`Backlog.some`), a constant number for each, and what waits is never
much more than the callers alive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, ref

from proctor.supervisor.jobs import Job
from proctor.supervisor.share import KINDS, Hold, Kind, Mark, Share

if TYPE_CHECKING:
    from proctor.supervisor.container import Container
    from proctor.supervisor.world_port import Lock, Pulse, World

#: Jobs that may wait before anybody asks whether their callers live.
MANY: Final = 256
#: Jobs that come from one look to the next.
EVERY: Final = 64


class Backlog:
    """See the module.  But for :meth:`share` and :meth:`some`, everything wants the lock held.

    :param lock: guards everything here, and all of a job's own state that is about waiting.
    :param wake: brings the receiving thread to its next look.
    """

    def __init__(self, world: World, lock: Lock, wake: Callable[[], object]) -> None:
        self._world = world
        self._lock = lock
        self._wake = wake
        self._shares: WeakKeyDictionary[Container, Share] = WeakKeyDictionary()
        #: Threads that are held, of all containers.
        self._held = 0
        #: Containers of which something waits for its turn, the one to be looked at first.
        self._ready: dict[Share, None] = {}
        self._queued = 0
        #: All that wait, the one to be looked at next first, and some that waited.  Those that are answered are not kept:
        #: a call that is not is known, see :mod:`proctor.supervisor.inflight`.
        self._ring: deque[ref[Job]] = deque()
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

    @property
    def queued(self) -> bool:
        """Whether some wait for their turn."""
        return self._queued > 0

    # Threads --------------------------------------------------------------------------------
    @property
    def held(self) -> int:
        """How many threads calls keep, of all containers."""
        return self._held

    def hold(self, job: Job, pulse: Pulse, now: float, began: Mark | None = None) -> Hold:
        """A thread is kept by ``job``, see :meth:`Share.hold`."""
        self._held += 1
        return job.served.share.hold(job, pulse, now, began)

    def let_go(self, hold: Hold, now: float) -> None:
        """It is kept no more."""
        hold.job.served.share.let_go(hold, now)
        self._held -= 1
        if self._ready:
            self._wake()

    def delay(self, share: Share, now: float, kind: Kind) -> float | None:
        """When one more call of a container may be begun, see :meth:`Share.delay`."""
        if share.held and self._held >= self._world.workers * (1 if kind.slow else 2):
            return None
        return share.delay(now, kind)

    def _due(self, share: Share, now: float) -> list[Kind]:
        """What waits of a container and could have its turn."""
        waiting = (kind for kind in KINDS if share.first(kind) is not None)
        return [kind for kind in waiting if self.delay(share, now, kind) == 0.0]

    def holds_back(self, job: Job, now: float, *, kept: bool) -> bool:
        """Whether it has to wait for its turn: its container has no thread for it, or others wait that
        could have theirs; otherwise it is begun, or goes on.

        :param kept: its thread lost the role before it came to ask this, so that it has a thread already, and waits if
            that is one too many."""
        share = job.served.share
        kind = share.kind(job)
        if not kept:
            return not self.begins(share, kind, now)
        times = 1 if kind.slow else 2
        over = share.held > share.workers * times
        over = over or (share.held > 1 and self._held > self._world.workers * times)
        if over or (not kind.begun and share.early(now)):
            return True
        share.begin(kind, now)
        return False

    def begins(self, share: Share, kind: Kind, now: float) -> bool:
        """Whether something of a container is begun, or goes on, and need not wait so, that has no thread yet."""
        if self.delay(share, now, kind) != 0.0 or self._due(share, now):
            return False
        share.begin(kind, now)
        return True

    # Turns ----------------------------------------------------------------------------------
    def put(self, job: Job, anew: bool = False) -> None:
        """It waits for its turn from now on, see :meth:`Share.put`."""
        share = job.served.share
        share.put(job, anew)
        self._ready[share] = None
        self._queued += 1
        self.wait(job)
        self._wake()

    def wait(self, job: Job) -> None:
        """It waits from now on, for whatever it may be."""
        job.waits = True
        if job.remembered:
            return
        job.remembered = True
        self._ring.append(ref(job))
        self._joined += 1
        if self._joined % EVERY == 0 and len(self._ring) > MANY:
            self._wake()

    def take_out(self, job: Job) -> bool:
        """It was answered, and wants no turn; whether it did."""
        job.waits = False
        if not job.served.share.take_out(job):
            return False
        self._queued -= 1
        return True

    def next(self, now: float) -> Job | None:
        """What whoever receives does next."""
        for share in list(self._ready):
            del self._ready[share]
            if len(share):
                self._ready[share] = None  # at the end
                job = self.next_of(share, now)
                if job is not None:
                    return job
        return None

    def next_of(self, share: Share, now: float) -> Job | None:
        """What is begun next of a container's."""
        job = share.take(self._due(share, now))
        if job is not None:
            self._queued -= 1
            job.waits = False
            share.begin(share.kind(job), now)
        return job

    def patience(self, now: float) -> float | None:
        """Seconds after which :meth:`next` is to be called, if nothing happens until then."""
        delays = [
            self.delay(share, now, kind)
            for share in self._ready
            for kind in KINDS
            if share.first(kind) is not None
        ]
        return min((delay for delay in delays if delay is not None), default=None)

    # Callers that are gone --------------------------------------------------------------------
    def many(self) -> bool:
        """Whether :meth:`some` has any."""
        return self._joined >= EVERY and len(self._ring) > MANY

    def some(self) -> list[Job]:
        """The jobs whose callers should be asked after now: none, mostly.  Afterwards they come
        :meth:`back`."""
        with self._lock:
            if not self.many():
                return []
            count = min(len(self._ring), 2 * self._joined + EVERY)
            self._joined = 0
            some = [self._ring.popleft() for _ in range(count)]
            jobs = [each() for each in some]
            return [job for job in jobs if job is not None and self._waits(job)]

    def back(self, jobs: Iterable[Job]) -> None:
        """These live, or did a moment ago."""
        self._ring.extend(ref(job) for job in jobs if self._waits(job))

    @staticmethod
    def _waits(job: Job) -> bool:
        job.remembered = job.waits
        return job.waits
