"""Threads of a simulation, of which one runs at a time, and the lock that they respect."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proctor.model.kernel.tasks import Task
    from proctor.model.sim.schedule import Schedule

#: Seconds after which a thread that does not come back is given up, if the machine is interrupted.
_PATIENT: Final = 5.0


class Fiber:
    """A thread that can be left in the middle of its work.

    It is a real thread that only ever runs while the main stack waits for it.
    """

    __slots__ = (
        "_back",
        "_burns_since",
        "_go",
        "_schedule",
        "_thread",
        "_used",
        "_work",
        "dead",
        "looks",
        "number",
        "parked",
        "task",
    )

    def __init__(self, schedule: Schedule, number: int, task: Task) -> None:
        self._schedule = schedule
        self._go = threading.Lock()
        self._back = threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._work: Callable[[], object] | None = None
        #: It waits, or is about to, until it is resumed.
        self.parked = True
        self.number = number
        #: It looks at somebody, again and again: nothing to write down.
        self.looks = False
        #: Its monitor was killed.
        self.dead = False
        #: Seconds of processor time that it has used up, and since when it computes, if it does.
        self._used = 0.0
        self._burns_since: float | None = None
        #: The thread of the modelled monitor that it is.
        self.task = task
        self._thread = threading.Thread(target=self._run, name=f"fiber-{number}", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # whoever waited for its start was interrupted
            self._go.release()
            raise

    def burn(self, on: bool) -> None:
        """It computes from now on, or not."""
        now = self._schedule.now
        if self._burns_since is not None:
            self._used += now - self._burns_since
        self._burns_since = now if on else None

    def __call__(self) -> float:
        """Seconds of processor time that it has used: it is its own
        :class:`~proctor.supervisor.world_port.Pulse`."""
        burnt = 0.0 if self._burns_since is None else self._schedule.now - self._burns_since
        return self._used + burnt

    def runs(self) -> bool:
        """No: whoever stalls here does so on purpose, and never for want of a processor."""
        return False

    def queued(self) -> float:
        """Nothing, for the same reason."""
        return 0.0

    def begin(self, work: Callable[[], object]) -> None:
        """Run ``work`` until it is left for the first time, or done."""
        self._work = work
        self.resume()

    def resume(self) -> None:
        """Let it go on until it is left again, or done; on the main stack only."""
        schedule = self._schedule
        before, schedule.fiber = schedule.fiber, self
        self.parked = False
        try:
            self._go.release()
            self._back.acquire()
        except BaseException:  # a signal, of a test whose time is over
            self._back.acquire(timeout=_PATIENT)  # it comes back all the same, or did
            raise
        finally:
            schedule.fiber = before
            if not self.parked:
                schedule.given_up(self)
            elif self._work is None:
                schedule.done(self)

    def leave(self) -> None:
        """Hand control back to the main stack; returns when resumed."""
        self.parked = True
        self._back.release()
        self._go.acquire()

    def end(self) -> None:
        """The thread ends; it must be idle."""
        self._go.release()
        self._thread.join()

    def _run(self) -> None:
        if self._schedule.watch is not None:
            self._schedule.watch()
        while True:
            self._go.acquire()
            if self._work is None:
                return
            try:
                self._work()
            except BaseException as problem:
                self._schedule.broken(f"work raised {problem!r}: nobody would have noticed")
            self._work = None
            self.parked = True
            self._back.release()


class SimLock:
    """:class:`~proctor.supervisor.world_port.Lock` among the threads of one simulation: whoever finds it
    taken makes room for others."""

    __slots__ = ("_held", "_owner", "_schedule", "_waiting")

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._held = False
        self._owner: Fiber | None = None
        self._waiting: list[Fiber] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        schedule = self._schedule
        while self._held:
            if not blocking:
                return False
            fiber = schedule.fiber
            if fiber is self._owner:
                schedule.broken("a thread waits for a lock that it holds")
                raise RuntimeError("deadlock")
            if fiber is None:
                schedule.make_room()
            elif schedule.over:
                fiber.leave()  # whoever ends the others comes back
            else:
                self._waiting.append(fiber)
                fiber.leave()
        self._held = True
        self._owner = schedule.fiber
        return True

    def release(self) -> None:
        self._held = False
        for fiber in self._waiting:
            self._schedule.make_ready(fiber)
        self._waiting.clear()

    def mine(self) -> bool:
        """Whether the running thread holds it."""
        return self._held and self._owner is self._schedule.fiber

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()
