"""The model as the supervisor's world: clock, poller, listeners, workers, an event loop.

:class:`SimWorld` is a :class:`proctor.supervisor.world_port.World` and
:class:`~proctor.model.sim.listener.SimListener` a :class:`~proctor.supervisor.ports.ListenerPort`, over :mod:`proctor.model`; the engine is the one in
plain Python over a :class:`~proctor.model.sim.poller.SimPoller`.  The supervisor on it is the real one, unchanged.

A monitor can be killed at any moment (:meth:`SimWorld.die`), and the next one takes over what
:mod:`proctor.model.sim.keeper` kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, Final

from proctor.model.kernel import life, signals
from proctor.model.kernel.files import File
from proctor.model.kernel.linux import EBADF, SIGKILL
from proctor.model.kernel.machine import Kernel
from proctor.model.kernel.tasks import Task
from proctor.model.sim.accounts import Lane
from proctor.model.sim.fairness import Fairness
from proctor.model.sim.fibers import Fiber, SimLock
from proctor.model.sim.ledger import Ledger
from proctor.model.sim.listener import FIRST_FD, SimListener
from proctor.model.sim.poller import SimPoller
from proctor.model.sim.schedule import Cancelled, Schedule
from proctor.supervisor.pyengine import PyEngine
from proctor.supervisor.world_port import Still

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.model.sim.keeper import Executors
    from proctor.supervisor.ports import Engine
    from proctor.supervisor.world_port import Lock, Pulse

_LIMIT: Final = 1 << 20


class Stuck(Exception):
    """Everybody waits, and nothing is ever going to happen."""


class SimWorld:
    """See :class:`proctor.supervisor.world_port.World`.

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
            preempt=preempt,
        )  # fmt: skip
        self.schedule.note = self._worked
        self.schedule.awake = self._awake
        self._pollers: list[SimPoller] = []
        #: The thread that has the role of receiving, or had it last.
        self._receiver: Fiber | None = None
        #: See :class:`proctor.supervisor.world_port.World`.
        self.workers = workers
        self.fairness = Fairness(ledger)
        #: The listeners that the monitor has open.
        self.ports: list[SimListener] = []
        self.over = False
        #: Descriptors that handlers wait for: when they become readable.
        self.readable: dict[int, float] = {}
        self._made = 0
        self._locks: list[SimLock] = []
        #: Since the last wait something was received, or time went by.
        self.moved = False
        #: Those of machines whose monitors are killed.
        self.executors: Executors | None = None
        #: Called now and then, to look around.
        self.look: Callable[[], None] = ledger.overdue
        #: When the number of a thread was last given to a new one.
        self._numbered: dict[int, float] = {}

    # What the supervisor sees ---------------------------------------------------------------------
    def clock(self) -> float:
        """Virtual seconds."""
        return self.schedule.now

    def engine(self) -> Engine:
        """The engine in plain Python."""
        self._pollers.append(SimPoller(self))
        return PyEngine(self._pollers[-1], self.clock, self.lock)

    def lock(self) -> Lock:
        lock = SimLock(self.schedule)
        self._locks.append(lock)
        return lock

    def born_since(self, tid: int, when: float) -> bool:
        return self._numbered.get(tid, -math.inf) > when

    def dying(self, call: Call) -> bool:
        self.pass_port()
        task = self.monitor.process.namespace.tasks.get(call.tid)
        if task is None or not signals.ends(task):
            return False
        task.sigpending = True  # as by PTRACE_INTERRUPT
        return True

    def thread(self, work: Callable[[], object]) -> bool:
        if self.over or self.schedule.over:
            return False
        self.ledger.counts["thread"] += 1
        self.schedule.work.append(work)
        return True

    def pulse(self) -> Pulse:
        """See :class:`~proctor.supervisor.world_port.World`; whoever gets the role asks."""
        fiber = self._receiver = self.schedule.fiber
        return Still() if fiber is None else fiber

    def start(
        self,
        coroutine: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        if self.over or self.schedule.over:
            coroutine.close()
            done(None, Cancelled())
        else:
            self.schedule.start(coroutine, done)

    def shutdown(self) -> None:
        if self.schedule.fiber is None or not self.schedule.fiber.dead:
            self.over = True
            self.schedule.cancel_all()

    # Monitors that die ----------------------------------------------------------------------------
    def die(self, stop: Callable[[], object], left: bool) -> None:
        """The monitor is killed, between two of its steps: whatever its threads were at, nothing that
        they do from here on has an effect.

        :param stop: lets them end.
        :param left: it had left all to the next one before.
        """
        ledger, schedule, monitor = self.ledger, self.schedule, self.monitor
        for port in self.ports:
            port.dead, port.served = True, False
        self.ledger = nobodys = Ledger(None, {}, 0.0, quota=1, workers=1, containers=1)
        schedule.broken = nobodys.broken
        stop()
        schedule.kill()
        self.ledger, schedule.broken = ledger, ledger.broken
        self.ports.clear()
        self.readable.clear()
        self._pollers.clear()
        self._locks.clear()
        self.tick()
        ledger.died_with(left)
        signals.send(self.kernel, SIGKILL, monitor, True)
        while mine := [each for each in self.kernel.runnable if each.process is monitor.process]:
            self.kernel.runnable.remove(mine[0])
            self.kernel.run(mine[0])
        self.fairness = Fairness(ledger)

    def next_monitor(self) -> None:
        """Another process takes its place."""
        self.monitor = _monitor(self.kernel, False)
        self._receiver = None
        self.over = False

    # What the rest of the simulation uses ---------------------------------------------------------
    def who(self) -> str:
        """Which lifeline is running."""
        schedule = self.schedule
        if schedule.stepping:
            return "event loop"
        if schedule.fiber is None:
            return "world"
        return (
            "supervisor" if schedule.fiber is self._receiver else f"worker {schedule.fiber.number}"
        )

    def _awake(self) -> None:
        for poller in self._pollers:
            poller.awake()

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
        self.ledger.close_given(fd - FIRST_FD)
        if self.monitor.files.close(fd - FIRST_FD):
            raise OSError(EBADF, f"{fd} is not open")

    def readable_at(self, when: float) -> int:
        """A descriptor that is readable from then on."""
        self._made += 1
        fd = 2 * FIRST_FD + self._made
        self.readable[fd] = when
        self.schedule.later(max(0.0, when - self.schedule.now), bool)
        return fd

    def waited_for(self, fd: int) -> None:
        """It is needed no more."""
        if self.readable.pop(fd, None) is None:
            self.ledger.broken("what was awaited was both resumed and cancelled")

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
