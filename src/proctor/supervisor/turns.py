"""Turns: which call is decided now, and which waits: behind an earlier one of its caller, or for a thread
that its container may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.supervisor.answering import Answers, lives
from proctor.supervisor.share import Mark
from proctor.supervisor.world_port import Still

if TYPE_CHECKING:
    from collections import deque

    from proctor.supervisor.jobs import Job, Served
    from proctor.supervisor.share import Kind, Number, Share
    from proctor.supervisor.world_port import Pulse


class Turns(Answers):
    """See the module, and :class:`~proctor.supervisor.answering.Answers`."""

    #: What tells what the thread does that has the role.
    receiver: Pulse = Still()
    #: How far the last one was that gave it up.
    given_up: Mark | None = None

    def run(self, job: Job) -> None:
        """Go on with a call: :class:`~proctor.supervisor.deciding.Decider`."""
        raise NotImplementedError

    def _order(self, job: Job) -> bool:
        """Queue the call behind an earlier one of the same caller, if that is still being decided.
        Whether it need not be decided now."""
        served, tid = job.served, job.tid
        with self._lock:
            if self.calls.merge(job) or job.claimed:
                return self._stands_in_line(job)
            line = served.busy.get(tid) if tid else None
            if line is None:
                return False
            latest = line[-1].received
        if self._world.born_since(tid, latest):
            if not lives(job):  # then it was not ours that was born
                self._answer(job, self._rules.on_error, "gone")
                return True
            self._leave_behind(served, line)
            return False
        with self._lock:
            if self.calls.merge(job) or job.claimed:
                return self._stands_in_line(job)
            if served.busy.get(tid) is not line:
                return False  # it came to its end just now
            refused = self.calls.refused(job)
            if refused is None:
                job.line = line
                line.append(job)
                self.calls.register(job)
                self.backlog.wait(job)
        if refused is not None:
            self._answer(job, *refused)
        return True

    def _stands_in_line(self, job: Job) -> bool:
        """Whether a call that is known already need not be decided now (the lock is held)."""
        if job.claimed or job.line is None or job.line[0] is job:
            return job.claimed
        self.backlog.wait(job)
        return True

    def _leave_behind(self, served: Served, line: deque[Job]) -> None:
        """Another thread has their caller's number now: none of these calls has a caller."""
        with self._lock:
            dead = [job for job in line if job.waits]
            tid = next((job.tid for job in line), 0)
            if served.busy.get(tid) is line:
                del served.busy[tid]
        for job in dead:
            self._answer(job, self._rules.on_error, "gone")

    def _hold_back(self, job: Job) -> bool:
        """Let the call wait for its turn, if its container has no thread for it now."""
        with self._lock:
            if not self.backlog.holds_back(job, self._world.clock(), kept=job.known):
                return False
        if self._leave(job):
            self._put(job)
        return True

    def begins(self, share: Share, kind: Kind, now: float) -> bool:
        """Whether a call of a container may be begun now, of which nobody knows yet: then it is."""
        with self._lock:
            return self.backlog.begins(share, kind, now)

    def was_quick(self, share: Share, number: Number) -> None:
        """See :meth:`Share.was_quick`."""
        with self._lock:
            share.was_quick(number)

    def _leave(self, job: Job) -> bool:
        """Others are to know of the job: from now on its caller's next calls queue up.  False if its
        listener was given up, or its container has too many, and it was answered."""
        with self._lock:
            if self.calls.merge(job) or job.claimed:
                return not job.claimed
            refused = self.calls.refused(job)
            if refused is None:
                self.calls.register(job)
                job.served.line_up(job)
        if refused is not None:
            self._answer(job, *refused)
        return refused is None

    def _put(self, job: Job) -> None:
        """Let it wait for its turn."""
        with self._lock:
            since = job.served.share.doubted(job)
            if since is None and not job.claimed:
                self.backlog.put(job)
                return
        anew = since is not None and self._world.born_since(job.tid, since) and lives(job)
        with self._lock:
            if not job.claimed:
                self.backlog.put(job, anew)
                return
        if job.said is not None:
            self.run(job)  # overtaken: what was said is given up, which takes no time

    def next_job(self) -> Job | None:
        """What waits and has its turn; for whoever has the role, who then calls
        :meth:`run_next`."""
        with self._lock:
            return self.backlog.next(self._world.clock())

    def surrender(self) -> Mark:
        """Whoever has the role, and calls this, lets somebody else receive, since what it is at stalls, perhaps: how far it is,
        for :meth:`charge`."""
        self.given_up = mark = Mark(self.receiver, self._world.clock())
        self._engine.surrender()
        return mark

    def charge(self, mark: Mark, job: Job) -> None:
        """It is done with that, perhaps before anybody came who would have held it."""
        with self._lock:
            if not mark.counted:
                mark.counted = True
                job.served.share.spent(job, mark.used())

    def spent(self, job: Job, seconds: float) -> None:
        """Whoever has the role went on with it for so long, and did not stall."""
        with self._lock:
            job.served.share.spent(job, seconds)

    def due(self) -> float | None:
        """Seconds until whoever receives has something to do though nothing comes; None for nothing."""
        left, some = self.patience()
        return 0.0 if some else left

    def patience(self) -> tuple[float | None, bool]:
        """Seconds until something is due, None for nothing; and whether some wait for their turn, which may
        come with any call that is over."""
        with self._lock:
            now, due = self._world.clock(), self.calls.next_due()
            waits, some = self.backlog.patience(now), self.backlog.queued
        if due is None:
            return waits, some
        left = max(0.0, due - now)
        return left if waits is None else min(left, waits), some
