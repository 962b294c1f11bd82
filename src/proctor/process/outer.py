"""A supervisor that those below may register with, on the threads that it has."""

from __future__ import annotations

import _socket as socket  # its wrapper takes two milliseconds to load
import os
import threading
from typing import TYPE_CHECKING, Any

from proctor.kernel.closing import closers
from proctor.process.below import Below, pass_on, sees
from proctor.process.standing import standing

if TYPE_CHECKING:
    from proctor.filter.rules import Filter
    from proctor.supervisor.container import Container
    from proctor.supervisor.supervisor import Supervisor


class Outer:
    """Takes supervisors in below that of a command.

    :param filter: of the command.
    :param options: with which it is launched; the way to us is added.
    """

    def __init__(self, filter: Filter, options: dict[str, Any]) -> None:
        me = standing(os.getpid())
        self._below = Below(lambda name: sees(filter, name), 1 + (0 if me is None else me.filters))
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._theirs = socket.socket(fileno=pass_on(options, theirs))
        self._lock = threading.Lock()  # what is closed is not received from

    def attach(self, supervisor: Supervisor) -> None:
        """It is about to start, and its end is ours."""
        self._supervisor = supervisor
        supervisor.on_close(self._close)

    def launched(self, container: Container) -> None:
        """Listen: the command has its end."""
        self._theirs.close()
        supervisor = self._supervisor
        self._below.on_first = lambda: supervisor.reroute(container)
        container.below = self._below
        supervisor.watch(self._ours.fileno(), self._knocked)

    def _knocked(self) -> None:
        with self._lock:
            if self._ours.fileno() < 0:
                return
            strange = self._below.knocked(self._ours)
            self._supervisor.unwatch(self._ours.fileno())
        if strange is not None:
            closers.close(strange, then=self._again)

    def _again(self) -> None:
        with self._lock:
            if self._ours.fileno() >= 0:
                self._supervisor.watch(self._ours.fileno(), self._knocked)

    def _close(self) -> None:
        with self._lock:
            self._theirs.close()
            over = [*self._below.close(), self._ours.detach()] if self._ours.fileno() >= 0 else []
        closers.close(over)
