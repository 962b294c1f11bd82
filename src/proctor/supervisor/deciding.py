"""Deciding one call: from its reception to its answer, on the thread that received it unless it has to
wait.

A :class:`Job` moves forward only: handlers are asked in order (:meth:`Decider.advance`), somebody
speaks (:meth:`Decider.decided`), the answer is claimed once and carried out.  Three may claim it:
the handler's side, the deadline, the end of supervision; whoever comes later finds it claimed.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import (
    Answer,
    Deny,
    HandOver,
    LetRun,
    Perform,
    Verdict,
    Wire,
    close_unused,
    deny,
)
from proctor.errors import CallGone, CallOver, MemoryUnreadable, RacyVerdict
from proctor.observe.events import Outcome
from proctor.supervisor.backlog import Backlog
from proctor.supervisor.carry import carry_out, check, owned
from proctor.supervisor.inflight import InFlight
from proctor.supervisor.jobs import Job, Served
from proctor.supervisor.ports import Later
from proctor.supervisor.share import LOOK, Share

if TYPE_CHECKING:
    from threading import Condition

    from proctor.call.call import Call
    from proctor.observe.observers import Observers
    from proctor.supervisor.ports import Engine, Lock, World
    from proctor.supervisor.rules import Rules

#: Performs a call: (call, the Perform verdict) → what to answer, or that it takes a while.
Performer = Callable[["Call", Perform], "Verdict | Later"]

#: Those who decide without a look at the caller's memory.
_UNREAD: Final = ("deadline", "close", "gone", "quota")


class Turn:
    """Going on with a job whose turn it is."""

    __slots__ = ("_decider", "job")

    def __init__(self, decider: Decider, job: Job) -> None:
        self._decider = decider
        self.job = job

    def __call__(self) -> None:
        self._decider.run_next(self.job)


class Continuation:
    """Going on with a job for which something was awaited."""

    __slots__ = ("_decider", "_later", "job")

    def __init__(self, decider: Decider, job: Job, later: Later) -> None:
        self._decider = decider
        self._later = later
        self.job = job

    def __call__(self) -> None:
        self._decider.go_on(self.job, self._later)


class Decider:
    """Takes jobs to their answer; shared by all listeners of one supervisor.

    :param lock: guards jobs, queues and the counts of :class:`Served`.
    :param told: of that lock.
    """

    def __init__(
        self,
        world: World,
        lock: Lock,
        told: Condition,
        rules: Rules,
        performer: Performer | None,
        observers: Observers,
        engine: Engine,
    ) -> None:
        self._world = world
        self._lock = lock
        self._rules = rules
        self._performer = performer
        self._engine = engine
        self.observers = observers
        self.calls = InFlight(lock, told, rules, engine.wake)
        self.backlog = Backlog(world, lock, engine.wake)
        self._overdue: deque[Continuation] = deque()

    # The way in -------------------------------------------------------------------------------
    def decide(self, job: Job) -> None:
        """Decide a call that was received just now, on the thread that did."""
        share = job.served.share
        self.routed(job)
        if not share.watchful:
            self.advance(job)
        elif not (self._order(job) or self._hold_back(job)):
            self._go(job, share)

    def routed(self, job: Job) -> None:
        """Let it be found if the thread that routes it stalls."""
        job.routed = True
        self.calls.routing = job

    def _go(self, job: Job, share: Share) -> None:
        """Decide a call of a container of which something stalls: if that is to be expected of this one
        as well, let somebody else receive at once."""
        slow = share.is_slow(job)
        if slow:
            began = self._world.clock()
            self._engine.surrender()
        self.run(job)
        if slow and self._world.clock() < began + LOOK:
            with self._lock:
                share.was_quick(job)

    def take_in(self, job: Job) -> None:
        """Decide a call that was received elsewhere, when its turn comes; from any thread."""
        if not self._order(job) and self._leave(job):
            self._put(job)

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
            if not _lives(job):  # then it was not ours that was born
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
            if job.known or not self.backlog.holds_back(job, self._world.clock()):
                return False
        if self._leave(job):
            self._put(job)
        return True

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
            if not job.claimed:
                self.backlog.put(job)
                return
        if job.said is not None:
            self.run(job)  # overtaken: what was said is given up, which takes no time

    # Turns ------------------------------------------------------------------------------------
    def next_job(self) -> Job | None:
        """What waits and has its turn; for whoever has the role, who then calls
        :meth:`run_next`."""
        with self._lock:
            return self.backlog.next(self._world.clock())

    def run_next(self, job: Job) -> None:
        """Go on with it, on the thread that has the role."""
        self._go(job, job.served.share)

    def run(self, job: Job) -> None:
        """Go on with it, on whatever thread."""
        said, job.said = job.said, None
        if said is None:
            self.advance(job)
        else:
            self.decided(job, *said)

    def spent(self, job: Job, began: float) -> None:
        """Whoever has the role went on with it, from then until now, and did not stall."""
        with self._lock:
            job.served.share.spent(job, self._world.clock() - began)

    def patience(self) -> float | None:
        """Seconds until something is due; None for nothing."""
        with self._lock:
            now, due = self._world.clock(), self.calls.next_due()
            waits = self.backlog.patience(now)
        if due is None:
            return waits
        left = max(0.0, due - now)
        return left if waits is None else min(left, waits)

    # Handlers ---------------------------------------------------------------------------------
    def advance(self, job: Job) -> None:
        """Ask handler after handler until one has a verdict."""
        while job.index < len(job.chain):
            handler = job.chain[job.index]
            if handler.conditions and not handler.applies(job.call):
                job.index += 1
                continue
            if job.served.given_up:
                self.give_up(job)
            if job.claimed or (handler.is_async and not self._leave(job)):
                return  # overtaken by its deadline, or by close()
            job.index += 1
            try:
                verdict: Any = handler.function(job.call)
                if handler.is_async:
                    self._world.start(
                        verdict,
                        lambda result, error, label=handler.label: self._resume(  # type: ignore[misc]
                            job, result, error, label
                        ),
                    )
                    return
            except BaseException as raised:  # whatever it is, a caller waits for an answer
                verdict = raised
            if verdict is not None:
                self.decided(job, verdict, handler.label)
                return
        self.decided(job, self._rules.default, "default")

    def _resume(self, job: Job, result: Any, error: BaseException | None, label: str) -> None:
        """A coroutine ended: go on elsewhere, so that no loop of the user's waits for us."""
        outcome = error if error is not None else result
        job.said = (outcome, label) if outcome is not None else None
        self._put(job)

    def decided(self, job: Job, verdict: Any, who: str, performing: bool = False) -> None:
        """A handler spoke: check what it said, perform if asked to, answer.

        :param performing: it was the performer that spoke, later.
        """
        try:
            if isinstance(verdict, BaseException):
                raise verdict
            if not performing and not isinstance(verdict, Later):
                verdict = check(verdict, job.call, who)
                if isinstance(verdict, Perform) and not job.claimed:
                    performing = True
                    verdict = self._perform(job, verdict)
            if isinstance(verdict, Later):
                self._await(job, verdict, who, performing)
                return
            if performing:
                if isinstance(verdict, Perform):
                    raise TypeError("a performer answers; it cannot ask for a performer")
                verdict = check(verdict, job.call, "the performer")
        except CallGone as gone:
            job.error = gone
            verdict = self._rules.on_error  # nobody is left to hear it; the bookkeeping still runs
        except RacyVerdict as racy:
            job.error, verdict = racy, self._rules.on_error
            self._failed(job, who, racy, expected=True)
        except MemoryUnreadable as unreadable:
            # the target's doing, as often as it likes: a line, not a page
            job.error, verdict = unreadable, self._rules.on_error
            self._failed(job, who, unreadable, expected=True)
        except BaseException as raised:
            job.error, verdict = raised, self._rules.on_error
            if not (job.claimed and isinstance(raised, CallOver)):
                # its deadline was faster; CallOver is then what a handler meets
                self._failed(job, who, raised)
        self.answer(job, verdict, who)

    def _failed(self, job: Job, who: str, error: BaseException, *, expected: bool = False) -> None:
        near = next((each.function for each in job.chain if each.label == who), None)
        late = "too late to matter, it was answered already"
        self.observers.trouble(
            f"handler {who}" if near is not None else who, error, call=job.call, near=near,
            then=late if job.claimed else f"answered: {self._rules.on_error}", expected=expected,
        )  # fmt: skip

    def at_once(self, name: str) -> Callable[[Call, Perform], Verdict | Later | None] | None:
        """What the performer has for ordinary calls of this name: asked first, before anybody looked at
        the call, it says the verdict, or None where :meth:`advance` is to go on, and nothing has
        happened."""
        ordinary = getattr(self._performer, "ordinary", None)
        return None if ordinary is None else ordinary(name)

    def _perform(self, job: Job, verdict: Perform) -> Verdict | Later:
        if self._performer is None:
            return deny(errno.ENOSYS, "nothing here performs calls")
        if job.call.begun:
            return deny(errno.EINTR, "an earlier monitor had begun to perform it, and died")
        job.performed = verdict
        journal = job.served.journal
        if journal is not None:
            journal.performs(job.call._notification)
        return self._performer(job.call, verdict)

    # What takes a while -----------------------------------------------------------------------
    def _await(self, job: Job, later: Later, who: str, performing: bool) -> None:
        """Go on when a descriptor is readable."""
        waits = False
        try:
            if self._leave(job):
                with self._lock:
                    if not job.claimed:
                        self._engine.watch(later.fd, Continuation(self, job, later))
                        waits = True
                        job.later = (later, who, performing)
                        self.backlog.wait(job)
                        if later.wait is not None:
                            self.calls.due_at(job, self._world.clock() + later.wait, later)
        except BaseException:
            self._cancel(later)
            raise
        if not waits:
            self._cancel(later)

    def go_on(self, job: Job, later: Later) -> None:
        """It is readable, or was waited for long enough; on the thread that has the role."""
        with self._lock:
            if job.later is None or job.later[0] is not later:
                return
            _, who, performing = job.later
            job.later, job.waits = None, False
            self._engine.unwatch(later.fd)
        try:
            verdict = later.resume()
        except BaseException as raised:
            verdict = raised
        if verdict is None and not performing:
            self.advance(job)
        else:
            self.decided(job, verdict, who, performing)

    def _cancel(self, later: Later) -> None:
        try:
            later.cancel()
        except BaseException as problem:
            self.observers.trouble("giving up what was awaited", problem, near=later.cancel)

    # Answers ----------------------------------------------------------------------------------
    def answer(self, job: Job, verdict: Verdict, who: str) -> None:
        """Answer with what is fit for it, unless somebody did; then let the caller's next call go on."""
        self._answer(job, verdict, who)
        if isinstance(job.error, KeyboardInterrupt):
            raise job.error  # Ctrl-C while the user's own thread ran step()

    def _answer(self, job: Job, verdict: Verdict, who: str) -> None:
        """Answer, unless somebody did; then let the caller's next call go on."""
        if who not in _UNREAD:
            verdict = self.observers.explained(job.call, verdict)
        if self.observers.looks(verdict, job.served.container) and not job.claimed:
            # Before it is answered: then the caller's memory is out of reach.  Before it is claimed:
            # that memory can make its reader wait (FUSE, userfaultfd), and a deadline must still be
            # able to go first; it, and close(), do not look themselves.
            job.seen = self.observers.look(job.call, verdict, read=who not in _UNREAD)
        if not self.calls.claim(job):
            close_unused(verdict, self._world.close)
            return
        self._carry_out(job, verdict, who)

    def give(self, job: Job, verdict: HandOver, who: str) -> None:
        """Answer with what was opened for a call of which nobody is told."""
        give = getattr(job.served.listener, "give", None)
        if not self.calls.claim(job):
            close_unused(verdict, self._world.close)
        elif give is None or not give(job.call.id, verdict.fd, verdict.cloexec):
            self._carry_out(job, verdict, who)
        else:
            self._written(job)
            counters = self.observers.counters
            if counters is not None:
                counters.cell(job.served.container, job.call.name, "perform")[0] += 1
            self._finish(job)

    def _carry_out(self, job: Job, verdict: Verdict, who: str) -> None:
        """Answer what is claimed."""
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
        self._written(job)
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
        self._finish(job)

    def _written(self, job: Job) -> None:
        if job.served.journal is not None:
            job.served.journal.clear(job.call._notification)

    def _finish(self, job: Job) -> None:
        try:
            job.call.expire()
        except Exception as problem:
            self.observers.trouble("what a call had taken could not be given up", problem)
        served = job.served
        with self._lock:
            self.calls.forget(job)
            if not job.known:
                return
            unsaid = self.backlog.take_out(job) and job.said
            later, job.later = job.later, None
            if later is not None:
                self._engine.unwatch(later[0].fd)
            follower = served.step_out(job)
        if unsaid:
            close_unused(owned(unsaid[0], job.call), self._world.close)
        if later is not None:
            self._cancel(later[0])
        if follower is not None and not follower.stands_in:
            self._put(follower)
        try:
            release(served, self._lock, self.observers)
        finally:  # the end of a container, too, is told before anybody goes on for its being over
            with self._lock:
                self.calls.told(job)

    def conclude(self, job: Job, wire: Wire) -> bool:
        """Answer a call of which nobody needs to be told; False if somebody else did."""
        if not self.calls.claim(job):
            return False
        value, error, flags = wire
        plain: Verdict = LetRun() if flags else Deny(-error) if error else Answer(value)
        try:
            carry_out(job.served.listener, job.call, plain, self._rules.on_error, self._world.close)
        except BaseException as problem:
            if not (job.served.keep or job.served.given_up):
                self.observers.trouble("an answer could not be given", problem, call=job.call)
        self._written(job)
        self._finish(job)
        return True

    def give_up(self, job: Job) -> None:
        """Answer as at the end."""
        self._answer(job, self._rules.close_verdict, "close")

    def late(self, job: Job) -> Wire | None:
        """Answer what was received from a listener that is given up, or say what is to be answered."""
        self.routed(job)
        self.give_up(job)
        return None if job.error is None else self._rules.close_verdict.wire

    # Now and then -----------------------------------------------------------------------------
    def untended(self) -> bool:
        """Whether :meth:`tend` has something to do."""
        due = self.calls.next_due()
        return self.backlog.many() or (due is not None and due <= self._world.clock())

    def tend(self) -> None:
        """Answer in the place of handlers that took too long, and forget calls that wait and whose
        callers are gone."""
        self.expire()
        alive = []
        for job in self.backlog.some():
            if _lives(job):
                alive.append(job)
            else:
                self._answer(job, self._rules.on_error, "gone")
        if alive:
            with self._lock:
                self.backlog.back(alive)

    def expire(self) -> None:
        """See :meth:`tend`."""
        while (due := self.calls.due(self._world.clock())) is not None:
            job, later = due
            if later is None:
                self._answer(job, self._rules.on_deadline, "deadline")
            else:
                with self._lock:
                    self._overdue.append(Continuation(self, job, later))

    def next_overdue(self) -> Continuation | None:
        """What was awaited for long enough, and is gone on with; for whoever has the role, after
        :meth:`tend`."""
        with self._lock:
            return self._overdue.popleft() if self._overdue else None

    def bury(self, served: Served) -> None:
        """Forget calls that wait: nobody uses the filter any more, so all callers are gone."""
        for job in self.calls.pending(served):
            if job.waits:
                self._answer(job, self._rules.on_error, "gone")

    def abandon(self, served: Served | None) -> None:
        """Answer what is pending for a listener that we give up, or for all, at the end."""
        if served is None:
            with self._lock:
                self.calls.over = True
        for job in self.calls.pending(served):
            self.give_up(job)


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
