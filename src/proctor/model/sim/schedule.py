"""Virtual time and the seeded scheduler: which of all the things that could happen now does.

Every thread of the supervisor is a :class:`~proctor.model.sim.fibers.Fiber`, which can be left in the
middle (a slow handler, a port passed) and gone on with much later.  The main stack is nobody's: it
chooses who goes on, among

* tasks of the modelled machine that were woken (:attr:`Kernel.runnable`), in any order;
* threads that the supervisor asked for, begun at any time after it did, in any order;
* threads that were left, and can go on;
* coroutines, a step at a time;
* whatever was put on the agenda for a moment of virtual time.

In *preemptive* episodes (:mod:`proctor.model.sim.preempt`) whatever runs can be left between any two
lines of the supervisor's own code.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Coroutine, Generator
from random import Random
from typing import TYPE_CHECKING, Any, Final

from proctor.model.sim.fibers import Fiber

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import Task

#: How deep others may run inside others.
_DEPTH: Final = 3
#: Seconds for which somebody may be kept from running at a port, and the supervisor in one round.
_KEPT: Final = 0.01
_KEPT_IN_ROUND: Final = 0.02
#: How often somebody is left for long.
_LONG: Final = 0.15
#: How often that is as long as a stall.
_STALLED: Final = 0.03
#: Rounds over all threads that must bring them to their end.
_ENDLESS: Final = 1000

Done = Callable[[Any, "BaseException | None"], None]


class Cancelled(BaseException):
    """What a coroutine gets when its loop ends, as asyncio's CancelledError."""


