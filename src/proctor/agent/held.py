"""Containers that are served: what is held of each, and what the next monitor has to know of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from proctor.agent.facts import Facts
from proctor.agent.owners import is_trusted
from proctor.errors import ProctorError
from proctor.kernel.mounts import KEY

if TYPE_CHECKING:
    from proctor.agent.policies import Resolved
    from proctor.kernel.listener import Listener
    from proctor.supervisor.container import Container

#: Most listeners of one user who is not trusted, each of which has three descriptors with the keeper, and three and more here.  He need
#: not have as many processes: copies of one listener come as well.
LISTENERS: Final = 1024
#: Most bytes of what is known of them: annotations can be megabytes, here and with the keeper, for each.
BYTES: Final = 32 << 20
#: What an annotation takes besides its bytes: two objects and their place.
_TEXTS: Final = 128
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


def weight(facts: Facts) -> int:
    """Bytes of these facts, as they are kept; short texts take more here."""
    return len(msgspec.json.encode(facts)) + _TEXTS * len(facts.annotations)


class Shares:
    """How many listeners are served of each user, and how much is known of them, so that nobody's take the descriptors or the
    memory of all."""

    def __init__(self) -> None:
        self._of: Counter[int] = Counter()
        self._bytes: Counter[int] = Counter()

    def see(self, uid: int, weight: int) -> None:
        """See that one more of that user's may be served, of which so many bytes are known.

        :raises ProctorError: he has as many as he may."""
        if is_trusted(uid):
            return
        if self._of[uid] >= LISTENERS:
            raise ProctorError(f"this user has {LISTENERS} listeners, and gets no more")
        if self._bytes[uid] + weight > BYTES:
            raise ProctorError(
                f"what is said of this user's containers is longer than {BYTES} bytes together"
            )

    def count(self, uid: int, more: int, weight: int) -> None:
        """So many more are, or less, of each of which so many bytes are known."""
        self._of[uid] += more
        self._bytes[uid] += more * weight
        if not self._of[uid]:
            del self._of[uid], self._bytes[uid]


class Held:
    """A container that is served."""

    __slots__ = ("connections", "container", "facts", "listeners", "resolved", "since", "weight")

    def __init__(
        self, facts: Facts, container: Container, resolved: Resolved, since: float
    ) -> None:
        self.facts = facts
        self.weight = weight(facts)
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
