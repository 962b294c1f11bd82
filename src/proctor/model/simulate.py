"""The supervisor, unchanged, simulated on the model: ``python -m proctor.model.simulate``.

Hundreds of containers whose callers call, flood, are signalled, stopped and killed; handlers that
are quick, slow, racy, wrong or never done; listeners that come and go.  Time is virtual and the
seed alone decides what happens in which order, so that every failure can be had again::

    python -m proctor.model.simulate --seed 7 --calls 100000
    python -m proctor.model.simulate --seed 7 --calls 300 --trace

Invariants (:mod:`proctor.model.invariants`) are checked all along and at the end.

Seams for what comes: a :class:`Simulation` makes its supervisor in :meth:`Simulation.make`, its
world and its handlers are attributes, and containers come through :meth:`Simulation.adopt`; a
keeper and a journal are put between by a subclass.
"""

from __future__ import annotations

import argparse
import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from proctor.model import mischief, signals
from proctor.model.crowd import Container
from proctor.model.invariants import Broken, Invariants
from proctor.model.kernel import Kernel
from proctor.model.linux import SIGKILL
from proctor.model.listener import Notifications
from proctor.model.notify import Knotif
from proctor.model.schedule import Schedule
from proctor.model.world import Monitor, SimulatedListener, SimulatedWorld

if TYPE_CHECKING:
    from proctor.supervisor.supervisor import Supervisor


class Simulation:
    """One run.

    :param seed: decides everything.
    :param calls: how many calls are made.
    :param containers: how many live at a time.
    :param profile: the modelled kernel.
    :param observed: whether the supervisor has an observer; it then takes its longer ways.
    """

    def __init__(
        self,
        seed: int,
        calls: int,
        containers: int = 200,
        profile: str = "6.18",
        observed: bool | None = None,
    ) -> None:
        self.seed = seed
        self.calls = calls
        self.size = containers
        self.kernel = Kernel(profile, seed=seed, pid_limit=8 * containers + 4096)
        self.schedule = Schedule(self.kernel, seed)
        self.watch = Invariants(seed)
        self.watch.now = lambda: self.schedule.now
        self.monitor = Monitor(self.schedule)
        self.world = SimulatedWorld(self.schedule, self.monitor, workers=16)
        self.watch.rounds = lambda: self.world.rounds
        self.observed = bool(seed % 2) if observed is None else observed
        self.supervisor: Supervisor = self.make()
        self.world.step = self.supervisor.step
        self.containers: dict[int, Container] = {}
        self._numbers = 0
        self.made = 0
        self.done = 0
        self.longest = 0.0
        self.given_up = 0
        self.ended = 0

    def make(self) -> Supervisor:
        """The supervisor under test; the seam for what wraps it."""
        from proctor.supervisor.supervisor import Supervisor

        return Supervisor(
            mischief.handlers(self),
            deadline=mischief.DEADLINE,
            performer=mischief.performer(self),
            observer=self._outcome if self.observed else None,
            world=self.world,
        )

    def _outcome(self, outcome: Any) -> None:
        if outcome.answered < outcome.received:
            self.watch.broken("a call was answered before it was received")

    # Containers -------------------------------------------------------------------------------
    def new_container(self) -> None:
        """One container more."""
        self._numbers += 1
        self.containers[self._numbers] = Container(self, self._numbers)

    def adopt(self, container: Container, notif: Notifications, fd: int) -> SimulatedListener:
        """A container's listener is handed to the supervisor."""
        ours = self.monitor.take(notif, container.root, fd)
        listener = SimulatedListener(self.monitor, ours, notif, self.watch, container.name)
        self._serve(container, listener)
        return listener

    def _serve(self, container: Container, listener: SimulatedListener) -> None:
        self.watch.added(listener)
        self.supervisor.add(listener, on_end=lambda: self._end_of(container))

    def _end_of(self, container: Container) -> None:
        """Nobody is left of a container; another comes."""
        if container.notif.filter.users:
            self.watch.broken(f"{container.name} ended for the supervisor but not in fact")
        self.ended += 1
        self._gone(container)

    def _gone(self, container: Container) -> None:
        self.containers.pop(container.number, None)
        self.watch.forget(container.name)
        if self.wants_more():
            self.schedule.after(0.001, self.new_container)

    def give_up(self, container: Container) -> None:
        """The listener is taken back: sometimes served again, sometimes closed (ENOSYS)."""
        listener = container.listener
        if container.dead or listener is None or listener.closed:
            return
        try:
            self.supervisor.drop(listener)
        except ValueError:
            return  # it ended just now
        self.given_up += 1
        container.given_up = True  # from now on ENOSYS may be an answer
        if self.schedule.random.random() < 0.5:
            self.schedule.after(0.002, lambda: self._serve_again(container, listener))
        else:
            self.watch.closed(listener)
            listener.closed = True
            self.monitor.close(listener.fileno())
            container.end()
            self.schedule.after(0.01, lambda: self._gone(container))

    def _serve_again(self, container: Container, listener: SimulatedListener) -> None:
        fresh = SimulatedListener(
            self.monitor, listener.fileno(), container.notif, self.watch, container.name
        )
        self.watch.closed(listener)
        listener.closed = True
        container.listener = fresh
        self._serve(container, fresh)

    # Running ----------------------------------------------------------------------------------
    def wants_more(self) -> bool:
        """Whether calls are still to be made."""
        return self.made < self.calls

    def finished(self, took: float) -> None:
        """A call returned to its caller."""
        self.done += 1
        self.longest = max(self.longest, took)

    def run(self) -> None:
        """Make the calls, let everything calm down, close, and check what must hold then.

        :raises Broken: an invariant does not hold.
        """
        with _quiet(), _descriptors(self.monitor):
            for _ in range(self.size):
                self.new_container()
            step = self.schedule.next
            while self.wants_more() and step():
                pass
            while step():
                pass
            self._calm()
            self.supervisor.close()
            self._end()

    def _calm(self) -> None:
        """2: nobody waits any more."""
        for container in self.containers.values():
            for caller in container.callers:
                task = caller.task
                if isinstance(task.wait, Knotif) and not task.exiting:
                    self.watch.broken(
                        f"{container.name}.{caller.number} hangs in {caller.name} since "
                        f"{caller.since:.6f} ({task.wait.state})"
                    )

    def _end(self) -> None:
        """5, 6: everything was closed, once; and the model's own books are right."""
        self.watch.over()
        for container in self.containers.values():
            container.end()
        self.kernel.settle()
        left = {fd: file.label for fd, file in self.monitor.program.fds().items()}
        if left:
            self.watch.broken(f"the monitor still has open: {left}")
        for container in self.containers.values():
            filter = container.notif.filter
            if filter.users or filter.refs:
                self.watch.broken(
                    f"{container.name}: users {filter.users}, refs {filter.refs} left"
                )
        for coroutine in self.world.forgotten:
            coroutine.close()


