"""systemd as the keeper: its descriptor store, readiness, and watchdog (sd_notify(3), "File Descriptor
Store" of systemd.io).

The service manager keeps descriptors by name while a service is down, and gives them to its next process.
Each of ours has the name of its item and its place in there; a listener that nobody uses any more leaves
the store by itself, since the manager drops what hangs up: so what a runtime may have said all by, and closed, is in a box there.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import quote, unquote

from proctor.agent.keeping import VERSION, Item, box, look_into, memory_of, otherwise
from proctor.errors import ProctorError
from proctor.kernel import scm

#: First descriptor that is handed on (SD_LISTEN_FDS_START).
_FIRST: Final = 3
#: Seconds in which the manager confirms what it has read.
_PATIENCE: Final = 5.0
#: Item that says by its name of which version the others are.
_VERSION: Final = "version"
_PARTS: Final = {
    "listener": 3, "alive": 1, "connection": 3, "known": 1, "silent": 1, "arriving": 1, "socket": 1, "policies": 1, "progress": 1, "mounts": 1, "below": 2, "inner": 3,
    "marks": 1,
}  # fmt: skip


class Store:
    """The descriptor store of the service that we are.

    :param environ: has ``NOTIFY_SOCKET``, and ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES`` for what
        is in the store.
    :raises ProctorError: there is no service manager.
    """

    #: What is there is left there at the end: a restart goes on with it, a stop drops it.
    leaves = True

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            raise ProctorError("no service manager started this (NOTIFY_SOCKET is not set)")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._sock.connect("\0" + address[1:] if address[0] == "@" else address)
        except OSError as problem:
            self._sock.close()
            raise ProctorError(f"NOTIFY_SOCKET={address}: {problem.strerror}") from None
        self._items = _handed(environ)
        seconds = int(environ.get("WATCHDOG_USEC", "0") or 0) / 1e6
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        #: Seconds between signs of life that the manager wants; None: it wants none.
        self.watchdog = seconds / 2 if seconds and mine else None

    def first(self) -> bool:
        """Whether there was no monitor before us.

        :raises ProctorError: whoever was is of another version; the manager still has all."""
        versions = [item.name.partition(" ")[2] for item in self._items if _is_version(item)]
        kept = {item.name.split()[0] for item in self._items} & _PARTS.keys() - {"socket"}
        strange = [each for each in versions if each != str(VERSION)]
        if strange or (kept and not versions):
            version = strange[0] if strange else None
            raise ProctorError(
                otherwise("what the service manager keeps", version, "this monitor")
                + ", which takes nothing over: it waits for the proctor that left it; systemctl stop lets it go"
            )
        return not kept & {"listener", "policies"}

    def take_over(self) -> list[Item]:
        """What there is."""
        items, self._items = self._items, []
        whole = []
        said = False
        for item in items:
            if len(item.fds) == _PARTS.get(item.name.split()[0], 0):
                whole.append(_out_of_box(item) if _is_boxed(item.name) else item)
                continue
            item.close()
            if _is_version(item) and not said:
                said = True  # it stays: at no moment is what is there without it
            else:  # nobody uses its filter any more, or it is none of ours
                self.forget(item.name)
        if not said:
            memory = memory_of(b"")
            with suppress(ProctorError):  # told of what is kept next
                self.keep(f"{_VERSION} {VERSION}", [memory])  # before anything of it is there
            os.close(memory)
        return whole

    def serves(self) -> None:
        """Say that we do."""
        self._tell("READY=1")

    def renew(self) -> None:
        """As :class:`~proctor.agent.keeping.Keeping`."""
        raise ProctorError(
            "the service manager keeps this agent's listeners: systemctl restart has the next monitor take over"
        )

    def lives(self) -> None:
        """A sign of life."""
        self._tell("WATCHDOG=1")

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """As :class:`~proctor.agent.keeping.Keeping`, of a name that nothing has: what is there already, under whatever name,
        the manager does not take again, so that who would have one in the place of another would have to let go first."""
        boxed = [box(b"", fds)] if _is_boxed(name) else []
        try:
            for part, fd in enumerate(boxed or fds):
                self._tell(f"FDSTORE=1\nFDNAME={_stored(name, part)}", fd)
        finally:
            for fd in boxed:
                os.close(fd)
        self._barrier()

    def accept(self, of: str, name: str) -> None:
        """As :class:`~proctor.agent.keeping.Keeping`: the manager does not."""

    def forget(self, name: str) -> None:
        """As :class:`~proctor.agent.keeping.Keeping`."""
        for part in range(_PARTS.get(name.split(maxsplit=1)[0], 1)):
            self._tell(f"FDSTOREREMOVE=1\nFDNAME={_stored(name, part)}")

    def _barrier(self) -> None:
        """Return once the manager has read all that was told."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            self._tell("BARRIER=1", theirs)
        finally:
            os.close(theirs)
        poll = select.poll()
        poll.register(ours, 0)
        read = poll.poll(_PATIENCE * 1000)
        os.close(ours)
        if not read:
            raise ProctorError(
                "the service manager does not read what it is to keep; what is in flight when this monitor "
                "ends may be lost"
            )

    def _tell(self, text: str, *fds: int) -> None:
        try:
            scm.send(self._sock, text.encode(), fds)
        except OSError as problem:
            raise ProctorError(f"the service manager cannot be told: {problem.strerror}") from None


def _is_version(item: Item) -> bool:
    return item.name.partition(" ")[0] == _VERSION


def _is_boxed(name: str) -> bool:
    return name.startswith("silent ")


def _out_of_box(item: Item) -> Item:
    (kept,) = item.fds
    with socket.socket(fileno=os.dup(kept)) as sock:
        if sock.type != socket.SOCK_DGRAM:  # of a monitor that had none
            return item
    taken = Item(item.name, look_into(kept).fds)
    item.close()
    return taken


def _stored(name: str, part: int) -> str:
    """As a name in the store: without colons and control characters."""
    return f"{quote(name, safe='/ ')}@{part}"


def _handed(environ: Mapping[str, str]) -> list[Item]:
    """What was handed on, by item."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, dict[int, int]] = {}
    for number, stored in enumerate(names[: int(environ.get("LISTEN_FDS", "0"))]):
        fd = _FIRST + number
        os.set_inheritable(fd, False)
        name, _, part = stored.rpartition("@")
        if not name or not part.isdigit():  # a socket unit's
            name, part = _socket_name(fd) or stored, "0"
        old = found.setdefault(unquote(name), {}).pop(int(part), None)
        if old is not None:
            os.close(old)
        found[unquote(name)][int(part)] = fd
    return [Item(name, tuple(fds[part] for part in sorted(fds))) for name, fds in found.items()]


def _socket_name(fd: int) -> str:
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            path = sock.getsockname()
    except OSError:
        return ""
    return f"socket {path}" if isinstance(path, str) and path.startswith("/") else ""
