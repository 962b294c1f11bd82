"""What outlives a monitor: descriptors by name, with whoever keeps them while a monitor is replaced.

Eight things are kept: sockets on which runtimes connect (``socket PATH``); connections, those by which nothing came that is known yet
(``silent N``), and LXC's (``connection N``); what has come by one, and is not all of it (``arriving N``); for each listener
(``listener N``) the listener, its journal (:mod:`proctor.kernel.journal`) and a memfd that says whose it
is; how far executors are (``progress``: :mod:`proctor.kernel.progress`); what was mounted for containers (``mounts``:
:mod:`proctor.kernel.mounts`); what is known of supervisors below
(:mod:`proctor.agent.delegating`); and the texts of the policies that hold (``policies N``), should those on disk be no policies
when the next monitor comes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, Protocol

from proctor.errors import ProctorError
from proctor.kernel import scm
from proctor.records import NamedTuple

#: Version of what a keeper and a monitor say to each other, and of what is kept: the names of items, what their descriptors
#: are, and what is in the memory of those (but for journals, which say their own).  Another one where one of two programs
#: would not understand the other; a field more, which may be missing, is none.  An upgrade changes monitors, and the keeper
#: stays: who is of another version serves nothing, so that whoever serves goes on.
VERSION: Final = 1
#: Seconds in which a keeper confirms what it keeps.
_PATIENCE: Final = 5.0
#: Bytes of what a keeper and a monitor tell each other.
LONGEST: Final = 4096
#: What executors' progress is kept as.
PROGRESS: Final = "progress"
#: What is known of mounts is kept as.
MOUNTS: Final = "mounts"
#: Descriptors for which a monitor's table has room from the beginning; 128 KiB of the kernel's memory.
_ROOM: Final = 16384
#: What tells a monitor to leave what it serves to the next one, and to end.
HAND_OVER: Final = signal.SIGUSR1


def otherwise(who: str, version: object, mine: str) -> str:
    """That one is of another version, in a sentence."""
    theirs = "no version" if version is None else f"version {version}"
    return f"{who} has {theirs} of what keepers and monitors say to each other, {mine} version {VERSION}"


class Item(NamedTuple):
    """Descriptors that were kept under a name; whoever is given it owns them."""

    name: str
    fds: tuple[int, ...]

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.fds:
            os.close(fd)


def together(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items that fit into one message each, in order: thousands are to be with the next monitor at once."""
    some: list[Item] = []
    names = fds = 0
    for item in items:
        names += 6 * len(item.name) + 16  # as JSON has it, at most
        fds += len(item.fds)
        if some and (names > LONGEST - 16 or fds > scm.MOST):
            yield some
            some, names, fds = [], 6 * len(item.name) + 16, len(item.fds)
        some.append(item)
    if some:
        yield some


class Keeping(Protocol):
    """Keeps copies of descriptors; they stay the caller's as well."""

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """Keep these under a name that nothing has; it returns once that is certain.

        :raises ProctorError: they are not kept, and why."""
        ...

    def accept(self, of: str, name: str) -> tuple[socket.socket, str] | None:
        """Accept a connection in our place and keep it under a name, so that it is never ours alone: it, and its name, which is
        another one if it was asked for before.  None: we are to accept it ourselves.

        :param of: as what the listening socket is kept.
        :raises OSError: accept(2)'s."""
        ...

    def forget(self, name: str) -> None:
        """Let go what has that name, if anything has."""
        ...

    def renew(self) -> None:
        """Begin to replace us by a new monitor.

        :raises ProctorError: that is not to be had here."""
        ...


class Nobody:
    """Keeps nothing: with the monitor all is lost."""

    def renew(self) -> None:
        """As :class:`Keeping`."""
        raise ProctorError(
            "nobody keeps this agent's listeners (--keeper none), so that no other monitor can take over"
        )

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """As :class:`Keeping`."""

    def accept(self, of: str, name: str) -> None:
        """As :class:`Keeping`."""

    def forget(self, name: str) -> None:
        """As :class:`Keeping`."""


