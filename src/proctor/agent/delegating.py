"""Supervisors below commands that an agent serves: a ``proctor run`` in one registers over a socket that the
command inherits (:mod:`proctor.process.below`).

What is known of them outlives a monitor.  Three kinds of things are kept for a listener: our end of that socket
(``below listener N``), each supervisor (``inner listener N K``), and what all of them ever wanted, by the
filters of their commands (``marks listener N K``).  The last are no sockets, so whoever keeps them has them in any
case: what is left of a supervisor that ended while nobody looked is known by them, and gets ENOSYS.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from proctor.agent.keeping import memory_of, read_memory
from proctor.kernel.closing import closers
from proctor.process.below import Below, Memory
from proctor.process.inner import Inner, Rank
from proctor.records import NamedTuple
from proctor.syscalls import tables

if TYPE_CHECKING:
    from proctor.agent.keeping import Item
    from proctor.agent.kept import Keeps
    from proctor.supervisor.container import Container
    from proctor.supervisor.supervisor import Supervisor

#: Seconds between looks at the registrations of a command.
_PAUSE: Final = 0.005
#: Most supervisors below the commands of one user, and of all together; each has descriptors here and with the keeper.
_EACH: Final = 256
_ALL: Final = 1024
#: Registrations that are looked at before others have their turn.
_AT_ONCE: Final = 4
_BELOW, _INNER, _MARKS = "below", "inner", "marks"


class Way(NamedTuple):
    """By which those below a command register."""

    #: Ours to receive from, and to close.
    sock: socket.socket
    #: Calls about which the command's filter has us asked, always.
    seen: frozenset[str]
    #: Filters that every process of it has.
    base: int


class _Marks(msgspec.Struct):
    """Filters that all have, and what is wanted of those who have so many at least."""

    base: int
    calls: Mapping[int, frozenset[str]]


class _Kept(Memory):
    """Of one listener: tells the keeper."""

    def __init__(self, keeping: Keeps, listener: str, base: int = 0) -> None:
        self._keeping = keeping
        self._listener = listener
        self.base = base
        self.count = 0
        #: Names under which something is kept.
        self.marks = ""
        self.inners: dict[Inner, str] = {}
        self.names: set[str] = set()

    def keep(self, kind: str, what: object, *fds: int) -> str:
        """Keep descriptors, and what belongs to them."""
        self.count += 1
        name = f"{kind} {self._listener} {self.count}"
        memory = memory_of(msgspec.json.encode(what))
        try:
            self._keeping.keep(name, [*fds, memory])
        finally:
            os.close(memory)
        self.names.add(name)
        return name

    def forget(self, name: str) -> None:
        """Keep that no longer."""
        if name in self.names:
            self.names.discard(name)
            self._keeping.forget(name)

    def marked(self, marks: Mapping[int, frozenset[str]]) -> None:
        """As :class:`Memory`: the new ones are there before the old ones go."""
        old, self.marks = self.marks, self.keep(_MARKS, _Marks(self.base, marks))
        self.forget(old)

    def took_in(self, inner: Inner) -> None:
        """As :class:`Memory`."""
        self.inners[inner] = self.keep(_INNER, inner.rank, inner.sock.fileno(), inner.pidfd)

    def buried(self, inner: Inner) -> None:
        """As :class:`Memory`."""
        self.forget(self.inners.pop(inner, ""))


class _Delegated:
    """One command: its way is read by the loop, a few registrations at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket | None,
        kept: _Kept,
        below: Below,
        user: str,
    ) -> None:
        self.user = user
        self._loop = loop
        self._sock = sock
        self.kept = kept
        self.below = below
        self._closed = False
        if sock is not None:
            loop.add_reader(sock, self._knocked)

    def _knocked(self) -> None:
        sock = self._sock
        assert sock is not None
        strange = self.below.knocked(sock, _AT_ONCE)
        self._loop.remove_reader(sock)
        if strange:
            closers.close(strange, then=self._closed_them)
        elif strange is not None:
            self._loop.call_later(_PAUSE, self._again)

    def _closed_them(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._again)
        except RuntimeError:
            pass  # the loop is closed

    def _again(self) -> None:
        if not self._closed and self._sock is not None:
            self._loop.add_reader(self._sock, self._knocked)

    def close(self) -> None:
        """The command is over."""
        self._closed = True
        for name in list(self.kept.names):  # first: the last close of all is not the keeper's
            self.kept.forget(name)
        over = self.below.close()
        if self._sock is not None:
            self._loop.remove_reader(self._sock)
            over.append(self._sock.detach())
        closers.close(over)


