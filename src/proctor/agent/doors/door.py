"""What all doors have in common: connections, each read when something is there."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from proctor.agent import dropping
from proctor.agent.sockets import Peer
from proctor.errors import ProctorError
from proctor.kernel import scm
from proctor.words import quoted

if TYPE_CHECKING:
    from proctor.agent.agent import Agent

#: Most connections of one user, silent ones included, and descriptors that came by them.
CONNECTIONS: Final = 4096
#: What a listener is shown as (fs/proc, anon inodes).
_KIND: Final = "anon_inode:seccomp notify"


class Connection:
    """One connection, which owns its socket.

    :ivar counts: itself and the descriptors that it holds, of those that its user may have."""

    counts = 0

    def __init__(self, door: Door[Any], sock: socket.socket, peer: Peer) -> None:
        self.sock = sock
        self.peer = peer
        self._refuse: Callable[[Connection, str], None] = door.refuse

    def receive(self, size: int, flags: int = 0) -> scm.Message | None:
        """What is there; None if nothing is, or if it is lost, and refused then."""
        try:
            return scm.receive(
                self.sock, size, flags, lambda message: self.drop(message.fds, message.sender)
            )
        except BlockingIOError:
            return None
        except OSError as problem:
            self._refuse(self, f"connection lost: {problem.strerror or problem}")
            return None

    def read(self) -> None:
        """Something is there."""
        raise NotImplementedError

    def drop(self, fds: Iterable[int], sender: int = -1) -> None:
        """Close what came."""
        dropping.drop(self.peer.uid, fds)
        if sender >= 0:
            os.close(sender)

    def close(self) -> None:
        """Hang up.  Idempotent."""
        if self.sock.fileno() >= 0:
            self.drop([self.sock.detach()])


C = TypeVar("C", bound=Connection)


class Door(Generic[C]):
    """The connections of one socket.

    :param path: of the socket, for logs and policies.
    :param agent: has what comes by it.
    :param refused: told in a sentence who got nothing, and why.
    :param most: connections that one user may have at a time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        agent: Agent,
        refused: Callable[[str], object],
        *,
        most: int = CONNECTIONS,
    ) -> None:
        self._loop = loop
        self._path = path
        self._agent = agent
        self._refused = refused
        self._most = most
        self._connections: set[C] = set()
        self._by_user: Counter[int] = Counter()

    def take(self, connection: C) -> bool:
        """Take a new one in; False if its user has too many, and it was refused."""
        self._connections.add(connection)
        return self.count(connection, 1)

    def count(self, connection: C, descriptors: int) -> bool:
        """Count descriptors that came and are held, as further connections; False if these are too many, and it was
        refused."""
        connection.counts += descriptors
        self._by_user[connection.peer.uid] += descriptors
        if self._by_user[connection.peer.uid] > self._most:
            self.refuse(
                connection,
                f"this user has {self._most} connections and descriptors, and gets no more",
            )
            return False
        return True

    def read(self, connection: C) -> None:
        """Have it read from now on."""
        self._loop.add_reader(connection.sock, connection.read)

    def leave(self, connection: C) -> None:
        """It is over."""
        if connection.sock.fileno() >= 0:
            self._loop.remove_reader(connection.sock)
        if connection in self._connections:
            self._connections.discard(connection)
            self._by_user[connection.peer.uid] -= connection.counts
            if not self._by_user[connection.peer.uid]:
                del self._by_user[connection.peer.uid]
        connection.close()

    def refuse(self, connection: C, why: str) -> None:
        """It gets nothing."""
        self.leave(connection)
        peer = connection.peer
        self._refused(f"user {peer.uid} (process {peer.pid}): {why}")

    def close(self) -> None:
        """Hang up on all."""
        for connection in list(self._connections):
            self.leave(connection)


def listener_among(fds: Sequence[int], place: int) -> int:
    """The descriptor at that place.

    :raises ProctorError: it is no listener."""
    kind = os.readlink(f"/proc/self/fd/{fds[place]}")
    if kind != _KIND:
        raise ProctorError(f"what came is no listener but {quoted(kind)}")
    return fds[place]


def pipe_among(fds: Sequence[int], place: int) -> int:
    """The pipe at that place: nothing waits that closes it.

    :raises ProctorError: it is none."""
    kind = os.readlink(f"/proc/self/fd/{fds[place]}")
    if not kind.startswith("pipe:["):  # what has a path begins with /
        raise ProctorError(f"what came is no pipe but {quoted(kind)}")
    return fds[place]
