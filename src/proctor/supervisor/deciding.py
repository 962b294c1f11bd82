"""Deciding one call: from its reception to its answer, on the thread that received it unless it has to
wait.

A :class:`Job` moves forward only: handlers are asked in order (:meth:`Decider.advance`), somebody
speaks (:meth:`Decider.decided`), the answer is claimed once and carried out.  Three may claim it:
the handler's side, the deadline, the end of supervision; whoever comes later finds it claimed.
"""

from __future__ import annotations

import errno
import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from proctor.call.verdict import (
    Deny,
    LetRun,
    Perform,
    Verdict,
    deny,
)
from proctor.errors import CallGone, CallOver, MemoryUnreadable, RacyVerdict
from proctor.supervisor.answering import lives
from proctor.supervisor.carry import check
from proctor.supervisor.jobs import Job
from proctor.supervisor.ports import Later, Seek
from proctor.supervisor.seeking import Seeking
from proctor.supervisor.share import LOOK, Share, number_of
from proctor.supervisor.turns import Turns

if TYPE_CHECKING:
    from threading import Condition

    from proctor.call.call import Call
    from proctor.kernel.notification import NotificationLike
    from proctor.observe.observers import Observers
    from proctor.supervisor.jobs import Begun, Served
    from proctor.supervisor.ports import Below, Engine, Lock, Seeker, World
    from proctor.supervisor.rules import Rules

#: Performs a call: (call, the Perform verdict) → what to answer, or that it takes a while.
Performer = Callable[["Call", Perform], "Verdict | Later"]

#: ERESTARTNOINTR (linux/errno.h): who lives on after all, since a handler that ran first masked what it was to die of, makes the
#: call again and never sees it interrupted.
_INTERRUPTED: Final = deny(513)
_BEGUN: Final = "an earlier monitor had begun to perform it, and died"
#: What performing says that was interrupted (linux/errno.h): nothing is done, and the call is made again.
_ERESTARTSYS: Final = 512


class Left(Exception):
    """It is not begun any more: whoever serves its listener next decides it."""


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

    __slots__ = ("_decider", "job", "kept", "later")

    def __init__(self, decider: Decider, job: Job, later: Later) -> None:
        self._decider = decider
        self.later = later
        self.job = job
        #: Its thread lost the role over it, and is kept by it.
        self.kept = False

    def __call__(self) -> None:
        self._decider.go_on(self)


class Arrival:
    """Deciding what somebody else receives, on the thread that receives.

    :param receive: gives the call; None where there is none to be decided here."""

    __slots__ = ("_decider", "_receive", "job", "lost")

    def __init__(self, decider: Decider, receive: Callable[[], Job | None]) -> None:
        self._decider = decider
        self._receive = receive
        self.job: Job | None = None
        #: Somebody else has the role since before there was a call, of which he does not know.
        self.lost = False

    def __call__(self) -> None:
        job = self._receive()
        if job is not None:
            self._decider.arrived(job, self)


class Ending:
    """Answering a job in the place of its handlers."""

    __slots__ = ("_decider", "_verdict", "_who", "job")

    def __init__(self, decider: Decider, job: Job, verdict: Verdict, who: str) -> None:
        self._decider = decider
        self._verdict = verdict
        self._who = who
        self.job = job

    def __call__(self) -> None:
        self._decider._answer(self.job, self._verdict, self._who)


class Look:
    """Seeing whether the caller of a job dies as soon as that is answered."""

    __slots__ = ("_decider", "job")

    def __init__(self, decider: Decider, job: Job) -> None:
        self._decider = decider
        self.job = job

    def __call__(self) -> None:
        self._decider.look(self.job)


