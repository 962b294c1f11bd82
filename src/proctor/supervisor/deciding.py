"""Deciding one call: from its reception to its answer, on the thread that received it unless it has to
wait.

A :class:`Job` moves forward only: handlers are asked in order (:meth:`Decider.advance`), somebody
speaks (:meth:`Decider.decided`), the answer is claimed once and carried out.  Three may claim it:
the handler's side, the deadline, the end of supervision; whoever comes later finds it claimed.
"""

from __future__ import annotations

import errno
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
from proctor.supervisor.carry import check
from proctor.supervisor.jobs import Job
from proctor.supervisor.ports import Later, Seek
from proctor.supervisor.seeking import Seeking
from proctor.supervisor.share import LOOK, Share, number_of
from proctor.supervisor.waiting import Waits

if TYPE_CHECKING:
    from threading import Condition

    from proctor.call.call import Call
    from proctor.kernel.notification import NotificationLike
    from proctor.observe.observers import Observers
    from proctor.supervisor.jobs import Begun, Served
    from proctor.supervisor.ports import Below, Engine, Seeker
    from proctor.supervisor.rules import Rules
    from proctor.supervisor.world_port import Lock, World

#: Performs a call: (call, the Perform verdict) → what to answer, or that it takes a while.
Performer = Callable[["Call", Perform], "Verdict | Later"]

_BEGUN: Final = "an earlier monitor had begun to perform it, and died"
#: What performing says that was interrupted (linux/errno.h): nothing is done, and the call is made again.
_ERESTARTSYS: Final = 512


class Left(Exception):
    """It is not begun any more: whoever serves its listener next decides it."""


class Decider(Waits):
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
            mark = self.surrender()
            self.run_held(job)
            self.charge(mark, job)
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
                verdict = check(verdict, job.call, who, job.chain)
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

        if (
            served.number < 0
        ):  # it was received elsewhere, and where that is written down is no journal
            way = ordinary and ordinary(name)
        else:
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
        return self._performer(job.call, verdict)


def _is_left(said: Any) -> bool:
    """Whether it says that nothing was done."""
    return isinstance(said, Left) or (type(said) is Deny and said.errno == _ERESTARTSYS)
