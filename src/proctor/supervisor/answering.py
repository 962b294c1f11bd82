"""Answers: each call gets one, from whoever claims it first, and its caller's next call goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Answer, Deny, HandOver, LetRun, Verdict, Wire, close_unused
from proctor.observe.events import Outcome
from proctor.supervisor.backlog import Backlog
from proctor.supervisor.carry import carry_out, owned
from proctor.supervisor.inflight import InFlight
from proctor.supervisor.ports import Later

if TYPE_CHECKING:
    from collections.abc import Iterable
    from threading import Condition

    from proctor.call.call import Call
    from proctor.observe.observers import Observers
    from proctor.supervisor.jobs import Job, Served
    from proctor.supervisor.ports import Engine
    from proctor.supervisor.rules import Rules
    from proctor.supervisor.world_port import Lock, World

#: Those who decide without a look at the caller's memory.
_UNREAD: Final = ("deadline", "close", "gone", "quota")


class Answers:
    """Gives them; shared by all listeners of one supervisor.

    :param lock: guards jobs, queues and the counts of :class:`Served`.
    :param told: of that lock.
    """

    def __init__(
        self,
        world: World,
        lock: Lock,
        told: Condition,
        rules: Rules,
        observers: Observers,
        engine: Engine,
    ) -> None:
        self._world = world
        self._lock = lock
        self._rules = rules
        self._engine = engine
        self.observers = observers
        self.calls = InFlight(lock, told, rules, engine.wake)
        self.backlog = Backlog(world, lock, engine.wake)

    def _put(self, job: Job) -> None:
        """Let a call wait for its turn: :class:`~proctor.supervisor.turns.Turns`."""
        raise NotImplementedError

    def routed(self, job: Job) -> None:
        """Let it be found if the thread that routes it stalls."""
        job.routed = True
        self.calls.routing = job

    def answer(self, job: Job, verdict: Verdict, who: str) -> None:
        """Answer with what is fit for it, unless somebody did; then let the caller's next call go on."""
        self._answer(job, verdict, who)
        if isinstance(job.error, KeyboardInterrupt):
            raise job.error  # Ctrl-C while the user's own thread ran step()

    def _answer(self, job: Job, verdict: Verdict, who: str) -> None:
        """Answer, unless somebody did; then let the caller's next call go on."""
        if who not in _UNREAD:
            verdict = self.observers.explained(job.call, verdict)
        if self.observers.looks(job.call, verdict, job.served.container) and not job.claimed:
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
            return
        try:
            slot = job.call._notification.slot
            given = give and give(
                job.call.id, verdict.fd, job.tid, cloexec=verdict.cloexec, slot=slot
            )
        except ValueError:  # its owner closed it just now, and nothing has happened
            given = None
        if given is None:
            self._carry_out(job, verdict, who)
        else:
            self._written(job)
            counters = self.observers.counters
            if counters is not None:
                counters.cell(job.served.container, job.call.name, "perform")[0] += 1
            self._finish(job)

    def fill(self, call: Call, verdict: Answer, served: Served) -> None:
        """Answer a performed call of which nobody is told, and which the thread that routes it has claimed."""
        try:
            carry_out(served.listener, call, verdict, self._rules.on_error, self._world.close)
        except BaseException as problem:
            self._failed_to_carry_out("the performer", problem, call, served)
            if isinstance(problem, KeyboardInterrupt):
                raise
        finally:
            call.expire()

    def _failed_to_carry_out(
        self, who: str, problem: BaseException, call: Call, served: Served
    ) -> None:
        if not (served.keep or served.given_up):  # otherwise it may be closed already
            self.observers.trouble(
                f"{who} could not be obeyed", problem, call=call,
                then=f"answered: {self._rules.on_error}",
            )  # fmt: skip

    def _carry_out(self, job: Job, verdict: Verdict, who: str) -> None:
        """Answer what is claimed."""
        delivered = False
        try:
            delivered, verdict = carry_out(
                job.served.listener, job.call, verdict, self._rules.on_error, self._world.close
            )
        except BaseException as problem:
            job.error = problem
            self._failed_to_carry_out(who, problem, job.call, job.served)
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
            if job.noted is not None:
                job.noted(outcome)
        self._finish(job)

    def leave(self, job: Job) -> None:
        """Whoever serves its listener next decides it: nothing is answered, and it is as it was received."""
        if self.calls.claim(job):
            if job.served.journal is not None:
                job.served.journal.left(job.call._notification)
            self._finish(job)

    def _written(self, job: Job) -> None:
        journal = job.served.journal
        if journal is not None:
            journal.clear(job.call._notification)

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
                self._unwatch(later[0].fds)
            follower = served.step_out(job)
            if follower is not None and (not follower.waits or follower.later is not None):
                follower = None  # whoever is at it goes on with it
        if unsaid:
            if isinstance(unsaid[0], Later):
                self._cancel(unsaid[0])
            close_unused(owned(unsaid[0], job.call), self._world.close)
        if later is not None:
            self._cancel(later[0])
        if follower is not None:
            self._put(follower)
        try:
            release(served, self._lock, self.observers)
        finally:  # the end of a container, too, is told before anybody goes on for its being over
            with self._lock:
                self.calls.told(job)

    def given(self, job: Job) -> None:
        """It is answered, by the engine's own code, which had claimed it."""
        self._written(job)
        self._finish(job)

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

    def _unwatch(self, fds: Iterable[int]) -> None:
        for fd in fds:
            self._engine.unwatch(fd)

    def _cancel(self, later: Later) -> None:
        try:
            later.cancel()
        except BaseException as problem:
            self.observers.trouble("giving up what was awaited", problem, near=later.cancel)

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


def lives(job: Job) -> bool:
    """Whether the caller still waits for the answer."""
    try:
        return job.served.listener.id_valid(job.call.id)
    except Exception:
        return True  # the listener was closed, and whoever did that sees to its calls
