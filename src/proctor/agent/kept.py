"""What an agent has kept for the next monitor, under which names: connections, what executors leave, and the
policies that hold."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from proctor.agent.held import KeptConnection
from proctor.agent.keeping import MOUNTS, PROGRESS, memory_of, read_memory
from proctor.agent.settings import SOCKET
from proctor.errors import ProctorError
from proctor.kernel.mounts import Mounts
from proctor.kernel.progress import Progress

if TYPE_CHECKING:
    from proctor.agent.held import Held
    from proctor.agent.keeping import Item, Keeping
    from proctor.agent.policies import Book

_BESIDE: Final = {"connection": "known", "silent": "arriving"}


class Keeps:
    """See the module.

    :param keeping: keeps it.
    :param book: says which policies hold.
    """

    def __init__(self, keeping: Keeping, book: Book) -> None:
        self._keeping = keeping
        self.book = book
        #: The last number that is in a name.
        self._number = 0
        #: Connections that have said all, though they may still be kept.
        self._said: set[str] = set()
        #: How often the texts of policies were kept.
        self._texts = 0

    def trouble(self, text: str, *, counted: bool = True) -> None:
        """Tell observers of trouble: :class:`~proctor.agent.agent.Agent`."""
        raise NotImplementedError

    def numbered(self, kind: str) -> str:
        """A name that nothing had."""
        self._number += 1
        return f"{kind} {self._number}"

    def numbered_before(self, item: Item) -> None:
        """An earlier monitor gave that name."""
        self._number = max(self._number, int(item.name.split()[1]))

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """Have descriptors kept for the next monitor; that they cannot be is trouble, no more."""
        try:
            self._keeping.keep(name, fds)
        except ProctorError as problem:
            self.trouble(str(problem))

    def keep_connection(
        self,
        sock: socket.socket,
        held: Held | None,
        *more: int,
        name: str = "",
        came_by: str = "",
    ) -> str:
        """Have a connection kept for the next monitor, with further descriptors; the name under which it is: what is known
        later of one that has a name is kept beside it, and nothing is let go for that.

        :param came_by: as what it was kept so far (:meth:`accept`)."""
        path = sock.getsockname()
        known = (
            KeptConnection(path, None, (), time.time(), came_by)
            if held is None
            else KeptConnection(path, held.facts, tuple(held.container.owner_userns), held.since)
        )
        memory = memory_of(msgspec.json.encode(known))
        if name:
            self.keep(beside(name), [memory])
        else:
            name = self.numbered("connection")
            self.keep(name, [sock.fileno(), memory, *more])
        os.close(memory)
        return name

    def keep_arriving(self, connection: str, boxed: int) -> None:
        """Have kept what has come by a silent connection: text and descriptors, in a box."""
        self.keep(beside(connection), [boxed])

    def accept(self, listening: socket.socket) -> tuple[socket.socket, str]:
        """Accept a connection, kept for the next monitor before anything is read from it; the name under which it is.

        :raises OSError: accept(2)'s."""
        name = self.numbered("silent")
        accepted = self._keeping.accept(SOCKET + listening.getsockname(), name)
        if accepted is None:
            connection, _ = listening.accept()
            self.keep(name, [connection.fileno()])
            return connection, name
        return accepted

    @property
    def is_owed(self) -> bool:
        """Whether :meth:`accept` is to be called again, a little later, even if nobody connects."""
        return getattr(self._keeping, "owes", False)

    def silent(self, item: Item) -> socket.socket | None:
        """A connection of an earlier monitor by which nothing came that is known by now; after all else was restored.  None:
        what came is."""
        self.numbered_before(item)
        sock = socket.socket(fileno=item.fds[0])
        if item.name not in self._said:
            sock.setblocking(False)
            return sock
        self.forget(item.name)
        sock.close()
        return None

    def connection(self, item: Item, known: dict[str, int]) -> KeptConnection:
        """What an earlier monitor knew of a connection that it had.

        :param known: memory that is kept beside connections, by name; ours is taken out."""
        self.numbered_before(item)
        later = known.pop(beside(item.name), None)
        said = read_memory(item.fds[1])
        self._said.add(msgspec.json.decode(said, type=KeptConnection).came_by)
        if later is not None:
            said = read_memory(later)
        for memory in (item.fds[1],) if later is None else (item.fds[1], later):
            os.close(memory)
        return msgspec.json.decode(said, type=KeptConnection)

    def progress_in(self, item: Item | None) -> Progress | None:
        """Where executors say how far they are; None, and trouble, if that is not to be had.

        :param item: where they said so to earlier monitors; ours from now on."""
        try:
            progress = Progress.create() if item is None else Progress(item.fds[0])
        except (OSError, ProctorError) as problem:
            self.trouble(
                f"what is performed when this monitor ends is not known to the next: {problem}"
            )
            return None
        if item is None:
            self.keep(PROGRESS, [progress.fd])
        return progress

    def mounts_in(self, item: Item | None) -> Mounts | None:
        """What earlier monitors mounted for containers, and where that is said from now on; what is none is let go.

        :param item: where that is said; ours from now on."""
        mounts = None
        try:
            mounts = None if item is None else Mounts(item.fds[0])
        except (OSError, ProctorError) as problem:
            self.trouble(f"what was mounted for containers is not known any more: {problem}")
            self.forget(MOUNTS)
        if mounts is None:
            try:
                mounts = Mounts.create()
            except OSError as problem:
                self.trouble(
                    f"what is mounted for containers is not known to the next monitor: {problem}"
                )
                return None
            self.keep(MOUNTS, [mounts.fd])
        return mounts

    def forget(self, name: str) -> None:
        """It is kept no longer, nor what is beside it."""
        try:
            self._keeping.forget(name)
            if name.split(maxsplit=1)[0] in _BESIDE:
                self._keeping.forget(beside(name))
        except ProctorError as problem:
            self.trouble(str(problem))

    def _keep_texts(self) -> None:
        """Under another name each time, and then what was before is let go: at no moment is there nothing."""
        before, self._texts = self._texts, self._texts + 1
        memory = memory_of(msgspec.json.encode(self.book.texts))
        self.keep(f"policies {self._texts}", [memory])
        os.close(memory)
        if before:
            self.forget(f"policies {before}")

    def restore_texts(self, items: Iterable[Item]) -> None:
        """Have the policies hold that an earlier monitor had; the items stay what they are."""
        texts = {_turn(item): item for item in items if item.name.split()[0] == "policies"}
        self._texts = max(texts, default=0)
        for turn in sorted(texts)[:-1]:  # whoever kept the last was ended before it let go of that
            self.forget(texts[turn].name)
        found = read_memory(texts[self._texts].fds[0]) if texts else b"{}"
        self.book.restore(msgspec.json.decode(found))


def beside(connection: str) -> str:
    """Under which name that is kept which was known later of a connection, or has come by one that was silent."""
    kind, number = connection.split()
    return f"{_BESIDE[kind]} {number}"


def _turn(item: Item) -> int:
    """Which time policies were kept; 0 where that was not said."""
    return int([*item.name.split(), "0"][1])
