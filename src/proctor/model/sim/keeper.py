"""Who keeps listeners and journals while monitors die, and one takes over from another.

A monitor is killed at any moment: whatever its threads were at stays undone, and of what they had written
down the next one has exactly what was there.  It has to answer each call that was received and not
answered, once, and perform none that had begun to be performed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.kernel.journal import HEADER, MAGIC, SLOT_SIZE, VERSION, Journal
from proctor.model.kernel import life
from proctor.model.kernel.tasks import Task

if TYPE_CHECKING:
    from proctor.kernel.notification import NotificationLike
    from proctor.model.sim.targets import Container
    from proctor.model.sim.world import SimWorld

_LIMIT: Final = 1 << 20
#: More calls than a container ever has in flight.
_SLOTS: Final = 64


class _Journal(Journal):
    """One of which the ledger hears what is left."""

    def __init__(self, memory: bytearray, world: SimWorld, container: Container) -> None:
        super().__init__(memory)
        self._world = world
        self._container = container

    def left(self, notification: NotificationLike) -> None:
        """See :class:`~proctor.kernel.journal.Journal`."""
        super().left(notification)
        self._world.ledger.puts_back(self._container.port, notification.id)


class Keeper:
    """One more process of the machine."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
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