class Keeper(Keeping, Protocol):
    """Whoever had what earlier monitors left, and keeps what the next one needs."""

    @property
    def leaves(self) -> bool:
        """Whether what is kept is left as it is when this monitor is ended in order."""
        ...

    def first(self) -> bool:
        """Whether there was no monitor before us."""
        ...

    def take_over(self) -> list[Item]:
        """What there is, once nobody else has it."""
        ...

    def serves(self) -> None:
        """Say that we do."""
        ...


class KeptBy:
    """Kept by our parent (:mod:`proctor.agent.keeper`), at the other end of a SEQPACKET socket."""

    leaves = False

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.settimeout(_PATIENCE)
        self._gone = False
        #: Numbers of the last question, and of the last one that was answered.
        self._asked = self._answered = 0
        #: Whether it accepts connections for us; those of which it told late: by which listening socket they came, and their name.
        self._accepts = False
        self._late: list[tuple[str, socket.socket, str]] = []

    def first(self) -> bool:
        """Whether there was no monitor before us.

        :raises ProctorError: the keeper is of another version: whoever serves is to go on."""
        word = self._receive()[0]
        if word.get("version") != VERSION:
            with suppress(OSError):
                scm.send(self._sock, json.dumps({"refuses": VERSION}).encode())
            raise ProctorError(
                otherwise("this agent's keeper", word.get("version"), "the monitor")
                + ", which takes nothing over: the keeper is of another proctor than is on disk now, and is replaced by "
                "an end of the agent and a new beginning"
            )
        self._accepts = "accepts" in word  # a field more than the first of them said
        return bool(word["first"])

    def take_over(self) -> list[Item]:
        """Say that we are ready, and be given what there is, once nobody else has it."""
        self._sock.settimeout(None)  # until whoever we replace has ended, or for ever as a spare
        scm.send(self._sock, json.dumps({"ready": True, "version": VERSION}).encode())
        items: list[Item] = []
        while True:
            word, fds = self._receive()
            self._sock.settimeout(_PATIENCE)
            if "items" not in word:
                return items
            given = iter(fds)
            items += [Item(name, tuple(islice(given, many))) for name, many in word["items"]]

    def serves(self) -> None:
        """Say that we do: from now on our end is no mistake of whoever started us."""
        scm.send(self._sock, b'{"serves": true}')

    def renew(self) -> None:
        """As :class:`Keeping`."""
        try:
            scm.send(self._sock, b'{"renew": true}')
        except OSError as problem:
            raise ProctorError(f"this agent's keeper is gone: {problem.strerror}") from None

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """As :class:`Keeping`."""
        if self._gone:
            return  # that was said once
        try:
            kept = self._ask({"keep": name}, fds)[0]["kept"]
        except (TimeoutError, BlockingIOError):
            raise ProctorError(
                f"{name} may not be kept: the keeper does not answer; should this monitor end before it does, what "
                "is in flight there is lost"
            ) from None
        except OSError as problem:
            self._gone = True
            raise ProctorError(
                f"nobody keeps the listeners any more: {problem}; what is in flight when this monitor "
                "ends is lost"
            ) from None
        if not kept:
            raise ProctorError(
                f"{name} is not kept: the keeper may have no more descriptors (ulimit -Hn); what is in flight there "
                "when this monitor ends is lost"
            )

    def accept(self, of: str, name: str) -> tuple[socket.socket, str] | None:
        """As :class:`Keeping`."""
        if self._gone or not self._accepts:
            return None
        try:
            self._catch_up()
            for late in self._late:
                if late[0] == of:  # another one has users of its own, and hears something else
                    self._late.remove(late)
                    return late[1:]
            answer, fds = self._ask({"accept": of, "as": name})
        except (TimeoutError, BlockingIOError):
            return None  # what it accepts later comes with a later one
        except OSError:
            self._gone = True
            return None
        if fds:
            return socket.socket(fileno=fds[0]), name if answer.get("kept", True) else ""
        if answer["accepted"] == errno.EAGAIN:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return None  # it has no room, or not this socket

    @property
    def owes(self) -> bool:
        """Whether something was asked that is not answered, or was late: :meth:`accept` is to be called again."""
        return not self._gone and (self._answered < self._asked or bool(self._late))

    def forget(self, name: str) -> None:
        """As :class:`Keeping`; the keeper has closed it then: its close is not the last one, which may wait, while
        ours is open."""
        if self._gone:
            return
        try:
            self._ask({"forget": name})
        except (TimeoutError, BlockingIOError):
            pass  # it will, once it goes on
        except OSError:
            self._gone = True

    def _ask(
        self, word: dict[str, object], fds: Sequence[int] = ()
    ) -> tuple[dict[str, Any], tuple[int, ...]]:
        """The keeper's answer, and what came with it.  One that stands still (stopped, or a machine without time for it) is waited for once, and
        asked on: what it has not answered it answers later.

        :raises OSError: TimeoutError or BlockingIOError: it does not answer; else it is gone."""
        self._catch_up()
        if self._answered == self._asked:
            self._sock.settimeout(_PATIENCE)
        number = self._asked + 1
        scm.send(self._sock, json.dumps({**word, "number": number}).encode(), fds)
        self._asked = number
        while True:
            answer, came = self._answer()
            if self._answered == number:
                return answer, came
            self._was_late(answer, came)

    def _catch_up(self) -> None:
        """Take the answers that came late."""
        self._sock.settimeout(0)
        with suppress(BlockingIOError):
            while self._answered < self._asked:
                self._was_late(*self._answer())

    def _was_late(self, answer: dict[str, Any], fds: tuple[int, ...]) -> None:
        for fd in fds:  # which came with a connection that was accepted
            name = answer["as"] if answer.get("kept", True) else ""
            self._late.append((answer["accept"], socket.socket(fileno=fd), name))

    def _answer(self) -> tuple[dict[str, Any], tuple[int, ...]]:
        answer, fds = self._receive()
        self._answered = answer["number"]
        return answer, fds

    def _receive(self) -> tuple[dict[str, Any], tuple[int, ...]]:
        message = scm.receive(self._sock, LONGEST)
        if not message.data:
            raise ConnectionResetError("the keeper is gone")
        word: dict[str, Any] = json.loads(message.data)
        return word, message.fds


