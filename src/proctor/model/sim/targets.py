"""The simulated containers: programs that call, and the misfortunes that befall them.

A :class:`Container` is one filter with its listener and all tasks under it; an :class:`Actor` one
of those tasks, with its next turn on the agenda.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proctor.kernel import abi
from proctor.model.kernel import install, life, signals
from proctor.model.kernel.linux import (
    NR,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGQUIT,
    SIGSTOP,
    SIGTERM,
    SIGURG,
    SIGUSR1,
    SIGUSR2,
)
from proctor.model.kernel.listener import Notifications
from proctor.model.kernel.tasks import IGNORE, RUNNING, Disposition, Task
from proctor.model.sim.accounts import Asked
from proctor.model.sim.handlers import CALLS, DEADLINES, script
from proctor.model.sim.ledger import KEPT, PATIENCE
from proctor.supervisor.container import Container as Known

if TYPE_CHECKING:
    from proctor.kernel.journal import Journal
    from proctor.model.sim.listener import SimListener
    from proctor.model.sim.world import SimWorld
    from proctor.supervisor.container import Quotas

_MOST_CALLERS: Final = 8
_NOTIFY: Final = abi.SECCOMP_RET_USER_NOTIF


def _program() -> bytes:
    rows = [(0x20, 0, 0, 0)]
    for _, nr in CALLS:
        rows += [(0x15, 0, 1, nr), (0x06, 0, 0, _NOTIFY)]
    rows.append((0x06, 0, 0, abi.SECCOMP_RET_ALLOW))
    return b"".join(abi.SOCK_FILTER.pack(*row) for row in rows)


_PROGRAM: Final = _program()


class Town:
    """All containers of one simulation.

    :param think: seconds between the calls of a caller that is in no hurry.
    :param deadline: of the supervisor.
    :param quota: how many calls are to be made.
    :param trouble: how likely each call brings a signal, and each return a fork, exec or exit.
    :param malice: how likely each handler takes very long; if not 0, most callers that have to wait
        are killed soon and others born, or call again and again.
    :param quotas: what each container may take of the supervisor.
    """

    def __init__(
        self,
        world: SimWorld,
        *,
        think: float,
        deadline: float | None,
        quota: int,
        trouble: float,
        malice: float = 0.0,
        quotas: Quotas | None = None,
    ) -> None:
        self.quotas = quotas
        self.world = world
        self.think = think
        self.deadline = deadline
        self.quota = quota
        self.trouble = trouble
        self.malice = malice
        self.made = 0
        #: Most callers that ever lived at the same time.
        self.most = 0
        self.born = 0
        self.containers: list[Container] = []
        self.actors: dict[Task, Actor] = {}
        world.schedule.ran = self._ran

    def start(self) -> Container:
        """One more container, its first callers and its listener."""
        self.born += 1
        container = Container(self, f"c{self.born}")
        self.containers.append(container)
        return container

    def _ran(self, task: Task) -> None:
        actor = self.actors.get(task)
        if actor is not None:
            actor.bury()

    def bury_dead(self) -> None:
        """Notice deaths that came about inside of something else."""
        for task in [task for task in self.actors if task.exiting]:
            self._ran(task)

    def go_on(self) -> None:
        """Whoever is stopped goes on, so that everybody comes to his end."""
        kernel = self.world.kernel
        for task in list(self.actors):
            if not task.process.code:
                signals.send(kernel, SIGCONT, task, True)
        kernel.settle()
        self.bury_dead()

    def forget_ended(self) -> None:
        """Containers that are over are not kept for long, and then not looked at any more."""
        ledger = self.world.ledger
        for container in self.containers.copy():
            if not container.over():
                continue
            if container.unused_since is None:
                container.unused_since = ledger.now
            kept = ledger.now - max(container.unused_since, container.served_since)
            port = container.port
            closed = port.closed or (port.dead and container.ended)
            if (kept > KEPT and port.served) or (
                kept > PATIENCE and not closed and not port.detached
            ):
                ledger.broken(f"{container.name} is kept for {kept:.3f} s after its end")
            if closed and not container.actors:
                self.containers.remove(container)


class Container:
    """One filter, its listener, and who lives under it."""

    def __init__(self, town: Town, name: str) -> None:
        world, kernel = town.world, town.world.kernel
        draw = kernel.random.random
        self.town = town
        self.name = name
        #: What the supervisor knows of it.
        self.known_as = Known(name, quotas=town.quotas)
        self.actors: dict[Task, Actor] = {}
        self.flood = draw() < 0.15
        self._count = 0
        task = life.fork(kernel, kernel.init)
        assert isinstance(task, Task)
        task.no_new_privs = True
        if draw() < 0.3:
            task.process.nofile = 3 + int(draw() * 12)
        flags = abi.SECCOMP_FILTER_FLAG_NEW_LISTENER
        if "wait_killable_recv" in kernel.features and draw() < 0.5:
            flags |= abi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        fd = install.set_mode_filter(kernel, task, flags, _PROGRAM)
        file = task.files.get(fd)
        assert file is not None and isinstance(file.inside, Notifications) and task.filter
        self.filter = task.filter
        self.port: SimListener = world.port(file, name)
        task.files.close(fd)
        self.served_since = 0.0
        #: What is written down of its calls, if anything is.
        self.journal: Journal | None = None
        #: Forks, and makes no calls itself: in malicious machines.
        self.keeper: Task | None = None
        #: Told by the supervisor that nobody uses the filter any more.
        self.ended = 0
        #: When that came true; None before.
        self.unused_since: float | None = None
        dispose(task)
        if town.malice:
            self.keeper = task
            made = life.fork(kernel, task)
            assert isinstance(made, Task)
            task = made
        self.adopt(task)
        for _ in range(int(draw() * 4)):
            self.adopt(life.thread(kernel, task) if draw() < 0.5 else life.fork(kernel, task))

    def adopt(self, task: Task | int) -> None:
        """A new caller lives here."""
        if isinstance(task, Task):
            self._count += 1
            self.town.world.number(task)
            actor = Actor(self, task, f"{self.name}.{self._count}")
            self.actors[task] = self.town.actors[task] = actor
            self.town.most = max(self.town.most, len(self.town.actors))

    def replace(self) -> None:
        """One of its callers died: another one is born."""
        keeper = self.keeper
        if keeper is not None and not keeper.exiting and not self.town.world.ledger.closing:
            self.adopt(life.fork(self.town.world.kernel, keeper))

    def unserved(self) -> bool:
        """Whether nobody reads the listener, though it is open."""
        return not self.port.served and not self.port.closed

    def kill(self) -> None:
        """SIGKILL for everybody."""
        tasks = list(self.actors)
        if self.keeper is not None and not self.keeper.exiting:
            tasks.append(self.keeper)
        for task in tasks:
            signals.send(self.town.world.kernel, SIGKILL, task, True)

    def over(self) -> bool:
        """Nobody uses the filter."""
        return self.filter.users == 0


def dispose(task: Task) -> None:
    """SIGUSR1 interrupts, SIGUSR2 restarts, children need no reaping."""
    process = task.process
    life.sigaction(process, SIGUSR1, Disposition("handler", False))
    life.sigaction(process, SIGUSR2, Disposition("handler", True))
    life.sigaction(process, SIGCHLD, IGNORE)


class Actor:
    """One caller."""

    __slots__ = ("_perform", "_turn", "asked", "container", "name", "task", "world")

    def __init__(self, container: Container, task: Task, name: str) -> None:
        self.container = container
        self.task = task
        self.name = name
        self.world = container.town.world
        self.asked: Asked | None = None
        self._turn: Callable[[], None] = self.turn
        self._perform: Callable[[], int] = self.perform
        task.returned = self.returned
        self._next()

    def _next(self) -> None:
        town = self.container.town
        delay = 0.0
        if not self.container.flood:
            delay = self.world.kernel.random.random() * 2 * town.think
        self.world.schedule.later(delay, self._turn)

    def _away(self) -> bool:
        """Whether it is not in user space, or does not run there."""
        return self.task.state != RUNNING or self.task.frame is not None

    def turn(self) -> None:
        """Back in user space, with something to do."""
        task, town = self.task, self.container.town
        if task.exiting:
            self.bury()
            return
        if self._away():
            self.world.schedule.later(0.01 + town.think, self._turn)  # stopped
            return
        if town.made >= town.quota:
            return
        draw = self.world.kernel.random.random
        if draw() < town.trouble * 0.3:
            self._turn_of_life(draw())
            if self not in self.container.actors.values():
                return  # that was its end
            if self._away():
                self._next()  # stopped on the way back
                return
        town.made += 1
        self._call(draw)

    def _call(self, draw: Callable[[], float]) -> None:
        world, town, container = self.world, self.container.town, self.container
        name, nr = CALLS[int(draw() * len(CALLS))]
        limited = town.deadline is not None or name in DEADLINES
        plan, wires = script(world.kernel.random, name, limited, town.malice)
        serial = town.made
        world.tick()
        asked = Asked(serial, self.name, container, name, plan, wires, world.schedule.now)
        asked.signalled = bool(self.task.sigpending or self.task.process.pending)
        self.asked = asked
        world.ledger.asked[serial] = asked
        world.ledger.note("call", self.name, serial, name)
        if town.malice and draw() < 0.9:
            asked.signalled = True
            world.schedule.later(draw() * 0.002, lambda: self._leave_behind(asked, 30))
        if draw() < town.trouble:
            world.schedule.later(draw() * draw() * 0.5 if draw() < 0.6 else 0.0, self._disturb)
        args = (serial, 0, int(draw() * 2), 0, 0, 0)
        world.kernel.enter(self.task, nr, args, perform=self._perform)

    def perform(self) -> int:
        """The kernel runs the call."""
        asked = self.asked
        return 0 if asked is None else self.world.ledger.performs(asked)

    def returned(self, task: Task, value: int) -> None:
        """A call came back."""
        asked, self.asked = self.asked, None
        if asked is None:
            return
        self.world.tick()
        self.world.ledger.returned(asked, value, self.container.port.closed)
        if asked.answer == value and value in task.files.slots and value % 4:
            task.files.close(value)
        self._next()

    def _turn_of_life(self, chance: float) -> None:
        """fork, clone, execve, exit, exit_group."""
        kernel, task, ledger = self.world.kernel, self.task, self.world.ledger
        container = self.container
        if chance < 0.5:
            if len(container.actors) < _MOST_CALLERS:
                make = life.fork if chance < 0.25 else life.thread
                container.adopt(make(kernel, task))
                ledger.note("fork", self.name)
        elif chance < 0.7:
            ledger.note("exec", self.name)
            kernel.enter(task, NR["execve"], perform=lambda: life.execve(kernel, task))
            if not task.exiting and chance < 0.67:
                dispose(task)
            container.town.bury_dead()
        elif chance < 0.85:
            kernel.enter(task, NR["exit"])
            self.bury()
        else:
            kernel.enter(task, NR["exit_group"], (3, 0, 0, 0, 0, 0))
            self.bury()

    def _disturb(self) -> None:
        """A signal from outside."""
        world, task = self.world, self.task
        kernel = world.kernel
        if task.exiting:
            self.bury()
            return
        draw = kernel.random.random
        chance = draw()
        if chance < 0.33:
            number = SIGUSR1
        elif chance < 0.68:
            number = SIGUSR2
        elif chance < 0.78:
            number = SIGURG
        elif chance < 0.9:
            number = SIGSTOP
            world.schedule.later(draw(), self._cont)
        else:
            number = SIGKILL if chance < 0.94 else SIGTERM if chance < 0.96 else SIGQUIT
        for each in task.process.tasks:
            other = self.container.town.actors.get(each)
            if other is not None and other.asked is not None:
                other.asked.signalled = True
        world.ledger.note("signal", "world", 0, f"{number}", self.name)
        signals.send(kernel, number, task, draw() < 0.5)

    def _leave_behind(self, asked: Asked, more: int) -> None:
        """The caller dies, or is made to call again, so that its call is nobody's any more."""
        world, task = self.world, self.task
        if self.asked is not asked or task.exiting:
            return
        if (asked.serial % 3 or not more) and not world.ledger.closing:
            world.ledger.note("kill", "world", 0, self.name)
            signals.send(world.kernel, SIGKILL, task, False)
            world.schedule.later(0.0005, self.container.replace)
        elif more:
            signals.send(world.kernel, SIGUSR2, task, False)
            world.schedule.later(0.0005, lambda: self._leave_behind(asked, more - 1))

    def _cont(self) -> None:
        if not self.task.process.code:
            signals.send(self.world.kernel, SIGCONT, self.task, True)

    def bury(self) -> None:
        """It died."""
        if self.container.actors.pop(self.task, None) is None:
            return
        self.container.town.actors.pop(self.task, None)
        self.world.tick()
        asked, self.asked = self.asked, None
        if asked is not None:
            self.world.ledger.died(asked)
