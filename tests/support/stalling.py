"""Handlers that stall: the thread that runs them loses the role of receiving."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proctor.supervisor.poller import POLLIN, Bell
from proctor.supervisor.world import KernelWorld

if TYPE_CHECKING:
    from proctor.supervisor.ports import Engine

#: Of all worlds that were made, the latest last; and which threads got the role of receiving in it.
_engines: list[Any] = []
_receivers: dict[int, int] = {}


class World(KernelWorld):
    """Remembers its engine, and who receives, for handlers that stall."""

    def engine(self) -> Engine:
        """See :class:`~proctor.supervisor.world_port.World`."""
        made = super().engine()
        _engines.append(made)
        _receivers.clear()
        return made

    def pulse(self) -> Callable[[], float]:
        """See :class:`~proctor.supervisor.world_port.World`; whoever gets the role asks for it first."""
        token = _token(_engines[-1])
        if token not in _receivers.values():
            _receivers[threading.get_ident()] = token
        return super().pulse()


def _token(engine: Any) -> int:
    token: int = engine._generation if hasattr(engine, "_generation") else engine._loop.generation
    return token


def stall() -> None:
    """In a handler: until another thread receives than this."""
    engine, mine = _engines[-1], _receivers[threading.get_ident()]
    while engine.has(mine):
        os.sched_yield()


def stalling(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same, by a thread that lost the role of receiving over it."""

    def late(call: Any) -> Any:
        stall()
        return function(call)

    return late


def await_threads() -> None:
    """Until the threads of supervisors that were closed have ended."""
    for thread in threading.enumerate():
        if thread.name == "proctor-worker":
            thread.join(30)
            assert not thread.is_alive()


class Poller:
    """Waits for listeners on paper: those that have something are ready."""

    def __init__(self, *listeners: Any) -> None:
        self.listeners = listeners
        self._ready = threading.Condition()
        self._woken = self._closed = False
        self._bell = Bell()

    def register(self, fd: int) -> None:
        """See :class:`proctor.supervisor.poller.Poller`."""

    def unregister(self, fd: int) -> None:
        """See :class:`proctor.supervisor.poller.Poller`."""

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """See :class:`proctor.supervisor.poller.Poller`."""

        def found() -> list[tuple[int, int]]:
            return [(each.fileno(), POLLIN) for each in self.listeners if each.waiting]

        with self._ready:
            self._ready.wait_for(lambda: found() or self._woken or self._closed, timeout)
            self._woken = False
            return found()

    def ready(self, fd: int) -> bool:
        """See :class:`proctor.supervisor.poller.Poller`."""
        return any(each.waiting for each in self.listeners if each.fileno() == fd)

    def wake(self) -> None:
        """See :class:`proctor.supervisor.poller.Poller`."""
        with self._ready:
            self._woken = True
            self._ready.notify_all()

    def rung(self) -> int:
        """See :class:`proctor.supervisor.poller.Poller`."""
        return self._bell.rung

    def look(self, seconds: float | None, rung: int) -> None:
        """See :class:`proctor.supervisor.poller.Poller`."""
        self._bell.wait(seconds, rung)

    def ring(self) -> None:
        """See :class:`proctor.supervisor.poller.Poller`."""
        self._bell.ring()

    def close(self) -> None:
        """See :class:`proctor.supervisor.poller.Poller`."""
        self._bell.ring()
        with self._ready:
            self._closed = True
            self._ready.notify_all()
