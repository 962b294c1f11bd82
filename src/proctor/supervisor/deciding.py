"""Deciding one call: from its reception to its answer, on whichever thread that takes.

A :class:`Job` moves forward only: handlers are asked in order (:meth:`Decider.advance`), somebody
speaks (:meth:`Decider.decided`), the answer is claimed once and carried out.  Three may claim it:
the handler's side, the deadline, the end of supervision; whoever comes later finds it claimed.
"""

from __future__ import annotations

import errno
import heapq
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.call.decode.argument import reads
from proctor.call.verdict import Deny, Perform, Verdict, Wire, close_unused, deny
from proctor.errors import CallGone, CallOver, MemoryUnreadable, RacyVerdict
from proctor.observe.events import Outcome
from proctor.supervisor.backlog import Backlog
from proctor.supervisor.carry import carry_out, check, may_wait, owned
from proctor.supervisor.jobs import Job, Served

if TYPE_CHECKING:
    from threading import Condition

    from proctor.call.call import Call
    from proctor.observe.observers import Observers
    from proctor.supervisor.ports import Lock, World
    from proctor.supervisor.rules import Rules

#: Performs a call, and may have a method ``begin`` that does so as far as nothing waits: what it
#: returns has the verdict later if it has a method ``then``, which is given who wants it: (call, the Perform verdict) → what to answer.
Performer = Callable[["Call", Perform], Verdict]

#: Those who decide without a look at the caller's memory.
_UNREAD: Final = ("deadline", "close", "gone", "quota")
#: What calls get that are too many for their container's quota.
_TOO_MANY: Final = deny(errno.ENOMEM)
#: Deadlines of answered calls that may be left lying about.
_SPARE: Final = 64


