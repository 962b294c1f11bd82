"""The model as the supervisor's world: clock, poller, listeners, workers, an event loop.

:class:`SimWorld` is a :class:`proctor.supervisor.ports.World` and
:class:`~proctor.model.sim.listener.SimListener` a :class:`~proctor.supervisor.ports.ListenerPort`, over :mod:`proctor.model`; the engine is the one in
plain Python over a :class:`SimPoller`.  The supervisor on it is the real one, unchanged.

Seams for what is to come: the agent's *keeper* is one more process of the modelled machine that
holds copies of the listeners (``files.receive``) and hands them to the next monitor; its *journal*
is what :class:`~proctor.model.sim.ledger.Ledger` knows as ``open``, seen from that process; a
*take-over* is :attr:`SimWorld.monitor` killed with its listeners kept, and a second SimWorld on the
same :class:`~proctor.model.kernel.machine.Kernel` and schedule.  :mod:`proctor.model.sim.simulate` is where an
episode decides that it happens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, Final

from proctor.model.kernel import life
from proctor.model.kernel.files import File
from proctor.model.kernel.linux import EBADF, POLLIN
from proctor.model.kernel.machine import Kernel
from proctor.model.kernel.poll import Epoll, revents
from proctor.model.kernel.tasks import Task
from proctor.model.sim.fibers import SimLock
from proctor.model.sim.ledger import Fairness, Lane, Ledger, Violation
from proctor.model.sim.listener import FIRST_FD, SimListener
from proctor.model.sim.schedule import Cancelled, Schedule
from proctor.supervisor.pyengine import PyEngine

if TYPE_CHECKING:
    from proctor.supervisor.ports import Engine, Lock

#: Listeners a round takes up at once, as in the poller of the real world.
AT_ONCE: Final = 64
#: Rounds between two looks at whether all is fair and nobody waits too long.
_LOOK: Final = 32
_LIMIT: Final = 1 << 20
#: Waits for nothing in a row that are too many.
_SPINS: Final = 2000


class Stuck(Exception):
    """Everybody waits, and nothing is ever going to happen."""


class SimWorld:
    """See :class:`proctor.supervisor.ports.World`.

    :param laziness: how likely something else happens before the supervisor looks again.
    :param apart: the monitor lives in a pid namespace from which callers have no number.
    """

    def __init__(
        self,
        kernel: Kernel,
        ledger: Ledger,
        random: Random,
        *,
        workers: int,
        fiber_share: float,
        preempt: float,
        laziness: float,
        apart: bool,
    ) -> None:
        self.kernel = kernel
        self.ledger = ledger
        self._random = random
        self._laziness = laziness
        self.monitor = _monitor(kernel, apart)
        self.schedule = Schedule(
            random, kernel, ledger.broken, self._thread,
            fiber_share=fiber_share, preempt=preempt,
        )  # fmt: skip
        self.schedule.note = self._worked
        #: See :class:`proctor.supervisor.ports.World`.
        self.workers = workers
        self.fairness = Fairness(ledger)
        #: The listeners that the monitor has open.
        self.ports: list[SimListener] = []
        self.over = False
        self._locks: list[SimLock] = []
        #: Since the last wait something was received, or time went by.
        self.moved = False
        #: Called now and then, to look around.
        self.look: Callable[[], None] = ledger.overdue
        #: When the number of a thread was last given to a new one.
        self._numbered: dict[int, float] = {}
        #: When true, a wait ends although nothing came.
        self.leave: Callable[[], bool] = bool

    # What the supervisor sees ---------------------------------------------------------------------
    def clock(self) -> float:
        """Virtual seconds."""
        return self.schedule.now

    def engine(self) -> Engine:
        """The engine in plain Python."""
        return PyEngine(SimPoller(self))

    def lock(self) -> Lock:
        """See :class:`~proctor.supervisor.ports.World`."""
        if self.schedule.tracer is None:
            return threading.Lock()  # nobody is left while he holds it
        lock = SimLock(self.schedule)
        self._locks.append(lock)
        return lock

    def born_since(self, tid: int, when: float) -> bool:
        """See :class:`~proctor.supervisor.ports.World`."""
        return self._numbered.get(tid, -math.inf) > when

    def submit(self, work: Callable[[], None]) -> None:
        """See :class:`~proctor.supervisor.ports.World`."""
        if self.over:
            self.schedule.do(work)
        else:
            self.ledger.counts["submit"] += 1
            self.schedule.work.append(work)

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """See :class:`~proctor.supervisor.ports.World`."""
        if self.over:
            coroutine.close()
            done(None, Cancelled())
        else:
            self.schedule.start(coroutine, done)

    def shutdown(self) -> None:
        """See :class:`~proctor.supervisor.ports.World`."""
        self.over = True
        while self.schedule.work:
            self.schedule.do(self.schedule.work.pop())
        self.schedule.cancel_all()

    # What the rest of the simulation uses ---------------------------------------------------------
    def who(self) -> str:
        """Which lifeline is running."""
        schedule = self.schedule
        if schedule.fiber is not None:
            return f"worker {schedule.fiber.number}"
        if schedule.stepping:
            return "event loop"
        return "workers" if schedule.working else "supervisor"

    def number(self, task: Task) -> None:
        """A thread came into being, and perhaps has a number that another one had."""
        self._numbered[task.numbers.get(self.monitor.process.namespace, 0)] = self.schedule.now

    def lane(self, port: SimListener, tid: int) -> Lane | None:
        """Whose calls must stay in order; None for callers that we cannot tell apart."""
        return (port.number, tid, self._numbered.get(tid, 0.0)) if tid else None

    def tick(self) -> None:
        """The ledger's clock follows ours."""
        self.ledger.now = self.schedule.now

    def port(self, file: File, name: str) -> SimListener:
        """The monitor gets a copy of a listener (SCM_RIGHTS, pidfd_getfd)."""
        port = SimListener(self, self.monitor.files.receive(file, _LIMIT, True), name)
        self.ports.append(port)
        return port

    def open(self, label: str, flags: int = 0, given: bool = True) -> int:
        """A new open file of the monitor: its number, for handlers.

        :param given: it will be given away with a hand-over.
        """
        fd = self.monitor.files.receive(File(label, flags), _LIMIT, True)
        if given:
            self.ledger.given.add(fd)
        return fd + FIRST_FD

    def close(self, fd: int) -> None:
        """See :class:`~proctor.supervisor.ports.World`."""
        self.ledger.close_given(fd - FIRST_FD)
        if self.monitor.files.close(fd - FIRST_FD):
            raise OSError(EBADF, f"{fd} is not open")

    def task(self) -> Task:
        """The thread of the monitor that is running."""
        fiber = self.schedule.fiber
        return self.monitor if fiber is None else fiber.task

    def pass_port(self) -> None:
        """A port is passed: others may have their turn."""
        for lock in self._locks:
            if lock.mine() and not self.schedule.stepping:  # an event loop holds none
                self.ledger.broken("a call of the kernel is made while a lock is held")
        self.schedule.others()

    def chance(self) -> bool:
        """Whether something else happens first."""
        return self._random.random() < self._laziness

    def _thread(self) -> Task:
        made = life.thread(self.kernel, self.monitor)
        assert isinstance(made, Task)
        return made

    def _worked(self, kind: str, worker: int) -> None:
        self.tick()
        self.ledger.note(kind, f"worker {worker}" if worker else self.who())


