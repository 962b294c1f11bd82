"""Containers that are served: what is held of each, and what the next monitor has to know of them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from proctor.agent.facts import Facts
from proctor.kernel.mounts import KEY

if TYPE_CHECKING:
    from proctor.agent.policies import Resolved
    from proctor.kernel.listener import Listener
    from proctor.supervisor.container import Container

#: Door, user and id: what makes listeners those of one container.
Key = tuple[str, int, str]


def lasting(facts: Facts, since: float) -> bytes:
    """What monitors know a container by, one after another: also its beginning, since names come again."""
    said = msgspec.json.encode((facts.door, facts.uid, facts.id, since))
    return hashlib.blake2b(said, digest_size=KEY).digest()


class Record(msgspec.Struct, frozen=True):
    """What the next monitor has to know of a listener."""

    facts: Facts
    owner_userns: tuple[int, ...]
    #: Seconds since the epoch.
    since: float
    #: As what the connection was kept by which it came: that has said what it had to say.
    came_by: str = ""


class KeptConnection(msgspec.Struct, frozen=True):
    """What the next monitor has to know of a connection of LXC's."""

    #: Path of the socket by which it came.
    socket: str
    #: None before its first question.
    facts: Facts | None
    owner_userns: tuple[int, ...]
    #: Seconds since the epoch.
    since: float
    #: As in a :class:`Record`.
    came_by: str = ""


class Held:
    """A container that is served."""

    __slots__ = ("connections", "container", "facts", "listeners", "resolved", "since")

    def __init__(
        self, facts: Facts, container: Container, resolved: Resolved, since: float
    ) -> None:
        self.facts = facts
        self.container = container
        #: What holds for it.
        self.resolved = resolved
        #: By the names under which they are kept.
        self.listeners: dict[Listener, str] = {}
        #: Of LXC's monitor, which receives in our place.
        self.connections = 0
        #: Seconds since the epoch.
        self.since = since

    @property
    def key(self) -> Key:
        """See there."""
        return (self.facts.door, self.facts.uid, self.facts.id)
