"""Calls that take a while: what is awaited for them, their deadlines, and looks at whether their callers are still there."""

from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import Verdict, deny
from proctor.supervisor.answering import lives
from proctor.supervisor.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Condition
    from typing import Any

    from proctor.observe.observers import Observers
    from proctor.supervisor.jobs import Job
    from proctor.supervisor.ports import Engine, Later
    from proctor.supervisor.rules import Rules
    from proctor.supervisor.share import Share
    from proctor.supervisor.world_port import Lock, World

#: ERESTARTNOINTR (linux/errno.h): who lives on after all, since a handler that ran first masked what it was to die of, makes the
#: call again and never sees it interrupted.
_INTERRUPTED: Final = deny(513)


class Work:
    """What a thread that has the role does about one job, and may stall in.

    :param job: with which it is."""

    __slots__ = ("_do", "job")

    def __init__(self, job: Job, do: Callable[..., None]) -> None:
        self.job = job
        self._do = do

    def __call__(self) -> None:
        self._do()


class Continuation(Work):
    """Going on with a job for which something was awaited."""

    __slots__ = ("kept", "later")

    def __init__(self, decider: Waits, job: Job, later: Later) -> None:
        super().__init__(job, decider.go_on)
        self.later = later
        #: Its thread lost the role over it, and is kept by it.
        self.kept = False

    def __call__(self) -> None:
        self._do(self.job, self)


class Waits(Turns):
    """See the module, and :class:`~proctor.supervisor.answering.Answers`."""

    def __init__(
        self,
        world: World,
        lock: Lock,
        told: Condition,
        rules: Rules,
        observers: Observers,
        engine: Engine,
    ) -> None:
        super().__init__(world, lock, told, rules, observers, engine)
        self._overdue: deque[Work] = deque()
        #: Nothing more is begun that must not be done twice: see :mod:`proctor.supervisor.leaving`.
        self.leaving = False

    def advance(self, job: Job) -> None:
        """Ask its handlers: :class:`~proctor.supervisor.deciding.Decider`, also below."""
        raise NotImplementedError

    def decided(self, job: Job, verdict: Any, who: str, performing: bool = False) -> None:
        """One of them spoke, or a performer."""
        raise NotImplementedError

    def _go(self, job: Job, share: Share) -> None:
        """Go on with it, on the thread that has the role."""
        raise NotImplementedError

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

    def go_on(self, job: Job, what: Continuation) -> None:
        """It is readable, or was waited for long enough: go on, or wait for a turn; on the thread that has the role."""
        share = job.served.share
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
                overdue.append(Work(job, partial(self.look, job)))
            elif later is None:
                overdue.append(self._ending(job, rules.on_deadline, "deadline"))
            else:
                overdue.append(Continuation(self, job, later))
        alive = []
        for job in self.backlog.some():
            if lives(job):
                alive.append(job)
            else:
                overdue.append(self._ending(job, rules.on_error, "gone"))
        if alive:
            with self._lock:
                self.backlog.back(alive)

    def _ending(self, job: Job, verdict: Verdict, who: str) -> Work:
        """Answering it in the place of its handlers."""
        return Work(job, partial(self._answer, job, verdict, who))

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

    def next_overdue(self) -> Work | None:
        """What is due, and what was awaited for long enough; for whoever has the role, after :meth:`tend`: each by itself,
        so that one who is told of it and stalls keeps a thread of that call's container."""
        with self._lock:
            return self._overdue.popleft() if self._overdue else None
