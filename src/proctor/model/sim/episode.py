"""One simulated machine from its start to its end: an *episode*.

A kernel, containers, a supervisor with handlers of every temper, and an end.  Whatever happens
follows from the seed and the episode's number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import deny, let_run
from proctor.model.kernel.machine import Kernel
from proctor.model.sim.accounts import Event
from proctor.model.sim.handlers import DEADLINES, Handlers
from proctor.model.sim.keeper import Keeper
from proctor.model.sim.ledger import AT_CLOSE, ON_DEADLINE, ON_ERROR, SLACK, Ledger, Violation
from proctor.model.sim.preempt import Preemption
from proctor.model.sim.settings import Kind, draw_settings
from proctor.model.sim.targets import Container, Town
from proctor.model.sim.world import SimWorld, Stuck
from proctor.observe.events import Dropped, Outcome, Trouble, outcomes
from proctor.supervisor.backlog import EVERY, MANY
from proctor.supervisor.container import Quotas
from proctor.supervisor.driver import Driver
from proctor.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from proctor.model.sim.listener import SimListener

#: Calls that may be remembered beyond those of living callers and those being worked at.
_CONSTANT: Final = MANY + 3 * EVERY

#: Seconds in which some call is made, if anything works: whatever is slow takes a few.
_DULL: Final = 600.0

#: How often a monitor that ends does so on purpose; when it is to be killed at some line, that comes before so many
#: seconds; and how many it has for that at most.
_LEAVES: Final = 0.4
_SOON: Final = 0.02
_PATIENT: Final = 1.0

#: Seconds between looks at whether there is a monitor again that can be killed.
_UNBORN: Final = 0.001

#: Seconds that a thread is left for, if that is wanted: others notice after some milliseconds.
_STALL: Final = 0.05


class Episode:
    """See the module.

    :param kind: what kind of machine; of all kinds, as the seed wants, if None.
    :param kill_at: kill the monitor after so many steps of the supervisor's code, and not by chance;
        for "mortal" machines.
    :param stall_at: after so many steps leave the thread that makes it, for long, where it is; for
        "preemptive" machines.
    """

    def __init__(
        self,
        seed: int,
        number: int,
        kind: Kind | None = None,
        kill_at: int = 0,
        stall_at: int = 0,
    ) -> None:
        self.seed = seed
        self.number = number
        self.random = random = Random(f"{seed}/{number}")
        self.settings = settings = draw_settings(random, kind)
        if kill_at or stall_at:  # and nothing else happens to threads
            self.settings = settings = settings._replace(
                calls=20, containers=2, steps=1000.0, bytecodes=False, preempt=0.0
            )
        fixes = ("addfd_send_retries",) if settings.fixed else ()
        self.kernel = Kernel(settings.profile, add=fixes, seed=random.getrandbits(32))
        # those who are left anywhere are late for deadlines, too
        self.ledger = Ledger(
            settings.deadline, DEADLINES, 2.0 if settings.steps else SLACK,
            quota=settings.quota, workers=settings.workers, containers=settings.containers,
        )  # fmt: skip
        self.world = SimWorld(
            self.kernel, self.ledger, random,
            workers=settings.workers,
            preempt=settings.preempt, laziness=settings.laziness, apart=settings.apart,
        )  # fmt: skip
        self.world.look = self._look
        if settings.malice:  # numbers of the dead are given to others soon
            numbers = self.kernel.namespace
            numbers.limit = numbers.last + 13 * settings.containers + settings.workers + 14
        self.preemption: Preemption | None = None
        if settings.steps:
            self.preemption = Preemption(
                self.world.schedule, random, settings.steps, settings.bytecodes
            )
            if stall_at:
                self.preemption.at(stall_at, lambda: self.world.schedule.pause(_STALL))
        self.town = Town(
            self.world, think=settings.think, deadline=settings.deadline, quota=settings.calls,
            trouble=settings.trouble, malice=settings.malice, quotas=Quotas(settings.quota),
        )  # fmt: skip
        self._keeper = Keeper(self.world) if settings.deaths or kill_at else None
        #: After so many steps of the supervisor's code the monitor is killed, if not 0.
        self._kill_at = kill_at
        self._alive = True
        #: The monitor is leaving all to the next one, or has.
        self._leaving = self._left = False
        self._seen = 0, 0.0  # calls made, and when it was seen last that there were more
        self.supervisor = self._supervise()
        self._observed = 0
        #: The last events before the end began, or before the violation.
        self.events: list[Event] = []

    @property
    def violation(self) -> str | None:
        """Which invariant does not hold; None if all do."""
        return self.ledger.violation

    def _supervise(self) -> Supervisor:
        settings, handlers = self.settings, Handlers(self.world)
        return Supervisor(
            handlers.all,
            default=let_run(),
            on_error=deny(ON_ERROR),
            deadline=settings.deadline,
            on_deadline=deny(ON_DEADLINE),
            close_verdict=deny(AT_CLOSE),
            performer=handlers,
            observers=[_Unmoved(), *([outcomes(self._observe)] if settings.observed else [])],
            world=self.world,
        )

    def run(self) -> None:
        """Play it."""
        traced = self.preemption.tracing() if self.preemption is not None else nullcontext()
        try:
            with traced:
                self._play()
        except Violation:
            pass
        except Stuck:
            waiting = ", ".join(str(serial) for serial in list(self.ledger.asked)[:8])
            self.ledger.broken(
                f"nothing happens any more; calls that wait: {waiting or 'none'}; listeners "
                f"that are kept: {self.supervisor.listeners}"
            )
        finally:
            if self.violation is not None or not self.events:
                self.events = self.ledger.events
            self.ledger.closing = True  # also where it broke off: whoever steps it comes to an end
            Driver(self.supervisor).stop()
            self.world.schedule.end()

    def _play(self) -> None:
        town, ledger = self.town, self.ledger
        self._begin()
        for _ in range(self.settings.containers):
            self._welcome()
        self._weather()
        if self._kill_at:
            assert self.preemption is not None
            self.preemption.at(self._kill_at, self.world.schedule.stop_here)
            self.world.schedule.later(self.random.random() * _SOON, self._leave)
        elif self._keeper is not None:
            self._death_comes()
        self._until(lambda: town.made >= town.quota and self._alive and not self._leaving)
        self.events = ledger.events
        if not self.settings.abrupt:
            self._until(lambda: not ledger.asked)
            for container in list(town.containers):
                container.kill()
            self._until(lambda: not self.world.ports)
        self._close()

    def _until(self, over: Callable[[], bool]) -> None:
        """Let things happen."""
        schedule = self.world.schedule
        while not over():
            if self.ledger.violation is not None:
                raise Violation(self.ledger.violation)
            if schedule.stopped:
                schedule.stopped = False
                self._die()
            if not schedule.one():
                if not schedule.advance(math.inf):
                    raise Stuck
                self.world.tick()

    def _begin(self) -> None:
        """The supervisor's own threads, or one of its user's, that steps."""
        if self.settings.as_thread:
            self.supervisor.start()
        else:
            self.world.schedule.begin(lambda: self._steps(self.supervisor))

    def _steps(self, supervisor: Supervisor) -> None:
        draw = self.random.random
        while self._serves():
            try:
                supervisor.step(None if draw() < 0.8 else draw())
            except RuntimeError:
                if self._serves():
                    self.ledger.broken("the supervisor cannot be stepped")
                    return
            except Violation:
                return

    def _serves(self) -> bool:
        return self._alive and not (self._leaving or self.ledger.closing)

    # Monitors that die ----------------------------------------------------------------------------
    def _death_comes(self) -> None:
        if self.town.made < self.town.quota:
            delay = self.random.random() * 2 * self.settings.deaths
            leaves = self.random.random() < _LEAVES
            self.world.schedule.later(delay, self._leave if leaves else self._die)

    def _leave(self) -> None:
        """The monitor leaves all to the next one, if it is not killed meanwhile."""
        if not self._serves() or self.town.made >= self.town.quota:
            return
        self.ledger.note("leave", "world")
        self._leaving = True
        for port in self.world.ports:
            port.changing = True
        supervisor, patience = self.supervisor, self.random.random() * _PATIENT
        if not self._kill_at and self.random.random() < 0.2:
            self.world.schedule.later(self.random.random() * 2 * self.settings.deaths, self._die)

        def leave() -> None:
            still = supervisor.hand_over(patience)
            if supervisor is self.supervisor and self._alive:
                self.ledger.leaves(still)
                self._left = not still
                self.world.schedule.later(self.random.random() * 0.05, self._die)

        self.world.schedule.begin(leave)

    def _die(self) -> None:
        schedule = self.world.schedule
        if schedule.stepping or schedule.depth:
            schedule.later(1e-5, self._die)  # the stack that we are on is in the supervisor's code
            return
        if not self._alive:
            schedule.later(self.random.random() * _UNBORN, self._die)  # then the next one does
            return
        if self._keeper is None or self.ledger.closing:
            return
        if self.town.made >= self.town.quota and not self._leaving:
            return
        self.ledger.note("end of a monitor" if self._left else "death", "world")
        if self._left:
            self.ledger.leaves(0)
        self._alive = False
        self._keeper.freeze()
        with self._calm():
            self.world.die(Driver(self.supervisor).stop, self._left)
        schedule.later(self.random.random() * 0.1, self._take_over)

    def _take_over(self) -> None:
        assert self._keeper is not None
        self.ledger.note("take over", "world")
        self.world.next_monitor()
        self._alive = True
        self._leaving = self._left = False
        with self._calm():
            self.supervisor = self._supervise()
            self._begin()
        for container in self._keeper.hand_over():
            self._aside(lambda container=container: self._add(container))  # type: ignore[misc]
        if not self._kill_at:
            self._death_comes()

    def _aside(self, work: Callable[[], object]) -> None:
        """On a thread of somebody else's, where it can be left in the middle, or killed."""
        schedule = self.world.schedule
        if self._keeper is not None and not schedule.over:
            schedule.begin(work)
        else:
            schedule.aside(work)

    # Containers -----------------------------------------------------------------------------------
    def _welcome(self) -> None:
        if not self._alive:
            return
        container = self.town.start()
        self.ledger.note("start", "world", 0, container.name)
        if self._keeper is not None:
            self._keeper.keep(container)
        self._aside(lambda: self._add(container))

    def _add(self, container: Container) -> None:
        port = container.port
        if self.ledger.closing and not port.detached:
            port.detached = (
                True  # it was born too late; what a dead monitor received is the kernel's
            )
            port.close()
        if port.closed or self.ledger.closing:
            return
        port.served = port.changing = True
        port.given_back = None
        container.served_since = self.world.schedule.now
        try:
            self.supervisor.add(
                port, container.known_as,
                on_end=lambda: self._ended(container, port), journal=container.journal,
            )  # fmt: skip
        except RuntimeError:
            port.served = False  # close() was faster
            if not self._leaving:
                port.detached = True
                port.close()
        port.changing = self._leaving
        self.ledger.note("add", "world", 0, container.name)

    def _ended(self, container: Container, port: SimListener) -> None:
        if port.dead:
            return
        if self._keeper is not None:
            self._keeper.drop(container)
        container.ended += 1
        container.port.served = False
        self.world.tick()
        self.ledger.note("end", self.world.who(), 0, container.name)
        if container.ended > 1:
            self.ledger.broken(f"{container.name} ended twice")
        if not container.over():
            self.ledger.broken(f"{container.name} was ended, and somebody lives in it")

    def _weather(self) -> None:
        """What befalls containers, again and again."""
        town, random = self.town, self.random
        if town.made >= town.quota:
            return
        now = self.world.schedule.now
        if town.made != self._seen[0]:
            self._seen = town.made, now
        elif now > self._seen[1] + _DULL:
            raise Stuck  # only that there is always weather makes something happen
        self.world.schedule.later(random.random() * 2 * self.settings.weather, self._weather)
        chance = random.random()
        self.world.tick()
        self._look()
        if len(town.containers) < self.settings.containers:
            self._welcome()
        if chance < 0.25 and town.containers:
            container = random.choice(town.containers)
            self.ledger.note("kill", "world", 0, container.name)
            container.kill()
        elif chance < 0.45 and town.containers and self._keeper is None:
            container = random.choice(town.containers)
            self.world.schedule.aside(lambda: self._detach(container))

    def _detach(self, container: Container) -> None:
        port = container.port
        if not port.served or port.changing:
            return
        port.detached = port.changing = True
        try:
            self.supervisor.detach(port)
        except ValueError:
            return  # its end was faster
        finally:
            port.changing = False
        port.served = False
        port.given_back = self.world.schedule.now
        self.ledger.note("detach", "world", 0, container.name)
        again = self.random.random() < 0.7
        aside = self.world.schedule.aside
        self.world.schedule.later(
            self.random.random(),
            lambda: aside((lambda: self._add(container)) if again else port.close),
        )

    # Looking --------------------------------------------------------------------------------------
    def _calm(self) -> AbstractContextManager[None]:
        """It is the simulation that runs code of the supervisor's: nobody is left in it."""
        return nullcontext() if self.preemption is None else self.preemption.calm()

    def _look(self) -> None:
        ledger, schedule = self.ledger, self.world.schedule
        ledger.overdue()
        ledger.overtaken()
        if not self._alive:
            return
        with self._calm():
            remembered = Driver(self.supervisor).remembered
        if remembered > 2 * self.town.most + schedule.under_way() + _CONSTANT:
            ledger.broken(f"{remembered} calls are remembered, of {self.town.most} callers at most")
        self.town.forget_ended()

    def _observe(self, outcome: Outcome) -> None:
        self._observed += 1
        if self._observed % 97 == 0:
            raise SystemExit("an observer's own mistake")

    # The end --------------------------------------------------------------------------------------
    def _close(self) -> None:
        """Close; then everybody must have been answered, and nothing may be left."""
        world, ledger = self.world, self.ledger
        ledger.closing = True
        ledger.note("closing", "world")
        if self._keeper is not None:
            self._keeper.close()
        closed: list[bool] = []

        def close() -> None:
            self.supervisor.close()
            closed.append(True)

        world.schedule.begin(close)
        self._until(lambda: bool(closed))
        self.supervisor.close()
        world.schedule.end()
        for port in world.ports.copy():
            if port.detached and not port.served:
                port.close()  # those that were given back
        self.town.go_on()
        world.tick()
        for port in world.ports:
            ledger.broken(f"{port.name} is open after close()")
        ledger.nothing_left()
        if held := Driver(self.supervisor).held:
            ledger.broken(f"{held} threads are kept by calls that are over")
        if world.readable:
            ledger.broken(f"{len(world.readable)} things that were awaited were forgotten")
        if self.settings.observed and self._observed != ledger.received:
            ledger.broken(f"{ledger.received} calls were received, {self._observed} observed")
        if ledger.violation is not None:
            raise Violation(ledger.violation)


class _Unmoved:
    """An observer for trouble: handlers fail on purpose here, and nobody wants to read of it."""

    events = (Trouble, Dropped)

    def __call__(self, event: Trouble | Dropped) -> None:
        pass
