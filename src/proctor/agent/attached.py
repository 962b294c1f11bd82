"""What is closed when a listener is: pipes of those who launched a command, and wait for its end."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proctor.agent.keeping import Item
    from proctor.agent.kept import Keeps

_ALIVE: Final = "alive "


class Attached:
    """Descriptors by the names of their listeners.

    :param keeping: keeps copies for the next monitor, each by itself: a service manager drops what
        hangs up, and a listener is not to go with it.
    """

    def __init__(self, keeping: Keeps) -> None:
        self._keeping = keeping
        self._fds: dict[str, int] = {}

    def hold(self, listener: str, fd: int) -> None:
        """Hold it, from now on ours, until :meth:`close`."""
        self._fds[listener] = fd
        self._keeping.keep(_ALIVE + listener, [fd])

    def restore(self, item: Item) -> bool:
        """Hold what an earlier monitor held; False if that is something else."""
        if not item.name.startswith(_ALIVE):
            return False
        (self._fds[item.name.removeprefix(_ALIVE)],) = item.fds
        return True

    def close(self, listener: str) -> None:
        """Close what belongs to a listener, if anything does."""
        fd = self._fds.pop(listener, None)
        if fd is not None:
            self._keeping.forget(_ALIVE + listener)
            os.close(fd)

    def close_all_but(self, listeners: Iterable[str] = ()) -> None:
        """Close what belongs to no listener of these."""
        for each in self._fds.keys() - set(listeners):
            self.close(each)