def _monitor(kernel: Kernel, apart: bool) -> Task:
    parent = kernel.init
    if apart:
        parent = kernel.spawn()
        life.unshare_pids(parent)
    made = life.fork(kernel, parent)
    assert isinstance(made, Task)
    made.process.nofile = _LIMIT
    return made


class SimPoller:
    """:class:`proctor.supervisor.pyengine.Poller` over the model's epoll.

    Waiting is where the world turns.
    """

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._epoll = Epoll(world.kernel)
        self._woken = False
        #: Waits in a row after which nothing was received, and in which no time went by.
        self._vain = 0

    def register(self, fd: int) -> None:
        """See :class:`~proctor.supervisor.pyengine.Poller`."""
        file = self._world.monitor.files.get(fd)
        if file is None or self._epoll.add(file, fd, POLLIN):
            raise OSError(EBADF, f"{fd} cannot be watched")

    def unregister(self, fd: int) -> None:
        """See :class:`~proctor.supervisor.pyengine.Poller`."""
        file = self._world.monitor.files.get(fd)
        self._world.moved = True
        if file is not None:
            self._epoll.delete(file, fd)

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """See :class:`~proctor.supervisor.pyengine.Poller`."""
        world, epoll = self._world, self._epoll
        schedule, ledger = world.schedule, world.ledger
        world.fairness.round += 1
        if world.fairness.round % _LOOK == 0:
            world.tick()
            world.fairness.look(
                [port for port in world.ports if port.served and not port.changing], AT_ONCE
            )
            world.look()
        until = math.inf if timeout is None else schedule.now + timeout
        while True:
            if ledger.violation is not None:
                raise Violation(ledger.violation)
            if epoll.ready or self._woken:
                if world.chance() and schedule.one():
                    continue
                found = epoll.collect(AT_ONCE)
                if found or self._woken:
                    self._woken = False
                    schedule.round()
                    self._spun()
                    return found
            if schedule.now >= until or world.leave():
                schedule.round()
                self._spun()
                schedule.one()
                return []
            if schedule.one():
                continue
            world.moved = True
            if not schedule.advance(until) and until == math.inf:
                raise Stuck
            world.tick()

    def _spun(self) -> None:
        """A wait is over: one after another for nothing is a busy loop."""
        world = self._world
        self._vain = 0 if world.moved else self._vain + 1
        world.moved = False
        world.schedule.now += 1e-6
        if self._vain > _SPINS:
            world.ledger.broken(f"the supervisor waited {self._vain} times for nothing")

    def ready(self, fd: int) -> bool:
        """See :class:`~proctor.supervisor.pyengine.Poller`."""
        self._world.schedule.others()
        return bool(revents(self._world.monitor, fd, POLLIN) & POLLIN)

    def wake(self) -> None:
        """See :class:`~proctor.supervisor.pyengine.Poller`."""
        self._woken = True

    def close(self) -> None:
        """See :class:`~proctor.supervisor.pyengine.Poller`."""
        self._epoll.release()
