"""The agent as a process: its sockets, its signals, its end."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from proctor.agent.agent import Agent
from proctor.agent.doors.oci import OciDoor
from proctor.agent.policies import Book
from proctor.agent.sockets import Acceptor, listen

if TYPE_CHECKING:
    from proctor.observe.events import Observer


class Place(NamedTuple):
    """A socket, and who may connect."""

    path: str
    uids: frozenset[int]
    mode: int = 0o600
    owner: tuple[int, int] | None = None


class Settings(NamedTuple):
    """What an agent is told when it is started."""

    policies: str
    oci: Sequence[Place] = ()
    deadline: float | None = None


class Server:
    """An agent with its sockets, on a loop that its owner runs.

    :param tell: told what is worth a line, in a sentence.
    :raises PolicyError: a policy is wrong.
    :raises ProctorError, OSError: a socket cannot be had.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        observers: Iterable[Observer] = (),
        tell: Callable[[str], object] = str,
    ) -> None:
        self._loop = loop
        self._tell = tell
        book = Book(settings.policies, tell)
        book.load()
        self.agent = Agent(loop, book, observers, deadline=settings.deadline, tell=tell)
        self._doors: list[Any] = []
        self._acceptors: list[Acceptor] = []
        try:
            for place in settings.oci:
                self._open_oci(place)
        except BaseException:
            self.close()
            raise

    def _open_oci(self, place: Place) -> None:
        sock = listen(place.path, socket.SOCK_STREAM, mode=place.mode, owner=place.owner)

        def refused(why: str) -> None:
            self.agent.trouble(f"{place.path}: {why}")

        door = OciDoor(self._loop, place.path, self.agent.admit, refused)
        self._doors.append(door)
        self._acceptors.append(Acceptor(self._loop, sock, place.uids, door.connected, refused))

    def start(self) -> None:
        """Begin to answer."""
        self.agent.start()

    def close(self) -> None:
        """Let nobody in any more, answer what is pending, and let every listener go; idempotent."""
        for acceptor in self._acceptors:
            acceptor.close()
        for door in self._doors:
            door.close()
        self.agent.close()


def run(
    settings: Settings, observers: Iterable[Observer] = (), tell: Callable[[str], object] = str
) -> None:
    """Serve until SIGTERM or SIGINT."""
    raise_limits()
    loop = asyncio.new_event_loop()
    try:
        server = Server(loop, settings, observers, tell)
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, loop.stop)
            server.start()
            tell(f"ready (process {os.getpid()})")
            loop.run_forever()
        finally:
            server.close()
    finally:
        loop.close()


def raise_limits() -> None:
    """As many open files as we may have: each listener is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