@contextmanager
def _quiet() -> Iterator[None]:
    """The supervisor logs each handler's failure; here they fail by the thousand."""
    import logging

    logger = logging.getLogger("proctor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _descriptors(monitor: Monitor) -> Iterator[None]:
    """Descriptors in verdicts are the modelled monitor's: closing one closes it there."""
    from proctor.call import verdict

    real: Any = verdict.os  # type: ignore[attr-defined]

    def close(fd: int) -> None:
        got = monitor.close(fd)
        if got:
            raise Broken(f"descriptor {fd} was closed twice, or never opened")

    verdict.os = SimpleNamespace(close=close, strerror=real.strerror)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        verdict.os = real  # type: ignore[attr-defined]


def simulate(
    seed: int, calls: int, containers: int = 200, profile: str = "6.18", **options: Any
) -> Simulation:
    """Run one simulation to its end; raises :class:`~proctor.model.invariants.Broken`."""
    simulation = Simulation(seed, calls, containers, profile, **options)
    simulation.run()
    return simulation


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m proctor.model.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="so many seeds, from --seed on")
    parser.add_argument("--calls", type=int, default=20_000, help="per seed")
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--profile", default="6.18", help="the modelled kernel")
    parser.add_argument("--nightly", action="store_true", help="ten million calls")
    parser.add_argument("--trace", action="store_true", help="print what happens, line by line")
    parser.add_argument("--chart", metavar="SVG", help="draw it as a sequence chart")
    options = parser.parse_args(arguments)
    if options.nightly:
        options.seeds, options.calls = 100, 100_000
    began = time.monotonic()
    total = 0
    for seed in range(options.seed, options.seed + options.seeds):
        simulation = Simulation(seed, options.calls, options.containers, options.profile)
        lines: list[tuple[float, str, str]] = []
        if options.trace or options.chart:
            simulation.schedule.trace = _tracer(simulation, lines, options.trace)
        try:
            simulation.run()
        except Broken as problem:
            print(f"BROKEN: {problem}", file=sys.stderr)
            print(
                f"again: python -m proctor.model.simulate --seed {seed} --calls {options.calls} "
                f"--containers {options.containers} --profile {options.profile} --trace",
                file=sys.stderr,
            )
            return 1
        finally:
            if options.chart:
                from proctor.model.chart import sequence

                with open(options.chart, "w", encoding="utf-8") as file:
                    file.write(sequence(lines))
        total += simulation.made
        print(
            f"seed {seed}: {simulation.made} calls made, {simulation.done} returned, "
            f"{simulation.watch.answers} answered, {simulation.watch.late} too late, "
            f"{simulation.ended} containers ended, {simulation.given_up} listeners given up, "
            f"longest call {simulation.longest:.3f} s, longest wait {simulation.watch.longest_wait} "
            f"rounds, {simulation.schedule.now:.1f} virtual seconds"
        )
    spent = time.monotonic() - began
    print(
        f"{total} calls, nothing broken, {spent:.0f} s ({spent / max(total, 1) * 1e6:.0f} us each)"
    )
    return 0


def _tracer(simulation: Simulation, lines: list[tuple[float, str, str]], shown: bool) -> Any:
    def trace(who: str, what: str) -> None:
        now = simulation.schedule.now
        lines.append((now, who, what))
        if shown:
            print(f"{now:12.6f}  {who:10}  {what}")

    return trace


__all__ = ["SIGKILL", "Simulation", "errno", "main", "signals", "simulate"]

if __name__ == "__main__":
    sys.exit(main())
