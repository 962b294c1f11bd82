"""Who receives: one thread, which works at what it received, until it stalls.

Then another one, which stood by, has the role, the rest of what was received, and whatever comes; the
stalled thread works on at its one call, as a thread that its container holds, and when it is done goes
on with what that container has waiting, or stands by in its turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from proctor.supervisor.elsewhere import Arrival
from proctor.supervisor.ports import HELP, INSIST, SERVE
from proctor.supervisor.share import LOOK
from proctor.supervisor.waiting import Continuation, Work

if TYPE_CHECKING:
    from proctor.call.verdict import Wire
    from proctor.supervisor.deciding import Decider
    from proctor.supervisor.jobs import Job, Key, Served
    from proctor.supervisor.ports import Engine
    from proctor.supervisor.share import Hold
    from proctor.supervisor.world_port import Lock, World

#: Seconds after which a thread that stands by is asked for again, if none came.
_AGAIN: Final = 0.5
#: Seconds that whoever receives waits while its supervisor leaves.
_LEAVING: Final = 0.01
#: Calls that wait for their turn, and that are gone on with between two rounds; of those that are due, twice as many.
_AT_ONCE: Final = 32


class Role:
    """Tells a decider who has the role, and what becomes of those who lose it.

    :param lock: the decider's.
    """

    def __init__(self, world: World, lock: Lock, engine: Engine, decider: Decider) -> None:
        self._world = world
        self._lock = lock
        self._engine = engine
        self._decider = decider
        #: Whose thread has the role; what tells what that does is the decider's.
        self._token = 0
        #: What threads that lost it are at, by the token they had: the call's key if an engine routed it,
        #: and that the thread is kept, if it matters to anybody.
        self._stalled: dict[int, tuple[Key | None, Hold | None]] = {}
        #: The last of them that came back before whoever took over said that it stalled, and calls that
        #: were settled before.
        self._returned = 0
        self._settled: set[Key] = set()

        #: How threads wait for it that have nothing else to do: until somebody steps or starts, none do.
        self._how: int | None = None
        #: When to ask for somebody who stands by, if nobody does.
        self._again = 0.0
        self.closed = False
        #: Only what waits for something else than its turn is gone on with; whoever leaves insists on the role.
        self.leaving = False
        self._forked = False

    # Threads ------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to serve.

        :raises RuntimeError: there are no threads for us.
        """
        before, self._how = self._how, SERVE
        if not self._world.thread(self.serve):
            self._how = before
            raise RuntimeError("there are no threads for us")

    def serve(self) -> None:
        """What a thread of ours does: it stands by, receives, stalls, and so on, as long as it is
        needed."""
        how = self._how
        token = 0 if how is None else self.lead(how)
        while token and how is not None:
            lost = False
            while not (lost or self.closed or self._engine.wanted):
                self._stand_by()
                try:
                    lost = self.turn(token, None, once=False) < 0
                except KeyboardInterrupt:
                    pass  # what a handler or an observer raised: the decider answered, and told
                except BaseException as problem:
                    if self._forked:
                        break  # a handler's child that came back: nothing is answered there
                    # Our own fault, the caller was answered by the engine.  Whatever it is, sys.exit()
                    # in somebody's callback too: if this thread ended, every caller would hang.
                    self._decider.observers.trouble(
                        "supervising", problem, then="the call was denied, supervision goes on"
                    )
            if self._forked:
                return
            if lost:
                self.back(token)
            else:
                self._engine.resign(token)
            how = self._how
            token = 0 if self.closed or how is None else self.lead(how)

    def after_fork(self) -> None:
        """In a child of fork(2), which a handler may have made on a thread of ours: that one is not ours
        there, and ends when it comes back."""
        self.closed = self._forked = True

    def _stand_by(self) -> None:
        """Let there be somebody who stands by."""
        if not self._engine.standing and self._world.clock() >= self._again:
            self._again = self._world.clock() + _AGAIN
            self._world.thread(self.serve)

    def step(self, timeout: float | None) -> int:
        """One round on the calling thread."""
        if self._how is None:
            self._how = HELP
        token = self.lead(INSIST)
        if not token:
            raise RuntimeError("this supervisor is closed")
        self._stand_by()
        count = 0
        try:
            count = self.turn(token, timeout, once=True)
        finally:
            if self._engine.has(token):
                self._engine.resign(token)
            else:
                self.back(token, work=False)
        return max(0, count)

    def finish(self, token: int, patience: float) -> None:
        """Answer what was received and not routed, and give the role up: whoever takes it over meanwhile,
        since that stalls, gives it back.

        :param patience: seconds to wait for that.
        """
        while token:
            try:
                self._engine.serve(token, 0.0, 1)
            except Exception as problem:
                self._decider.observers.trouble("closing", problem)
            if self._engine.has(token):
                self._engine.resign(token)
                return
            self.back(token, work=False)
            token = self.lead(INSIST, patience)

    def finish_some(self, token: int, timeout: float, patience: float) -> int:
        """Go on with what waits for something else than its turn, where no listener is served any more; the role's
        token, which may be another one by then, or 0.

        :param timeout: seconds to wait for something to go on with.
        :param patience: seconds to wait for the role, if that was lost."""
        self._stand_by()
        try:
            lost = not self._tend(token) or self._engine.serve(token, timeout, 1) < 0
        except Exception as problem:
            self._decider.observers.trouble("handing over", problem)
            lost = not self._engine.has(token)
        if not lost:
            return token
        self.back(token, work=False)
        return self.lead(INSIST, patience)

    # For the thread that has it, or had ----------------------------------------------------------
    def lead(self, how: int, patience: float | None = None) -> int:
        """Wait for the role; see :meth:`Engine.lead`."""
        token = self._engine.lead(how, self.overtaken, patience, self._decider.due)
        if token:
            pulse = self._world.pulse()
            with self._lock:
                self._token, self._decider.receiver = token, pulse
                self._again = 0.0
        return token

    def turn(self, token: int, timeout: float | None, *, once: bool) -> int:
        """Receive and decide, then go on with what waits; how many calls were received, -1 if the role
        is lost.

        :param once: one round; otherwise rounds without end while nothing is due, and nobody waits for his turn.
        """
        decider, engine = self._decider, self._engine
        if not self._tend(token):  # a round may be long, if many calls stall
            return -1
        limit, some = (_LEAVING, True) if self.leaving else decider.patience()
        if limit is not None:
            timeout = limit if timeout is None else min(timeout, limit)
        count = engine.serve(token, timeout, 1 if once or some else 0)
        if count < 0 or not self._tend(token):
            return -1
        for _ in range(0 if self.leaving else _AT_ONCE):
            job = decider.next_job()
            if job is None:
                break
            began, pulse = self._world.clock(), decider.receiver
            used = pulse()
            if not engine.attend(token, Work(job, partial(decider.run_next, job))):
                return -1
            # It did not stall: what it takes beyond that is a wait for a processor
            decider.spent(job, min(self._world.clock() - began, pulse() - used + LOOK))
        return count

    def _tend(self, token: int) -> bool:
        """See to what is due, or to a part of it; False if the role is lost over it."""
        decider, engine = self._decider, self._engine
        if decider.untended() and not engine.attend(token, decider.tend):
            return False
        # Of a thousand that are looked at now and then: others are to be received meanwhile
        for _ in range(_AT_ONCE):
            overdue = decider.next_overdue()
            if overdue is None:
                break
            if not engine.attend(token, overdue):
                return False
        return True

    def back(self, token: int, *, work: bool = True) -> None:
        """A thread that lost the role is done with what it was at.

        :param work: it can go on with what its container has waiting.
        """
        decider = self._decider
        with self._lock:
            if token not in self._stalled:
                self._returned = token
                return
            key, hold = self._stalled.pop(token)
            if key is not None:
                decider.calls.taken.pop(key, None)
        while hold is not None:
            hold = self._next(hold, work)
            if hold is not None:
                try:
                    decider.run_held(hold.job)
                except BaseException as problem:  # a KeyboardInterrupt of somebody's: nobody's here
                    if not isinstance(problem, KeyboardInterrupt):
                        decider.observers.trouble("going on with a call", problem)

    def _next(self, hold: Hold, work: bool) -> Hold | None:
        """What a thread does next that was held so."""
        backlog, share = self._decider.backlog, hold.job.served.share
        with self._lock:
            now = self._world.clock()
            backlog.let_go(hold, now)
            if not work:
                return None
            # What may be quick is for whoever receives: a container that always has something waiting
            # would never come back to the shortest way.
            following = backlog.next_of(share, now) if share.waits_for_long() else None
            return None if following is None else backlog.hold(following, hold.pulse, now)

    # For the thread that takes it over --------------------------------------------------------------
    def overtaken(self, work: object) -> None:
        """The other one stalled in what is no call that an engine routes."""
        if isinstance(work, Arrival) and work.overtaken():
            return
        with self._lock:
            job = work.job if isinstance(work, Work) else None
            self._note(None, job)
            if isinstance(work, Continuation):
                work.kept = True
        self._answer_refused(job)

    def overtaken_at(self, served: Served, id: int, make: Callable[[], Job]) -> None:
        """The other one stalled in a call that an engine routes.

        :param make: a job that stands in for it, if it has none yet.
        """
        key = (served, id)
        with self._lock:
            job = None
            if key in self._settled:
                self._settled.discard(key)
            elif (job := self._decider.calls.at(key)) is None:
                job = make()
            self._note(key, job)
        self._answer_refused(job)

    def _note(self, key: Key | None, job: Job | None) -> None:
        """Hold the thread that lost the role, if it still is at the job (the lock is held)."""
        calls = self._decider.calls
        if self._returned == self._token:
            return
        if job is None or job.done:
            self._stalled[self._token] = (key, None)
            return  # it is past all that matters
        if key is not None:
            calls.taken[key] = job
        if not job.known:
            calls.register(job)
            job.served.line_up(job)
            if job.claimed:
                calls.tells(job)
        pulse, began = self._decider.receiver, self._decider.given_up
        if began is not None and not began.of(pulse):
            began = None
        hold = self._decider.backlog.hold(job, pulse, self._world.clock(), began)
        self._stalled[self._token] = (key, hold)

    def _answer_refused(self, job: Job | None) -> None:
        """Its listener may have been given up before others knew of the call."""
        if job is not None and job.known and (job.served.given_up or self._decider.calls.over):
            self._decider.give_up(job)

    # For the engine, on the thread that lost it -------------------------------------------------------
    def settle(self, served: Served, id: int, wire: Wire | None, make: Callable[[], Job]) -> bool:
        """A call was routed to its end after the role was lost; False if ``wire`` is not answered
        since somebody else answered.

        :param make: a job for it, if nobody has made one.
        """
        if self._forked:  # the call is not ours, and whoever held the lock does not exist here
            return True
        key = (served, id)
        with self._lock:
            job = self._decider.calls.taken.get(key)
            if job is None:  # whoever took the role over does not know yet
                self._settled.add(key)
        if wire is None:
            return True
        if job is not None and job.given:
            self._decider.given(job)
            return True
        return self._decider.conclude(make() if job is None else job, wire)
