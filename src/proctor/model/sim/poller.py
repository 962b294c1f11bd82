"""The model's epoll as the poller of a supervisor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from proctor.model.kernel.linux import EBADF, POLLIN
from proctor.model.kernel.poll import Epoll, revents

if TYPE_CHECKING:
    from proctor.model.sim.fibers import Fiber
    from proctor.model.sim.world import SimWorld

#: Listeners a round takes up at once, as in the poller of the real world.
AT_ONCE: Final = 64
#: Rounds between two looks at whether all is fair and nobody waits too long.
_LOOK: Final = 32
#: Waits for nothing in a row that are too many.
_SPINS: Final = 2000


class SimPoller:
    """:class:`proctor.supervisor.poller.Poller` over the model's epoll, and over descriptors that become
    readable at a moment of virtual time."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._epoll = Epoll(world.kernel)
        self._woken = False
        #: Waits in a row after which nothing was received, and in which no time went by.
        self._vain = 0
        #: Who waits, and until when.
        self._waiter: tuple[Fiber, float] | None = None
        #: Who looks at whoever receives, and when next.
        self._lookers: dict[Fiber, float] = {}
        #: Those of them who stop when something is to be had.
        self._waiters: set[Fiber] = set()
        self._rung = 0
        #: Others that are watched.
        self._others: set[int] = set()

    def register(self, fd: int) -> None:
        if fd in self._world.readable:
            self._others.add(fd)
            return
        file = self._world.monitor.files.get(fd)
        if file is None or self._epoll.add(file, fd, POLLIN):
            raise OSError(EBADF, f"{fd} cannot be watched")

    def unregister(self, fd: int) -> None:
        self._world.moved = True
        if fd in self._others:
            self._others.discard(fd)
            return
        file = self._world.monitor.files.get(fd)
        if file is not None:
            self._epoll.delete(file, fd)

    def awake(self) -> None:
        """Let those go on who have something."""
        schedule = self._world.schedule
        if self._waiter is not None and (self._some() or schedule.now >= self._waiter[1]):
            fiber, self._waiter = self._waiter[0], None
            schedule.make_ready(fiber)
        for fiber, until in list(self._lookers.items()):
            if schedule.now >= until or (fiber in self._waiters and self._some()):
                del self._lookers[fiber]
                schedule.make_ready(fiber)

    def _some(self) -> bool:
        now, readable = self._world.schedule.now, self._world.readable
        return (
            bool(self._epoll.ready)
            or self._woken
            or any(readable.get(fd, math.inf) <= now for fd in self._others)
        )

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        world = self._world
        schedule, ledger = world.schedule, world.ledger
        world.fairness.round += 1
        if world.fairness.round % _LOOK == 0:
            world.tick()
            world.fairness.look(
                [port for port in world.ports if port.served and not port.changing], AT_ONCE
            )
            world.look()
        until = math.inf if timeout is None else schedule.now + timeout
        if self._waiter is not None:
            ledger.broken("two threads wait at the same time")
        while not schedule.over:
            if self._some():
                if world.chance():
                    schedule.others()  # somebody else is faster
                found = self._epoll.collect(AT_ONCE)
                now = schedule.now
                found += [
                    (fd, POLLIN) for fd in self._others if world.readable.get(fd, math.inf) <= now
                ]
                if found or self._woken:
                    self._woken = False
                    self._spun()
                    return found
            if schedule.now >= until:
                break
            world.moved = True
            self._rest(until)
        if schedule.over and schedule.fiber is not None:
            schedule.fiber.leave()
        self._spun()
        return []

    def _rest(self, until: float) -> None:
        """The thread waits."""
        schedule = self._world.schedule
        fiber = schedule.fiber
        if fiber is None:
            raise RuntimeError("nobody's thread would wait")
        self._waiter = (fiber, until)
        if until < math.inf:
            schedule.later(max(0.0, until - schedule.now), bool)  # time goes by until then
        fiber.leave()

    def _spun(self) -> None:
        """A wait is over: one after another for nothing is a busy loop."""
        world = self._world
        self._vain = 0 if world.moved else self._vain + 1
        world.moved = False
        world.schedule.now += 1e-6
        world.schedule.round()
        if self._vain > _SPINS:
            world.ledger.broken(f"the supervisor waited {self._vain} times for nothing")
            if world.schedule.fiber is not None:
                world.schedule.fiber.leave()  # it would go on so for ever

    def ready(self, fd: int) -> bool:
        self._world.schedule.others()
        return bool(revents(self._world.monitor, fd, POLLIN) & POLLIN)

    def wake(self) -> None:
        self._woken = True

    def rung(self) -> int:
        return self._rung

    def look(self, seconds: float | None, rung: int) -> None:
        schedule = self._world.schedule
        fiber = schedule.fiber
        if fiber is None:
            return
        if schedule.over:
            fiber.leave()
            return
        if self._rung != rung:
            return
        if seconds is not None:
            schedule.later(seconds, bool)
        self._lookers[fiber] = math.inf if seconds is None else schedule.now + seconds
        fiber.looks = True
        fiber.leave()
        fiber.looks = False

    def some(self, seconds: float) -> bool:
        fiber = self._world.schedule.fiber
        if fiber is not None and not self._some():
            self._waiters.add(fiber)
            self.look(seconds, self._rung)
            self._waiters.discard(fiber)
        return self._some()

    def ring(self) -> None:
        self._rung += 1
        for fiber in self._lookers:
            self._lookers[fiber] = 0.0

    def close(self) -> None:
        self.ring()
        self._woken = True
        self._epoll.release()
