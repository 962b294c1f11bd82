"""The executors of one monitor: which there are, whose identity each has, how many there may be.

There is one for each identity in each container at a time, kept warm for the next call; more while
that many calls wait for something in the kernel.  A container's limit is one of calls: who helps a call for which somebody
works already is not counted.  But everybody is, until he is dead, or has closed what he opened, whose call is over: being
asked to die is not being dead, for a file system that does not answer (FUSE, NFS) can keep a process that was killed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Hashable
from functools import partial
from typing import TYPE_CHECKING, Final

from proctor.kernel import _core
from proctor.kernel.threads import quiet_thread
from proctor.performing.executing.beginning import Become, Once, make
from proctor.performing.executing.closing import Counting
from proctor.performing.executing.mother import Mother
from proctor.performing.executing.processes import Executor
from proctor.performing.executing.spares import Spare
from proctor.performing.executing.workers import HELPING, Pace, Wait, Worker
from proctor.performing.trouble import Ended, TooMany, Trouble

if TYPE_CHECKING:
    from proctor.kernel.progress import Progress
    from proctor.performing.executing.requests import Reply

_TRIES: Final = 5
_MOST_IDLE: Final = 64
#: Keys that are remembered until those of which there is nobody are forgotten.
_MOST_KEYS: Final = 4 * _MOST_IDLE
#: Seconds in which processes that were killed are expected to be dead, when all is over.
_END: Final = 0.5
#: Seconds after which the next one is made of those that are used once: the call that took the last one is over then.
_SOON: Final = 0.0003


class Executors(_core.Books):
    """All executors of one monitor; thread-safe.

    :param idle: seconds without work after which an executor ends; what a call's rule is asked meanwhile
        may take longer.
    """

    def __init__(self, *, idle: float) -> None:
        self.mother = Mother()
        #: Where executors say how far they are, for who comes after us; somebody else's.
        self.progress: Progress | None = None
        self.idle = idle
        self._lock, self._most = threading.Lock(), _MOST_IDLE
        #: Those that wait for work, and since when; the longest waiting first.
        self._idle: dict[Executor, float] = {}
        #: The same by their keys; each executor has its list, which may be empty.
        self._by_key: dict[Hashable, list[Executor]] = {}
        self._taken: dict[object, int] = {}
        self._busy: set[Worker] = set()
        #: By container, and whether they are used once: those do what takes long.
        self._paces: dict[tuple[object, bool], Pace] = {}
        self._spare = Spare(partial(self._born, None, None), self._lock)
        self._dying: list[Worker] = []
        #: Those that close what they opened, on a file system that may take its time over it.
        self._closing: list[Executor] = []
        #: Those that close what was given to callers, there.
        self.closers = Counting(self.employ, self.discard, idle)
        self._closed = False
        #: The thread that ends who is without work for too long; there is one while somebody is, or a spare one is wanted.
        self._reaper: threading.Thread | None = None
        self._over = threading.Event()

    # One conversation's use -------------------------------------------------------------------

    def acquire(
        self, key: Hashable, container: object, limit: int, become: Become
    ) -> Generator[Wait, Reply, Executor]:
        """A new executor of this identity, for the asker alone until :meth:`release` or :meth:`discard`.

        It may have been killed meanwhile, which the first request shows (:class:`Ended`).

        :param key: of its identity; if it has ``lasting`` and that is false, the executor ends with its work.
        :param limit: how many of a container's may be at work, or dying, at the same time; or :data:`HELPING`.
        :raises Trouble: there is none to be had.
        """
        for _ in range(_TRIES):
            executor = self._new(key, container, limit)
            ahead = executor.begins is not None
            try:
                yield from make(executor, become, self.mother.pid)
                return executor
            except BaseException as failed:
                self.discard(executor)
                unborn = isinstance(failed, Trouble) and ahead and executor.pidfd < 0
                if not (unborn or isinstance(failed, Ended)):
                    raise
        raise Trouble("executors end as soon as they are made")

    # Books --------------------------------------------------------------------------------------

    def _count(self, worker: Worker) -> None:
        """Unless it is counted (the lock is held)."""
        if not worker.counted:
            self._taken[worker.container] = self._taken.get(worker.container, 0) + 1
            worker.counted = True

    def _uncount(self, worker: Worker) -> None:
        if not worker.counted:
            return
        left = self._taken[worker.container] - 1
        if left:
            self._taken[worker.container] = left
        else:
            del self._taken[worker.container]
        worker.counted = False

    def expect_room(self, container: object, limit: int) -> None:
        """
        :raises TooMany: as many of a container's work already."""
        self._bury()
        if self._closing:
            self._see_who_closed()
        if limit == HELPING:
            return
        with self._lock:
            if self._taken.get(container, 0) >= limit:
                raise TooMany(f"that many calls are being performed already (limit = {limit})")

    def employ(self, worker: Worker, limit: int = 0) -> None:
        """Count one against its container until it is dead, after :meth:`discard`; with :data:`HELPING` from then on."""
        with self._lock:
            if limit != HELPING:
                self._count(worker)
            self._busy.add(worker)

    def _new(self, key: Hashable, container: object, limit: int) -> Executor:
        self.expect_room(container, limit)
        once, spare = isinstance(key, Once), None
        with self._lock:
            pace = self._paces.setdefault((container, once), Pace(once))
            if isinstance(key, Once):
                spare = self._spare.take(key.begins)
        if spare is None:
            executor = self._born(key, container, pace)
        else:
            executor = spare
            executor.belongs(key, pace)
        executor.last = not getattr(key, "lasting", True)
        with self._lock:
            if len(self._by_key) > _MOST_KEYS:
                self._by_key = {each.key: each.equals for each in (*self._idle, *self._executors())}
            executor.equals = self._by_key.setdefault(key, executor.equals)
            executor.container = container
            if limit != HELPING:
                self._count(executor)
            self._busy.add(executor)
        return executor

    def _born(self, key: Hashable, container: object, pace: Pace | None = None) -> Executor:
        """
        :raises Trouble: there is none to be had."""
        progress = self.progress
        if progress is None:
            return Executor(self.mother.bear(), key, container, pace)
        place = progress.take()
        try:
            sock = self.mother.bear(place=place, memory=progress.fd)
        except BaseException:
            progress.give_back(place)
            raise
        return Executor(sock, key, container, pace, progress, place)

    def _executors(self) -> list[Executor]:
        """Those that are at work, or close something, and may wait for work again."""
        return [one for one in (*self._busy, *self._closing) if isinstance(one, Executor)]

    def release(self, executor: Executor, *, slow: bool = False) -> None:
        """It is free again; kept for the next call, within bounds.

        :param slow: it had something open on a file system that may not let go of it (the flush of
            close(2) waits for a FUSE or NFS server, and no signal ends that).  Then it is free, and
            counts no more, when it says that it has closed that.
        """
        if slow and executor.holds and not executor.last:
            with self._lock:
                self._busy.discard(executor)
                self._closing.append(executor)
                self._count(executor)
            self._see_who_closed()
            return
        self.keep(executor)

    def _see_who_closed(self) -> None:
        with self._lock:
            asked, self._closing = self._closing, []
        for one in asked:
            try:
                free = one.closed(wait=False)
            except Ended:
                self.discard(one)
                continue
            if free:
                self.keep(one)
            else:
                with self._lock:
                    self._closing.append(one)

    def keep(self, executor: Executor) -> None:
        """It is free again, as :meth:`release`, and has nothing open that it gave.

        :raises MemoryError: it is discarded."""
        dropped: Executor | None = executor
        try:
            with self._lock:
                self._uncount(executor)
                self._busy.discard(executor)
                if not (self._closed or executor.last):
                    dropped = self._waits(executor)
        except MemoryError:  # of the first, before anything has happened
            self.discard(executor)
            raise
        if dropped is not None:
            dropped.close()

    def _waits(self, executor: Executor) -> Executor | None:
        """It waits for work from now on (the lock is held); who does not, if that are too many, or there is no memory for it."""
        try:
            executor.equals.append(executor)
            self._idle[executor] = time.monotonic()
            if self._reaper is None and not self._reaps():  # then nobody is kept
                return self._drop(executor)
            return self._drop(next(iter(self._idle))) if len(self._idle) > _MOST_IDLE else None
        except MemoryError:
            self._idle.pop(executor, None)
            if executor in executor.equals:
                executor.equals.remove(executor)
            return executor

    def _reaps(self) -> bool:
        """See that somebody ends those without work (the lock is held); False if there are no more threads for us."""
        if self._reaper is None:
            try:
                self._reaper = quiet_thread(self._reap, "proctor-reaper")
            except RuntimeError:
                return False
        return True

    def _reap(self) -> None:
        """End those that are without work for too long, until there are none without work."""
        left = self.idle
        while True:
            wanted = self._spare.wanted(left)
            if self._over.wait(_SOON if wanted else 0):
                return
            if wanted:
                self._spare.prepare()
            with self._lock:
                latest = time.monotonic() - self.idle
                spare = self._spare.drop(latest)
                dropped = [] if spare is None else [spare]
                while self._idle and next(iter(self._idle.values())) <= latest:
                    dropped.append(self._drop(next(iter(self._idle))))
                since = [] if self._spare.waiting is None else [self._spare.waiting[1]]
                since += [next(iter(self._idle.values()))] if self._idle else []
                left = min(since, default=latest) - latest
                over = not self._idle and not self._spare.needed()
                if over:
                    self._reaper = None
            for one in dropped:
                one.close()
            if over:
                return

    def discard(self, worker: Worker) -> None:
        """It is of no use any more; it counts until it is dead."""
        worker.kill()
        with self._lock:
            self._busy.discard(worker)
            self._dying.append(worker)
            self._count(worker)
            if isinstance(worker, Executor) and isinstance(worker.key, Once) and self._reaps():
                self._spare.want(worker.key.begins)
        self._bury()

    def forget(self, container: object) -> None:
        """The container is over: its executors end, those at work with their work.  Until then they are
        in its cgroup, which its runtime cannot remove."""
        with self._lock:
            for once in (False, True):
                self._paces.pop((container, once), None)
            over = [one for one in self._idle if one.container is container]
            for one in over:
                self._drop(one)
            for working in (*self._busy, *self._closing):
                working.last |= working.container is container
        for one in over:
            one.close()

    def _drop(self, idle: Executor) -> Executor:
        """It waits for work no longer (the lock is held), and is to be closed."""
        del self._idle[idle]
        idle.equals.remove(idle)
        return idle

    def _bury(self) -> None:
        """Count those out that are dead by now."""
        with self._lock:
            dead = [one for one in self._dying if one.ended()]
            if dead:
                self._dying = [one for one in self._dying if one not in dead]
            for one in dead:
                self._uncount(one)
        for one in dead:
            one.close()

    # The end ------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def close(self) -> int:
        """End every process, also one that works: its call is denied.  How many would not die.

        Idempotent."""
        with self._lock:
            self._closed = True
            reaper = self._reaper
            idle = list(self._idle)
            for each in idle:
                self._drop(each)
            busy = list(self._busy)
            closing, self._closing = self._closing, []
            self._dying += closing
            spare = self._spare.close()
            idle += [] if spare is None else [spare]
        for one in idle:
            one.close()
        for one in closing:
            one.kill()
        for working in busy:
            working.signal()  # its conversation sees that it died, and closes it
        self._over.set()
        self._spare.wake()
        if reaper is not None:
            reaper.join(_END)
        self.mother.close()
        until = time.monotonic() + _END
        left = sum(not one.wait_for_end(until - time.monotonic()) for one in {*busy, *self._dying})
        self._bury()
        return left
