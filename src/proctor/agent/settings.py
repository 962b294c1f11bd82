"""What an agent is told when it is started: all that its keeper has to know as well."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from proctor.agent.keeping import Item
from proctor.agent.sockets import listen
from proctor.records import NamedTuple

#: Of a listening socket's name, before its path.
SOCKET: Final = "socket "


class Place(NamedTuple):
    """A socket, and who may connect."""

    path: str
    uids: frozenset[int]
    mode: int = 0o600
    owner: tuple[int, int] | None = None

    kind: int = socket.SOCK_STREAM

    def listen(self) -> socket.socket:
        """:raises ProctorError, OSError: see :func:`proctor.agent.sockets.listen`."""
        return listen(self.path, self.kind, mode=self.mode, owner=self.owner)


class Settings(NamedTuple):
    """What an agent is told when it is started."""

    policies: str
    oci: Sequence[Place] = ()
    lxc: Sequence[Place] = ()
    #: Where ``proctor run --agent`` connects.
    run: Sequence[Place] = ()
    control: Place | None = None
    #: Host and port, or a socket, for Prometheus.
    metrics: tuple[str, int] | Place | None = None
    #: Where its log is, for those who ask.
    log: str = ""
    deadline: float | None = None
    #: Seconds that calls in flight are waited for at the end.
    drain: float = 5.0
    #: Where it is kept what was answered to rules that ask.
    answers: str | None = None

    @property
    def places(self) -> list[Place]:
        """All sockets."""
        return [
            *self.oci,
            *self.lxc,
            *self.run,
            *([self.control] if self.control is not None else []),
        ]


def kept_sockets(settings: Settings) -> list[Item]:
    """Listening sockets for a keeper.

    :raises ProctorError, OSError: one cannot be had.
    """
    return [Item(SOCKET + place.path, (place.listen().detach(),)) for place in settings.places]