def memory_of(data: bytes) -> int:
    """A memfd with the data; the caller's."""
    fd = os.memfd_create("proctor-record", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd


def read_memory(fd: int) -> bytes:
    """What is in a memfd."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


def box(data: bytes, fds: Sequence[int]) -> int:
    """A socket in which there is a message with copies of descriptors, whatever becomes of these: so they are kept as one; the
    caller's.

    :raises OSError: they cannot be sent."""
    made, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, made:
        scm.send(sender, data, fds, socket.MSG_DONTWAIT)
        return made.detach()


def look_into(box: int) -> scm.Message:
    """What is in a box, and stays there as well.

    :raises OSError: nothing is."""
    with socket.socket(fileno=os.dup(box)) as sock:
        return scm.receive(sock, flags=socket.MSG_PEEK | socket.MSG_DONTWAIT)


def make_room(most: int) -> None:
    """Have the kernel make the table of our descriptors as large as some thousand containers need, which it does at once for
    a process of one thread.  Where there are several, it waits for all processors each time that the table is doubled
    (``expand_fdtable`` of fs/file.c, synchronize_rcu()): half a second, while callers wait, for a spare that is given the
    descriptors of a thousand containers."""
    with socket.socket(socket.AF_UNIX) as any_one:
        os.close(fcntl.fcntl(any_one, fcntl.F_DUPFD_CLOEXEC, min(most, _ROOM) - 1))


def raise_limits() -> int:
    """As many open files as we may have, and how many that is: each listener is one, and three with a keeper."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
