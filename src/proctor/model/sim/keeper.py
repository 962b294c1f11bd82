"""Who keeps listeners and journals while monitors die, and one takes over from another.

A monitor is killed at any moment: whatever its threads were at stays undone, and of what they had written
down the next one has exactly what was there.  It has to answer each call that was received and not
answered, once, and perform none that had begun to be performed, unless it is known that nothing was done: :class:`Executors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.kernel.journal import HEADER, MAGIC, SLOT_SIZE, VERSION, Journal
from proctor.kernel.progress import DONE, NOTHING
from proctor.model.kernel import life
from proctor.model.kernel.tasks import Task

if TYPE_CHECKING:
    from proctor.kernel.notification import NotificationLike
    from proctor.model.sim.listener import SimListener
    from proctor.model.sim.targets import Container
    from proctor.model.sim.world import SimWorld

_LIMIT: Final = 1 << 20
#: More calls than a container ever has in flight.
_SLOTS: Final = 64


class _Journal(Journal):
    """One of which the ledger hears what is left."""

    def __init__(self, memory: bytearray, world: SimWorld, container: Container) -> None:
        super().__init__(memory)
        self.progress = world.executors  # type: ignore[assignment]
        self._world = world
        self._container = container

    def left(self, notification: NotificationLike) -> None:
        super().left(notification)
        self._world.ledger.puts_back(self._container.port, notification.id)


class Executors:
    """Processes that perform calls and outlive monitors for a moment, and what each of their requests came to: each has one."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._places = 0
        #: Those that were asked, by place: for which call, and what that gives; and what it gave.
        self._asked: dict[int, tuple[SimListener, int, int]] = {}
        self._done: dict[int, int] = {}

    def place(self) -> int:
        """One more."""
        self._places += 1
        return self._places

    def send(self, place: int, port: SimListener, id: int, gives: int) -> None:
        """Ask it to do a call."""
        self._asked[place] = port, id, gives

    def hear(self, place: int) -> int | None:
        """What it gave, if it has done it."""
        if place in self._asked:
            self._do(place)
        return self._done.get(place)

    def _do(self, place: int) -> None:
        port, id, gives = self._asked.pop(place)
        if self._world.ledger.performing(port, id) is not None:
            self._done[place] = gives

    def orphaned(self) -> None:
        """The monitor dies: some finish what they are at, others are killed before they began."""
        for place in list(self._asked):
            if self._world.kernel.random.random() < 0.5:
                self._do(place)
            else:
                del self._asked[place]

    def found(self, place: int, serial: int) -> tuple[int, int]:
        """As :meth:`proctor.kernel.progress.Progress.found`."""
        gave = self._done.get(place)
        return (NOTHING, 0) if gave is None else (DONE, gave)


class Keeper:
    """One more process of the machine."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        world.executors = Executors(world)
        made = life.fork(world.kernel, world.kernel.init)
        assert isinstance(made, Task)
        made.process.nofile = _LIMIT
        self._files = made.files
        #: Its copy of each listener.
        self._kept: dict[Container, int] = {}

    def keep(self, container: Container) -> None:
        """Have a copy of its listener, and a journal for it."""
        file = self._world.monitor.files.get(container.port.number)
        assert file is not None
        self._kept[container] = self._files.receive(file, _LIMIT, True)
        memory = bytearray(HEADER.size + _SLOTS * SLOT_SIZE)
        HEADER.pack_into(memory, 0, MAGIC, VERSION, SLOT_SIZE, _SLOTS, 0)
        container.journal = _Journal(memory, self._world, container)

    def drop(self, container: Container) -> None:
        """It has ended."""
        fd = self._kept.pop(container, None)
        if fd is not None:
            self._files.close(fd)

    def close(self) -> None:
        """Keep nothing any more."""
        for container in list(self._kept):
            self.drop(container)

    def freeze(self) -> None:
        """The monitor dies now: what it writes down after this is not what the next one has."""
        assert self._world.executors is not None
        self._world.executors.orphaned()
        for container in self._kept:
            assert container.journal is not None
            memory = bytearray(container.journal.buffer)
            container.journal = _Journal(memory, self._world, container)

    def hand_over(self) -> list[Container]:
        """Give all that is kept to the monitor that there is now."""
        world, moved = self._world, {}
        for container, fd in self._kept.items():
            file = self._files.get(fd)
            assert file is not None
            before, container.port = container.port, world.port(file, container.name)
            moved[before] = container.port
        world.ledger.moved(moved)
        return list(self._kept)