class Sleep:
    """``await Sleep(seconds)`` in a simulated coroutine; ``math.inf`` never returns."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __await__(self) -> Generator[float, None, None]:
        yield self.seconds


class _Loop:
    """A coroutine in progress."""

    __slots__ = ("coroutine", "done")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], done: Done) -> None:
        self.coroutine = coroutine
        self.done = done


class Schedule:
    """See the module.

    :param broken: told when something happened that must not.
    :param make_task: a new thread of the monitor, for a fiber.
    """

    def __init__(
        self,
        random: Random,
        kernel: Kernel,
        broken: Callable[[str], None],
        make_task: Callable[[], Task],
        *,
        preempt: float,
    ) -> None:
        self.random = random
        self.kernel = kernel
        self.broken = broken
        self._make_task = make_task
        self._preempt = preempt
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self.work: list[Callable[[], object]] = []
        #: Fibers and coroutines that can go on now.
        self._ready: list[Fiber | _Loop] = []
        self._loops: dict[_Loop, None] = {}
        self.fiber: Fiber | None = None
        self.fibers_busy: dict[Fiber, None] = {}
        self.fibers_idle: list[Fiber] = []
        self._fibers = 0
        #: What each thread calls at its beginning, in preemptive episodes.
        self.watch: Callable[[], object] | None = None
        self.depth = 0
        #: Until when time may go by at ports.
        self.patient_until = 0.0
        #: Wakes those whose wait is over.
        self.awake: Callable[[], object] = bool
        #: A coroutine is what runs.
        self.stepping = False
        #: A task died, perhaps: called with each that was run.
        self.ran: Callable[[Task], None] = _nothing
        #: Told what happened: (kind, worker number).
        self.note: Callable[[str, int], None] = _no_note
        self._over = False
        #: Whoever ran wanted all to stop where it was.
        self.stopped = False

    @property
    def over(self) -> bool:
        """Whether whoever runs is not to be left in the middle any more: it runs to its end."""
        return self._over or (self.fiber is not None and self.fiber.dead)

    # What is to come ------------------------------------------------------------------------------
    def later(self, delay: float, do: Callable[[], object]) -> None:
        """Put ``do`` on the agenda, ``delay`` seconds from now."""
        self._count += 1
        heapq.heappush(self._agenda, (self.now + delay, self._count, do))

    def start(self, coroutine: Coroutine[Any, Any, Any], done: Done) -> None:
        """A coroutine begins soon."""
        loop = _Loop(coroutine, done)
        self._loops[loop] = None
        self._ready.append(loop)

    def cancel_all(self) -> None:
        """The event loop ends."""
        for loop in list(self._loops):
            self._step(loop, Cancelled())
        self._ready = [item for item in self._ready if isinstance(item, Fiber)]

    # Now ------------------------------------------------------------------------------------------
    def one(self) -> bool:
        """One thing that can happen now, chosen by the seed, does; False if there is none."""
        random = self.random.random
        self.awake()
        runnable = self.kernel.runnable
        agenda = self._agenda
        due = agenda and agenda[0][0] <= self.now
        able = bool(self.work)
        if runnable and (random() < 0.5 or not (due or able or self._ready)):
            count = len(runnable)
            if count > 1:
                runnable.rotate(-int(random() * count))
            task = runnable.popleft()
            self.kernel.run(task)
            if task.exiting:
                self.ran(task)
            return True
        if due and (random() < 0.5 or not (able or self._ready)):
            heapq.heappop(agenda)[2]()
            return True
        if able and (random() < 0.5 or not self._ready):
            self.begin(self._take(self.work))
            return True
        if self._ready:
            item = self._take(self._ready)
            if isinstance(item, Fiber):
                if not item.looks:
                    self.note("resume", item.number)
                item.resume()
            else:
                self._step(item, None)
            return True
        return False

    def _take(self, items: list[Any]) -> Any:
        """Any of them: the last comes to its place."""
        at = int(self.random.random() * len(items))
        items[at], items[-1] = items[-1], items[at]
        return items.pop()

    def advance(self, until: float) -> bool:
        """Time goes by to what comes next, at most to ``until``; False if nothing comes by then."""
        if self._agenda and self._agenda[0][0] <= until:
            self.now = self._agenda[0][0]
            return True
        if until is not math.inf:
            self.now = max(self.now, until)
        return False

    def others(self) -> None:
        """A port is passed: perhaps others have their turn here."""
        self.now += 1e-6
        if self.over or self.random.random() >= self._preempt:
            return
        if self.fiber is not None and self.random.random() < 0.5 and self.now < self.patient_until:
            self.pause(self.random.random() * _KEPT)
        else:
            self.preempt()

    def preempt(self) -> None:
        """Whoever runs is left here for a while; others run."""
        fiber, draw = self.fiber, self.random.random
        if self.over:
            return
        if fiber is not None:
            if draw() < _LONG:  # until all others have come to a halt, now and then for a stall
                kept = _KEPT if draw() < _STALLED else _KEPT / 50
                self.later(draw() * kept, lambda: self.make_ready(fiber))
            elif self._alone():
                return  # it would have its own turn: two changes of threads for nothing
            else:
                self._ready.append(fiber)
            fiber.leave()
        elif self.depth < _DEPTH:
            self.depth += 1
            for _ in range(1 + int(draw() * (60 if draw() < _LONG else 3))):
                if not self.one() and not self._jump():
                    break
            self.depth -= 1

    def _alone(self) -> bool:
        """Whether nothing can happen now but what whoever runs does."""
        self.awake()
        due = self._agenda and self._agenda[0][0] <= self.now
        return not (self._ready or self.work or due or self.kernel.runnable)

    def _jump(self) -> bool:
        """Time goes by for whoever is kept from running, up to what comes next."""
        before = self.now
        if before > self.patient_until or not self.advance(before + _KEPT * self.random.random()):
            return False
        return self.one()

    def round(self) -> None:
        """The supervisor waits: it may be kept from running again."""
        self.patient_until = self.now + _KEPT_IN_ROUND

    def pause(self, seconds: float, *, burn: bool = False) -> None:
        """What a slow handler does: time goes by, for others too.  Only on a fiber; elsewhere, and
        at the end, it takes no time.

        :param burn: it computes meanwhile.
        """
        fiber = self.fiber
        if fiber is None or self.over:
            return
        self.later(seconds, lambda: self.make_ready(fiber))
        fiber.burn(burn)
        fiber.leave()
        fiber.burn(False)

    def stop_here(self) -> None:
        """Whoever runs is left, and nobody else has his turn before the main stack has seen it."""
        if self.fiber is not None and not self.over:
            self.stopped = True
            self.make_ready(self.fiber)
            self.fiber.leave()

    def make_ready(self, fiber: Fiber) -> None:
        """It can go on."""
        if not fiber.dead:
            self._ready.append(fiber)

    def under_way(self) -> int:
        """How many threads and coroutines may be in the middle of a call."""
        return len(self.fibers_busy) + len(self._loops)

    def make_room(self) -> None:
        """The main stack waits for another thread: the others get on, one of them a little."""
        if self.over:
            for fiber in list(self.fibers_busy):
                fiber.resume()
        elif not self.one() and not self.advance(math.inf):
            self.broken("somebody waits for a lock for ever")
            raise RuntimeError("deadlock")

    def until(self, over: Callable[[], bool]) -> None:
        """Sleep in a call of the kernel until ``over``: others run meanwhile."""
        fiber = self.fiber
        while not over():
            if fiber is not None and fiber.dead:
                return
            if fiber is not None and not self.over:
                self.make_ready(fiber)
                fiber.leave()
            elif self.kernel.runnable:
                task = self.kernel.runnable.popleft()
                self.kernel.run(task)
                if task.exiting:
                    self.ran(task)
            else:
                self.broken("the monitor sleeps in a call that nothing will ever end")
                return

    # Work -----------------------------------------------------------------------------------------
    def begin(self, work: Callable[[], object]) -> None:
        """A thread begins, and does this."""
        if not self.fibers_idle:
            self._fibers += 1
            self.fibers_idle.append(Fiber(self, self._fibers, self._make_task()))
        fiber = self.fibers_idle.pop()
        self.fibers_busy[fiber] = None
        self.note("begin", fiber.number)
        fiber.begin(work)

    def aside(self, work: Callable[[], object]) -> None:
        """Somebody else's thread does this: in preemptive episodes it may be left in the middle."""
        if self.watch is not None and not self.over:
            self.begin(work)
        else:
            work()

    def done(self, fiber: Fiber) -> None:
        """A fiber has done its work."""
        del self.fibers_busy[fiber]
        if fiber.dead:
            fiber.end()
        else:
            self.fibers_idle.append(fiber)

    def given_up(self, fiber: Fiber) -> None:
        """It does not come back: nobody waits for it any more."""
        del self.fibers_busy[fiber]

    def kill(self) -> None:
        """All threads of the monitor are gone, wherever they were.  They do run to their end, of which
        nobody hears: whoever calls this sees to that."""
        self.work.clear()
        self._ready.clear()
        while self._loops:
            self._loops.popitem()[0].coroutine.close()
        while self.fibers_idle:
            self.fibers_idle.pop().end()
        for fiber in self.fibers_busy:
            fiber.dead = True
        self._run_out()

    def _step(self, loop: _Loop, error: BaseException | None) -> None:
        """A coroutine runs to its next sleep, or ends."""
        if loop not in self._loops:
            return
        self.note("step", 0)
        before, self.stepping = self.stepping, True
        result: Any = None
        try:
            seconds = loop.coroutine.send(None) if error is None else loop.coroutine.throw(error)
        except StopIteration as stop:
            result, error = stop.value, None
        except BaseException as problem:
            error = problem
        else:
            if seconds != math.inf:
                self.later(seconds, lambda: self._ready.append(loop))
            return
        finally:
            self.stepping = before
        del self._loops[loop]
        self.aside(lambda: loop.done(result, error))

    def end(self) -> None:
        """Whatever is in the middle of something runs to its end, then the threads end."""
        self._over = True
        self._run_out()
        for loop in list(self._loops):
            loop.coroutine.close()
        while self.fibers_idle:
            self.fibers_idle.pop().end()

    def _run_out(self) -> None:
        rounds = 0
        while self.fibers_busy:
            for fiber in list(self.fibers_busy):
                fiber.resume()  # one that waits for a lock comes back at once
            rounds += 1
            if rounds > _ENDLESS:
                self.broken("threads wait for each other's locks for ever")
                return


def _nothing(task: Task) -> None:
    """Nobody wants to know."""


def _no_note(kind: str, worker: int) -> None:
    """Nobody wants to know."""