class Decider(Turns):
    """Takes jobs to their answer; shared by all listeners of one supervisor.

    :param performer: see :data:`Performer`.
    :param seeker: see :class:`~proctor.supervisor.supervisor.Supervisor`; the rest is as for
        :class:`~proctor.supervisor.answering.Answers`.
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
        seeker: Seeker | None = None,
    ) -> None:
        self.seeking = Seeking(seeker, rules.on_error)
        super().__init__(world, lock, told, rules, observers, engine)
        self._performer = performer
        #: By name: see :meth:`_ordinary`.
        self._ways: dict[str, Any] = {}
        self._overdue: deque[Continuation | Ending | Look] = deque()
        #: Nothing more is begun that must not be done twice: see :mod:`proctor.supervisor.leaving`.
        self.leaving = False

    # The way in -------------------------------------------------------------------------------
    def decide(self, job: Job) -> None:
        """Decide a call that was received just now, on the thread that did."""
        share = job.served.share
        self.routed(job)
        if not (share.watchful or share.is_slow(job) or job.tid in job.served.busy):
            self.advance(job)
        elif not (self._order(job) or self._hold_back(job)):
            self._go(job, share)

    def _go(self, job: Job, share: Share) -> None:
        """Decide a call of a container of which something stalls: if that is to be expected of this one
        as well, let somebody else receive at once."""
        if share.is_slow(job):
            self._engine.surrender()
            self.run_held(job)
        else:
            self.run(job)

    def run_held(self, job: Job) -> None:
        """Go on with it, on a thread that others need not wait for: it may be known for stalling, and not stall."""
        share, began = job.served.share, self._world.clock()
        slow, number = share.is_slow(job), number_of(job)
        self.run(job)
        if slow and self._world.clock() < began + LOOK:
            self.was_quick(share, number)

    def take_in(self, job: Job) -> None:
        """Decide a call that was received elsewhere, when its turn comes; from any thread."""
        if not self._order(job) and self._leave(job):
            self._put(job)

    def arrived(self, job: Job, arrival: Arrival) -> None:
        """Decide it on the thread that has the role, as one that was received there, unless it may have to wait, or that
        thread has it no longer."""
        share = job.served.share
        with self._lock:
            arrival.job, lost = job, arrival.lost
        if lost or share.watchful or share.is_slow(job) or job.tid in job.served.busy:
            self.take_in(job)
        else:
            job.ordinary = True
            self.advance(job)

    # Turns ------------------------------------------------------------------------------------
    def run_next(self, job: Job) -> None:
        """Go on with it, on the thread that has the role."""
        self._go(job, job.served.share)

    def run(self, job: Job) -> None:
        """Go on with it, on whatever thread."""
        if job.due:
            self._resume_later(job)
            return
        said, job.said = job.said, None
        if said is None:
            self.advance(job)
        else:
            self.decided(job, *said)

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
                        lambda result, error, label=handler.label: self._returned(  # type: ignore[misc]
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

    def _returned(self, job: Job, result: Any, error: BaseException | None, label: str) -> None:
        """A coroutine ended: go on elsewhere, so that no loop of the user's waits for us."""
        outcome = error if error is not None else result
        job.said = (outcome, label) if outcome is not None else None
        job.begun = True
        self._put(job)

    def decided(self, job: Job, verdict: Any, who: str, performing: bool = False) -> None:
        """A handler spoke: check what it said, perform if asked to, answer.

        :param performing: it was the performer that spoke, later.
        """
        if self.leaving and _is_left(verdict):
            self.leave(job)
            return
        if type(verdict) is Seek and not performing:
            try:
                verdict = self.seeking.go_on(job.call, verdict)
            except BaseException as raised:
                verdict = raised
            if verdict is None:  # the next handler is asked
                self.advance(job)
                return
        try:
            if isinstance(verdict, BaseException):
                raise verdict
            if not performing and not isinstance(verdict, Later):
                verdict = check(verdict, job.call, who)
                if job.served.container.below is not None and isinstance(
                    verdict, (LetRun, Perform)
                ):
                    verdict = self._ask_below(job.served.container.below, job, verdict)
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
            if self.leaving and _is_left(verdict):
                raise Left
        except Left:
            self.leave(job)
            return
        except CallGone as gone:
            job.error = gone.with_traceback(None)  # which holds frames, and these the job
            verdict = self._rules.on_error  # nobody is left to hear it; the bookkeeping still runs
        except RacyVerdict as racy:
            job.error, verdict = racy, self._rules.on_error
            self._failed(job, who, racy, expected=True)
        except MemoryUnreadable as unreadable:
            # the target's doing, as often as it likes: a line, not a page
            job.error, verdict = unreadable, self._rules.on_error
            self._failed(job, who, unreadable, expected=True)
            unreadable.with_traceback(None)
        except BaseException as raised:
            job.error, verdict = raised, self._rules.on_error
            if not (job.claimed and isinstance(raised, CallOver)):
                # its deadline was faster; CallOver is then what a handler meets
                self._failed(job, who, raised)
        self.answer(job, verdict, who)

    def _ask_below(self, below: Below, job: Job, verdict: Verdict) -> Verdict | Later:
        if job.below or job.claimed or not below.active:
            return verdict
        if job.call.begun:
            return deny(errno.EINTR, _BEGUN)
        job.below = True
        return below(job.call, verdict, lambda: self._begins(job)) or verdict

    def _begins(self, job: Job) -> None:
        """It is performed from now on: whoever comes after us must not have that done again."""
        self._begin(job.call._notification, job.served.journal)

    def starts(self, served: Served) -> Callable[[NotificationLike], None]:
        """What says that a call of a listener's is performed from now on.

        :raises Left: it is not to be begun any more."""

        def starts(notification: NotificationLike) -> None:
            self._begin(notification, served.journal)

        return starts

    def _begin(self, notification: NotificationLike, journal: Begun | None) -> None:
        if journal is not None:
            journal.performs(notification)
        # Looked at after that was said: who leaves looks at what was said after it says that it does.
        if self.leaving:
            if journal is not None:
                journal.left(notification)
            raise Left

    def performs(self, job: Job) -> bool:
        """Whether it is being performed.  What an earlier monitor had begun is not, unless we said so ourselves."""
        if job.performed is not None or job.call.begun:
            return job.performed is not None
        journal, notification = job.served.journal, job.call._notification
        return journal is not None and journal.begun(notification)

    def _failed(self, job: Job, who: str, error: BaseException, *, expected: bool = False) -> None:
        near = next((each.function for each in job.chain if each.label == who), None)
        late = "too late to matter, it was answered already"
        self.observers.trouble(
            f"handler {who}" if near is not None else who, error, call=job.call, near=near,
            then=late if job.claimed else f"answered: {self._rules.on_error}", expected=expected,
        )  # fmt: skip

    def at_once(
        self, name: str, served: Served, *, told: bool = False
    ) -> Callable[[Call, Perform], Verdict | Later | int | None] | None:
        """What the performer has for ordinary calls of this name: asked first, before anybody looked at
        the call, it says the verdict, or with which errno it is answered, or None where :meth:`advance` is to go on, and
        nothing has happened.

        :param told: somebody is told of what comes of it: it answers nothing by itself."""
        ordinary = getattr(self._performer, "ordinary", None)

        def begins(call: Call) -> None:
            self._begin(call._notification, served.journal)

        way = ordinary and ordinary(name, None if told else served.listener, begins)
        if way is None or not told or served.journal is None:
            return way

        def begun(call: Call, wish: Perform) -> Verdict | Later | int | None:
            begins(call)
            said: Verdict | Later | int | None = way(call, wish)
            if said is None and served.journal is not None:
                served.journal.left(call._notification)
            return said

        return begun

    def _perform(self, job: Job, verdict: Perform) -> Verdict | Later:
        if self._performer is None:
            return deny(errno.ENOSYS, "nothing here performs calls")
        if job.call.begun:
            harmless = getattr(self._performer, "is_harmless_again", None)
            if harmless is None or not harmless(job.call):
                return deny(errno.EINTR, _BEGUN)
        self._begins(job)
        job.performed = verdict
        ordinary = self._ordinary(job.call.name) if job.ordinary else None
        said = None if ordinary is None else ordinary(job.call, verdict)
        return self._performer(job.call, verdict) if said is None else said

    def _ordinary(self, name: str) -> Any:
        """What the performer has for ordinary calls of a name that was received elsewhere: it answers nothing by itself."""
        if name not in self._ways:
            ordinary = getattr(self._performer, "ordinary", None)
            self._ways[name] = ordinary and ordinary(name)
        return self._ways[name]

    # What takes a while -----------------------------------------------------------------------
    def _await(self, job: Job, later: Later, who: str, performing: bool) -> None:
        """Go on when a descriptor is readable."""
        waits = False
        watched: list[int] = []
        try:
            due = None if later.wait is None else self._world.clock() + later.wait
            if due is not None and math.isnan(due):  # it would be neither before nor after another
                raise ValueError("Later(wait=nan): seconds, or None")
            if self._leave(job):
                with self._lock:
                    if not job.claimed:
                        continuation = Continuation(self, job, later)
                        for fd in later.fds:
                            self._engine.watch(fd, continuation)
                            watched.append(fd)
                        waits = job.begun = True
                        job.later, job.due = (later, who, performing), False
                        self.backlog.wait(job)
                        if due is not None:
                            self.calls.due_at(job, due, later)
        except BaseException:
            self._unwatch(watched)  # one that could not be is watched for another call, perhaps
            self._cancel(later)
            raise
        if not waits:
            self._cancel(later)

    def go_on(self, what: Continuation) -> None:
        """It is readable, or was waited for long enough: go on, or wait for a turn; on the thread that has the role."""
        job, share = what.job, what.job.served.share
        with self._lock:
            if job.claimed or job.later is None or job.later[0] is not what.later:
                return  # whoever claimed it gives that up
            waits, job.due = job.due, True
            if not waits and self._waits_for_turn(job, share, kept=what.kept):
                self.backlog.put(job)
                return
        if not waits:
            self._go(job, share)
        elif not lives(job):  # as its pidfd says, perhaps: for nobody it would have its turn
            self._answer(job, self._rules.on_error, "gone")

    def _waits_for_turn(self, job: Job, share: Share, *, kept: bool) -> bool:
        """Whether a call that goes on has no thread now (the lock is held)."""
        if self.leaving or not (share.watchful or share.is_slow(job)):
            return False
        return self.backlog.holds_back(job, self._world.clock(), kept=kept)

    def interrupt(self, job: Job) -> None:
        """It is not to wait longer for what it awaits, if that can be; on the thread that has the role."""
        with self._lock:
            if job.later is None or job.later[0].interrupt is None or job.due:
                return
            job.due = True
        self._resume_later(job, interrupted=True)

    def leave_off(self) -> None:
        """Begin nothing more; what waits for a turn and goes on has it now."""
        self.leaving = True
        for job in self.calls.pending(None):
            with self._lock:
                if job.due and job.later is not None and self.backlog.take_out(job):
                    job.due = False
                    self._overdue.append(Continuation(self, job, job.later[0]))

    def _resume_later(self, job: Job, *, interrupted: bool = False) -> None:
        with self._lock:
            if job.later is None:
                return  # it was answered, and what it awaited given up
            later, who, performing = job.later
            job.later, job.waits, job.due = None, False, False
            self._unwatch(later.fds)
        try:
            interrupt = later.interrupt if interrupted else None
            verdict = later.resume() if interrupt is None else interrupt()
        except BaseException as raised:
            verdict = raised
        if verdict is None and not performing:
            self.advance(job)
        else:
            self.decided(job, verdict, who, performing)

    # Now and then -----------------------------------------------------------------------------
    def untended(self) -> bool:
        """Whether :meth:`tend` has something to do."""
        due = self.calls.next_due()
        return self.backlog.many() or (due is not None and due <= self._world.clock())

    def tend(self) -> None:
        """Have those answered whose handlers took too long, calls that wait and whose callers are gone
        forgotten, and callers looked at that have waited for long."""
        rules, overdue = self._rules, self._overdue
        while (due := self.calls.due(self._world.clock())) is not None:
            job, later, look = due
            if look:
                overdue.append(Look(self, job))
            elif later is None:
                overdue.append(Ending(self, job, rules.on_deadline, "deadline"))
            else:
                overdue.append(Continuation(self, job, later))
        alive = []
        for job in self.backlog.some():
            if lives(job):
                alive.append(job)
            else:
                overdue.append(Ending(self, job, rules.on_error, "gone"))
        if alive:
            with self._lock:
                self.backlog.back(alive)

    def patience(self) -> tuple[float | None, bool]:
        """See there; what is due and not seen to is not waited with."""
        return (0.0, True) if self._overdue else super().patience()

    def look(self, job: Job) -> None:
        """Answer it if its caller has a signal that ends it and does not (``complete_signal`` of kernel/signal.c): one that
        came after another one, or has it dump core.  Whatever its handler is at, nobody is going to see the answer.
        What is performed looks after its caller by itself."""
        if job.claimed or job.performed is not None:
            return
        dying = self._world.dying(job.call)
        if dying is None:
            return
        if dying:
            self._answer(job, _INTERRUPTED, "gone")
            return
        with self._lock:
            if not job.claimed:
                self.calls.look_again(job, self._world.clock())

    def next_overdue(self) -> Continuation | Ending | Look | None:
        """What is due, and what was awaited for long enough; for whoever has the role, after :meth:`tend`: each by itself,
        so that one who is told of it and stalls keeps a thread of that call's container."""
        with self._lock:
            return self._overdue.popleft() if self._overdue else None


def _is_left(said: Any) -> bool:
    """Whether it says that nothing was done."""
    return isinstance(said, Left) or (type(said) is Deny and said.errno == _ERESTARTSYS)