class Delegations:
    """Has those below asked, by the names of their commands' listeners; all on the thread of the loop.

    :param keeping: keeps what the next monitor needs.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, keeping: Keeps, supervisor: Supervisor
    ) -> None:
        self._loop = loop
        self._keeping = keeping
        self._supervisor = supervisor
        self._of: dict[str, _Delegated] = {}
        #: What an earlier monitor left, by listener.
        self._items: dict[str, list[Item]] = defaultdict(list)

    def begin(self, listener: str, way: Way, container: Container) -> None:
        """Take those in that register by a way, from now on ours: before the listener is served."""
        kept = _Kept(self._keeping, listener, way.base)
        try:
            kept.keep(_BELOW, (way.seen, way.base), way.sock.fileno())
        except BaseException:
            closers.close([way.sock.detach()])
            raise
        full = functools.partial(self._full, container.labels["uid"])
        below = Below(_seen(way.seen), way.base, kept, full=full)
        self._serve(listener, way.sock, kept, container, below)

    def _serve(
        self,
        listener: str,
        sock: socket.socket | None,
        kept: _Kept,
        container: Container,
        below: Below,
    ) -> None:
        below.on_first = lambda: self._supervisor.reroute(container)
        container.below = below
        user = container.labels["uid"]
        self._of[listener] = _Delegated(self._loop, sock, kept, below, user)

    def _full(self, user: str) -> str:
        """Why no more of a user's are taken in; "" if they are."""
        every = list(self._of.values())
        of_user = [each for each in every if each.user == user]
        for most, whose, of in ((_EACH, f"those of user {user}", of_user), (_ALL, "all", every)):
            if sum(each.below.count for each in of) >= most:
                for each in of:
                    closers.close(each.below.bury())
                if sum(each.below.count for each in of) >= most:
                    return f"{most} are below {whose} already"
        return ""

    def collect(self, item: Item) -> bool:
        """Take what an earlier monitor left, until its listener comes; False if it is nothing of ours."""
        words = item.name.split()
        if len(words) != 4 or words[0] not in (_BELOW, _INNER, _MARKS):
            return False
        self._items[" ".join(words[1:3])].append(item)
        return True

    def restore(self, listener: str, container: Container) -> None:
        """Go on for a listener that is about to be served again.

        :raises ProctorError, OSError, ValueError: what was kept is no such thing, and nobody is to be served by
            half of it."""
        items = self._items.pop(listener, [])
        if not items:
            return
        kept = _Kept(self._keeping, listener)
        sock: socket.socket | None = None
        seen: frozenset[str] = frozenset()
        marks: dict[int, frozenset[str]] = {}
        inners: list[Inner] = []
        for item in items:
            kind, _, _, number = item.name.split()
            kept.count = max(kept.count, int(number))
            kept.names.add(item.name)
            *fds, memory = item.fds
            data = read_memory(memory)
            os.close(memory)
            if kind == _BELOW:
                seen, kept.base = msgspec.json.decode(data, type=tuple[frozenset[str], int])
                sock = socket.socket(fileno=fds[0])
            elif kind == _MARKS:  # two, if it was just being replaced
                known = msgspec.json.decode(data, type=_Marks)
                kept.base = known.base
                for least, calls in known.calls.items():
                    marks[least] = marks.get(least, frozenset()) | calls
                kept.marks = item.name
            else:
                rank = msgspec.json.decode(data, type=Rank)
                inner = Inner(rank, socket.socket(fileno=fds[0]), fds[1])
                inners.append(inner)
                kept.inners[inner] = item.name
        full = functools.partial(self._full, container.labels["uid"])
        below = Below(_seen(seen), kept.base, kept, marks, inners, full)
        self._serve(listener, sock, kept, container, below)

    def close(self, listener: str) -> None:
        """Its command is over."""
        delegated = self._of.pop(listener, None)
        if delegated is not None:
            delegated.close()

    def close_all_but(self, listeners: Iterable[str] = ()) -> None:
        """So are those of others than these listeners."""
        for each in self._of.keys() - set(listeners):
            self.close(each)
        for items in self._items.values():
            for item in items:
                item.close()
                self._keeping.forget(item.name)
        self._items.clear()


def _seen(names: frozenset[str]) -> Callable[[str], bool]:
    return lambda name: name in names or not tables.exists(name)