class Decider:
    """Takes jobs to their answer; shared by all listeners of one supervisor.

    :param lock: guards jobs, queues and the counts of :class:`Served`.
    :param told: of that lock; notified when :attr:`answering` becomes 0.
    """

    def __init__(
        self,
        world: World,
        lock: Lock,
        told: Condition,
        rules: Rules,
        performer: Performer | None,
        observers: Observers,
        wake: Callable[[], object],
    ) -> None:
        self._wake = wake
        self._told = told
        #: Calls that left the receiving thread, and of whose answer observers are being told.
        self.answering = 0
        self._world = world
        self._lock = lock
        self._rules = rules
        self._performer = performer
        self.observers = observers
        #: All that left the receiving thread and are unanswered, the oldest first.
        self._jobs: dict[Job, None] = {}
        #: Nothing is decided any more.
        self._over = False
        self._backlog = Backlog(world, lock, self._go_on, wake)
        #: What each container has of us.
        self.share = self._backlog.share
        self._dues: list[tuple[float, int, Job]] = []
        self._due_count = 0

    @property
    def remembered(self) -> int:
        """How many calls are known beyond the receiving thread, answered ones too."""
        return max(len(self._jobs), len(self._backlog), len(self._dues) // 2)

    def next_due(self) -> float | None:
        """World time of the nearest deadline; None if there is none."""
        return self._dues[0][0] if self._dues else None

    def must_wait(self, job: Job) -> bool:
        """Queue the call behind an earlier one of the same caller, if that is still being decided."""
        served, tid = job.served, job.tid
        if not served.busy or not tid:
            return False
        with self._lock:
            line = served.busy.get(tid)
            if line is None:
                return False
            latest = line[-1].received
        if self._world.born_since(tid, latest):
            if not _lives(job):  # then it was not ours that was born
                self._answer(job, self._rules.on_error, "gone")
                return True
            self._leave_behind(served, line)
            return False
        with self._lock:
            if served.busy.get(tid) is not line:
                return False  # it came to its end just now
            refused = self._refused(job)
            if refused is None:
                job.line = line
                line.append(job)
                self._register(job)
                self._backlog.wait(job)
        if refused is not None:
            self._answer(job, *refused)
        return True

    def _refused(self, job: Job) -> tuple[Deny, str] | None:
        """What is answered at once, and why, instead of deciding the call beyond the receiving thread
        (the lock is held)."""
        if job.served.given_up or self._over:
            return self._rules.close_verdict, "close"
        return (_TOO_MANY, "quota") if job.served.share.full else None

    def _leave_behind(self, served: Served, line: deque[Job]) -> None:
        """Another thread has their caller's number now: none of these calls has a caller."""
        with self._lock:
            dead = [job for job in line if job.waits]
            tid = next((job.tid for job in line), 0)
            if served.busy.get(tid) is line:
                del served.busy[tid]
        for job in dead:
            self._answer(job, self._rules.on_error, "gone")

    def _register(self, job: Job) -> None:
        """Know a job beyond the receiving thread, and its deadline (the lock is held)."""
        if job.slow:
            return
        job.slow = True
        job.served.running += 1
        job.served.share.calls += 1
        self._jobs[job] = None
        own = [handler.deadline for handler in job.chain if handler.deadline is not None]
        limit = min(own) if own else self._rules.deadline
        if limit is not None:
            job.due = job.received + limit
            self._due_count += 1
            if not self._dues:
                self._wake()  # whoever waits without a limit has one from now on
            heapq.heappush(self._dues, (job.due, self._due_count, job))

    def _leave(self, job: Job) -> bool:
        """The job leaves the receiving thread: from now on its caller's next calls queue up.  False
        if its listener was given up, or its container has too many, and it was answered."""
        with self._lock:
            if job.slow:
                return True
            refused = self._refused(job)
            if refused is None:
                self._register(job)
                job.served.line_up(job)
        if refused is not None:
            self._answer(job, *refused)
        return refused is None

    def take_in(self, job: Job) -> None:
        """Decide a call that was received elsewhere; from any thread."""
        if not self.must_wait(job) and self._leave(job):
            self._put(job)

    def _put(self, job: Job) -> None:
        """Let a worker go on."""
        if not self._backlog.put(job) and job.said is not None:
            self._go_on(job)  # overtaken: what was said is given up, which takes no time

    def _go_on(self, job: Job) -> None:
        said, job.said = job.said, None
        if said is None:
            self.advance(job, receiving=False)
        else:
            self.decided(job, *said, receiving=False)

    def advance(self, job: Job, *, receiving: bool) -> None:
        """Ask handler after handler until one has a verdict; move to where the next must run."""
        while job.index < len(job.chain):
            handler = job.chain[job.index]
            if handler.conditions and not handler.applies(job.call):
                job.index += 1
                continue
            if receiving and not handler.quick:
                if not self._leave(job):
                    return
                if not handler.is_async:
                    self._put(job)
                    return
            if job.claimed:
                return  # overtaken by its deadline, or by close()
            job.index += 1
            try:
                if handler.is_async:
                    self._world.start(
                        handler.function(job.call),  # type: ignore[arg-type]
                        lambda result, error, label=handler.label: self._resume(  # type: ignore[misc]
                            job, result, error, label
                        ),
                    )
                    return
                verdict: Any = handler.function(job.call)
            except BaseException as raised:  # whatever it is, a caller waits for an answer
                verdict = raised
            if verdict is not None:
                self.decided(job, verdict, handler.label, receiving=receiving)
                return
        self.decided(job, self._rules.default, "default", receiving=receiving)

    def _resume(self, job: Job, result: Any, error: BaseException | None, label: str) -> None:
        """A coroutine ended, or a performer: go on on a worker, so that nobody's loop waits for us."""
        outcome = error if error is not None else result
        job.said = (outcome, label) if outcome is not None else None
        self._put(job)

    def decided(self, job: Job, verdict: Any, who: str, *, receiving: bool) -> None:
        """A handler spoke: check what it said, perform if asked to, answer."""
        if receiving and (may_wait(verdict) or self._looks(job.call, verdict)):
            if self._leave(job):
                job.said = (verdict, who)
                self._put(job)
            else:
                close_unused(owned(verdict, job.call), self._world.close)
            return
        try:
            if isinstance(verdict, BaseException):
                raise verdict
            checked = check(verdict, job.call, who)
            if isinstance(checked, Perform) and not job.claimed:
                begun = self._perform(job, checked)
                if hasattr(begun, "then"):  # it waits, for the target perhaps, and no worker does
                    begun.then(lambda result, error: self._resume(job, result, error, who))
                    return
                checked = check(begun, job.call, "the performer")
        except CallGone as gone:
            job.error = gone
            checked = self._rules.on_error  # nobody is left to hear it; the bookkeeping still runs
        except RacyVerdict as racy:
            job.error, checked = racy, self._rules.on_error
            self._failed(job, who, racy, expected=True)
        except MemoryUnreadable as unreadable:
            # the target's doing, as often as it likes: a line, not a page
            job.error, checked = unreadable, self._rules.on_error
            self._failed(job, who, unreadable, expected=True)
        except BaseException as raised:
            job.error, checked = raised, self._rules.on_error
            if not (job.claimed and isinstance(raised, CallOver)):
                # its deadline was faster; CallOver is then what a handler meets
                self._failed(job, who, raised)
        self._answer(job, checked, who)
        if receiving and isinstance(job.error, KeyboardInterrupt):
            raise job.error  # Ctrl-C while the user's own thread ran step()

    def _failed(self, job: Job, who: str, error: BaseException, *, expected: bool = False) -> None:
        near = next((each.function for each in job.chain if each.label == who), None)
        late = "too late to matter, it was answered already"
        self.observers.trouble(
            f"handler {who}" if near is not None else who, error, call=job.call, near=near,
            then=late if job.claimed else f"answered: {self._rules.on_error}", expected=expected,
        )  # fmt: skip

    def _looks(self, call: Call, verdict: Any) -> bool:
        """Whether the call's line for the log takes a look at memory, which may answer late
        (userfaultfd, FUSE): everybody would wait if the receiving thread took it."""
        if isinstance(verdict, KeyboardInterrupt):
            return False
        if isinstance(verdict, BaseException):
            verdict = self._rules.on_error
        if not self.observers.looks(verdict):
            return False
        frame = call.frame
        return frame is not None and reads(frame.signature)

    def _perform(self, job: Job, verdict: Perform) -> Any:
        """What a performer says at once: a verdict, or what has it later."""
        if self._performer is None:
            return deny(errno.ENOSYS, "nothing here performs calls")
        if job.call.begun:
            return deny(errno.EINTR, "an earlier monitor had begun to perform it, and died")
        job.performed = verdict
        journal = job.served.journal
        if journal is not None:
            journal.performs(job.call._notification)
        begin = getattr(self._performer, "begin", self._performer)
        done = begin(job.call, verdict)
        if isinstance(done, Perform):
            raise TypeError("a performer answers; it cannot ask for a performer")
        return done

    def _answer(self, job: Job, verdict: Verdict, who: str) -> None:
        """Answer, unless somebody did; then let the caller's next call go on."""
        if who not in _UNREAD:
            verdict = self.observers.explained(verdict)
        if self.observers.looks(verdict) and not job.claimed:
            # Before it is answered: then the caller's memory is out of reach.  Before it is claimed:
            # that memory can make its reader wait (FUSE, userfaultfd), and a deadline must still be
            # able to go first; it, and close(), do not look themselves.
            job.seen = self.observers.look(job.call, verdict, read=who not in _UNREAD)
        if not self._claim(job):
            close_unused(verdict, self._world.close)
            return
        delivered = False
        try:
            delivered, verdict = carry_out(
                job.served.listener, job.call, verdict, self._rules.on_error, self._world.close
            )
        except BaseException as problem:
            job.error = problem
            if not (job.served.keep or job.served.given_up):  # otherwise it may be closed already
                self.observers.trouble(
                    f"{who} could not be obeyed", problem, call=job.call,
                    then=f"answered: {self._rules.on_error}",
                )  # fmt: skip
            verdict = self._rules.on_error
        journal = job.served.journal
        if journal is not None:
            journal.clear(job.call._notification)
        self._finish(job, verdict, who, delivered)

    def _claim(self, job: Job) -> bool:
        with self._lock:
            if job.claimed:
                return False
            job.claimed = True
            self.answering += job.slow
            return True

    def _finish(self, job: Job, verdict: Verdict, who: str, delivered: bool) -> None:
        if self.observers.watching or self.observers.counters is not None:
            asked = job.performed
            reason = verdict.reason if asked is None else asked.reason
            outcome = Outcome(
                job.call, verdict, who, delivered, job.received, self._world.clock(),
                job.served.container, asked is not None, job.error, *job.seen,
                getattr(reason, "rule", None) or "",
            )  # fmt: skip
            interrupted = self.observers.tell_outcome(outcome)
            if interrupted is not None:
                job.error = interrupted  # goes on from decided()
        try:
            job.call.expire()
        except Exception as problem:
            self.observers.trouble("what a call had taken could not be given up", problem)
        if not job.slow:
            return
        served = job.served
        with self._lock:
            self._jobs.pop(job, None)
            served.running -= 1
            served.share.calls -= 1
            unsaid = self._backlog.take_out(job) and job.said
            follower = served.step_out(job)
        if unsaid:
            close_unused(owned(unsaid[0], job.call), self._world.close)
        if follower is not None:
            self._put(follower)
        try:
            release(served, self._lock, self.observers)
        finally:  # the end of a container, too, is told before anybody goes on for its being over
            self._count_out()

    def _count_out(self) -> None:
        with self._lock:
            self.answering -= 1
            if not self.answering:
                self._told.notify_all()

    def expire(self) -> None:
        """Answer in the place of handlers that took too long."""
        now = self._world.clock()
        while self._dues and (self._dues[0][0] <= now or self._dues[0][2].claimed):
            _, _, job = heapq.heappop(self._dues)
            self._answer(job, self._rules.on_deadline, "deadline")
        if len(self._dues) > 2 * len(self._jobs) + _SPARE:
            # answered long before their deadline: nothing is kept for them until then
            with self._lock:
                self._dues[:] = [due for due in self._dues if not due[2].claimed]
                heapq.heapify(self._dues)

    def late(self, job: Job) -> Wire | None:
        """Answer what was received from a listener that is given up, or say what is to be answered."""
        self._answer(job, self._rules.close_verdict, "close")
        return None if job.error is None else self._rules.close_verdict.wire

    def sweep(self) -> None:
        """Forget calls that wait and whose callers are gone; of very many, look at some."""
        alive = []
        for job in self._backlog.some():
            if _lives(job):
                alive.append(job)
            else:
                self._answer(job, self._rules.on_error, "gone")
        if alive:
            self._backlog.back(alive)

    def bury(self, served: Served) -> None:
        """Forget calls that wait: nobody uses the filter any more, so all callers are gone."""
        for job in self._pending(served):
            if job.waits:
                self._answer(job, self._rules.on_error, "gone")

    def abandon(self, served: Served | None) -> None:
        """Answer what is pending for a listener that we give up, or for all, at the end."""
        if served is None:
            with self._lock:
                self._over = True
        for job in self._pending(served):
            self._answer(job, self._rules.close_verdict, "close")

    def _pending(self, served: Served | None) -> list[Job]:
        with self._lock:
            return [job for job in self._jobs if served is None or job.served is served]


def release(served: Served, lock: Lock, observers: Observers) -> None:
    """Close a listener that is to be closed, once nothing speaks to it any more: a number closed too
    early could by then belong to another listener."""
    if not served.leaving:
        return
    with lock:
        if served.running or served.left is None:
            return
        left, served.left = served.left, None
    if not served.keep:
        try:
            served.listener.close()
        except OSError as problem:
            observers.trouble("a listener could not be closed", problem)
    left(served, served.leaving)


def _lives(job: Job) -> bool:
    """Whether the caller still waits for the answer."""
    try:
        return job.served.listener.id_valid(job.call.id)
    except Exception:
        return True  # the listener was closed, and whoever did that sees to its calls
