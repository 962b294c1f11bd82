"""The door of OCI runtimes (runc, crun, youki, and who uses them): ``linux.seccomp.listenerPath``.

For each container, and for each program that is executed in one later, the runtime connects once and
sends one *container process state*: JSON, and with its first bytes the descriptors that its ``fds``
name.  It has no length before it, and may come in pieces (runtime-spec, config-linux.md, "The Container
Process State").

What runtimes make of that, and what has to be borne here:

* The connection should be closed after it, and runc before 1.3 leaves it open for as long as it runs.  So
  a state is complete where its JSON is.
* crun connects when a container is created and may send only when it is started, whenever that is; and
  connects, sends nothing and closes when a start fails.  So who is silent is bounded in number, not in
  time, and an empty connection is no mistake.
* The pids are as the runtime sees them, and 0 where it does not know; ``metadata`` and ``annotations``
  may be missing, ``null`` or empty; ``ociVersion`` says nothing.
* A runtime does not wait for us: its container may make calls before we know of it, and they wait.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Final, Protocol

import msgspec

from proctor.agent.doors.door import CONNECTIONS, Connection, Door, listener_among
from proctor.agent.doors.nesting import Nesting
from proctor.agent.facts import Facts
from proctor.agent.owners import Named
from proctor.agent.sockets import Peer
from proctor.errors import ProctorError
from proctor.kernel import scm
from proctor.words import quoted

#: Most bytes of one state.  Annotations of Kubernetes have at most 256 KiB, JSON writes a byte with at
#: most six.
LONGEST: Final = 4 << 20
#: Most bytes of all states that are arriving; beyond, the longest is given up.
_ALTOGETHER: Final = 32 << 20
#: What is read before others have their turn.
_PIECE: Final = 65536
#: Most bytes of a state that are left in its connection until all of it is there, so that the next monitor sees them as well, and
#: seconds for which they are: there may be no room for the rest (net.core.wmem_default).
_LEFT_THERE: Final = 64 << 10
_SOON: Final = 1.0
_SO_PEEK_OFF: Final = 42  # include/uapi/asm-generic/socket.h
_EDGES: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
#: Most characters of an id.
_LONGEST_ID: Final = 1024

#: The one name of a descriptor that the specification has.
_LISTENER: Final = "seccompFd"

Pid = Annotated[int, msgspec.Meta(ge=0, le=0x7FFFFFFF)]


class State(msgspec.Struct, rename="camel"):
    """State of a container (runtime-spec, runtime.md)."""

    id: str
    status: str = ""
    pid: Pid = 0
    bundle: str = ""
    annotations: dict[str, str] | None = None


class ContainerProcessState(msgspec.Struct, rename="camel"):
    """What comes with a listener (runtime-spec, config-linux.md)."""

    state: State
    fds: list[str] | None = None
    pid: Pid = 0
    metadata: str | None = None


_decoder = msgspec.json.Decoder(ContainerProcessState)


class Containers(Protocol):
    """Whose containers they are: the agent."""

    def admit(
        self, facts: Facts, listener: int, *, fresh: bool, process: Named, came_by: str
    ) -> object:
        """Take a listener in, and own it from then on.

        :param fresh: its container is just being made; otherwise a program is executed in one that may be known.
        :param came_by: as what the connection is kept by which it came.
        :raises ProctorError, OSError: it does not, and the listener is closed."""
        ...

    def forget(self, name: str) -> None:
        """It is kept no longer."""
        ...


def parse(data: bytes | bytearray) -> ContainerProcessState:
    """A container process state.

    >>> parse(b'{"fds": ["seccompFd"], "pid": 7, "state": {"id": "web"}}').state.id
    'web'

    :raises ProctorError: in a sentence.
    """
    try:
        found = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:
        raise ProctorError(f"what was sent is no container process state: {problem}") from None
    if not 0 < len(found.state.id) <= _LONGEST_ID:
        raise ProctorError(f"a container's id has 1 to {_LONGEST_ID} characters")
    return found


def take_listener(state: ContainerProcessState, fds: tuple[int | str, ...]) -> int:
    """Which of the descriptors is the listener; it and the others stay the caller's.

    :param fds: in the place of what is no listener, why.

    :raises ProctorError: none is, or what is named so is something else.
    """
    places = [place for place, name in enumerate(state.fds or ()) if name == _LISTENER]
    if len(places) != 1:
        raise ProctorError(
            f"fds names {quoted(_LISTENER)} {len(places)} times: it names one descriptor"
        )
    if places[0] >= len(fds):
        raise ProctorError(f"{len(fds)} descriptors came with the first bytes, fds names more")
    found = fds[places[0]]
    if isinstance(found, str):
        raise ProctorError(found)
    return found


class _Arriving(Connection):
    """A state on its way."""

    def __init__(self, door: OciDoor, sock: socket.socket, peer: Peer) -> None:
        super().__init__(door, sock, peer)
        self.door = door
        # what an earlier monitor saw is seen again
        sock.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
        #: What is looked at, and stays in the socket for the next monitor; None: what comes is taken out.
        self.seen: int | None = 0
        self.data = bytearray()
        #: Listeners; in the place of what else came, why that is none.
        self.fds: tuple[int | str, ...] = ()
        #: A pidfd of who sent the first bytes; -1 if that is not known.
        self.sender = -1
        self.started = False
        #: As what it is kept.
        self.name = ""
        #: Whether it is complete.
        self.nesting = Nesting()

    def read(self) -> None:
        message = self.receive(_PIECE, 0 if self.seen is None else socket.MSG_PEEK)
        if message is None:
            return
        if self.seen is not None:
            self.seen += len(message.data)
            if self.seen > _LEFT_THERE:
                self.take_out()
        if message.lost:
            self.door.refuse(self, "descriptors were sent that could not be received")
        elif not message.data and not message.fds:
            self.drop((), message.sender)
            self.door.look(self)
        else:
            if self.started:
                self.drop(
                    message.fds, message.sender
                )  # only what comes with the first bytes is named
            else:
                self.started, self.sender = True, message.sender
                self.door.began(self)
                self.fds = tuple(map(self._kept, message.fds))
                if not self.door.count(self, len(self.fds)):
                    return
            self.data += message.data
            self.door.grew(self, message.data)
            self.door.read_on(self)

    def _kept(self, fd: int) -> int | str:
        """A listener; or why it is none.  What else came is closed at once: while it is open here, whoever serves it
        can hold up every process that we start, whose exec closes it there."""
        try:
            return listener_among((fd,), 0)
        except ProctorError as problem:
            self.drop([fd])
            return str(problem)

    def take_out(self) -> None:
        """What was looked at stays there no longer, nor does what comes now."""
        seen, self.seen = self.seen or 0, None
        with suppress(OSError):
            while seen > 0:
                message = scm.receive(self.sock, min(seen, _PIECE), 0, self._dropped)
                self._dropped(message)
                seen -= len(message.data) or seen

    def _dropped(self, message: scm.Message) -> None:
        self.drop(message.fds, message.sender)

    def close(self) -> None:
        super().close()
        self.drop([fd for fd in self.fds if not isinstance(fd, str)], self.sender)
        self.fds, self.sender = (), -1


class OciDoor(Door[_Arriving]):
    """Reads container process states from the connections of one socket.

    :param containers: whose they are.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        containers: Containers,
        refused: Callable[[str], object],
        *,
        connections: int = CONNECTIONS,
    ) -> None:
        super().__init__(loop, path, refused, most=connections)
        self._containers = containers
        self._bytes = 0
        #: By descriptor: told once of what comes, since it stays there.
        self._watched: dict[int, _Arriving] = {}
        self._edges = select.epoll()
        loop.add_reader(self._edges, self._came)

    def connected(self, sock: socket.socket, peer: Peer, name: str = "") -> None:
        """Take a new connection, or one of an earlier monitor's, which is ours from now on.

        :param name: as what it is kept."""
        arriving = _Arriving(self, sock, peer)
        arriving.name = name
        if self.take(arriving):
            self.read(arriving)

    def read(self, connection: _Arriving) -> None:
        """See :meth:`Door.read`."""
        self._watched[connection.sock.fileno()] = connection
        self._edges.register(connection.sock, _EDGES)

    def _came(self) -> None:
        for fd, _ in self._edges.poll(0):
            arriving = self._watched.get(fd)
            if arriving is not None:
                arriving.read()

    def began(self, arriving: _Arriving) -> None:
        """Its first bytes are there: what is not whole soon may wait for room in its socket."""
        self._loop.call_later(_SOON, self._take_out, arriving)

    def _take_out(self, arriving: _Arriving) -> None:
        if arriving in self._connections:
            arriving.take_out()

    def read_on(self, arriving: _Arriving) -> None:
        """There may be more, of which nobody tells again; others have their turn before."""
        if arriving in self._connections:
            self._loop.call_soon(self._read_on, arriving)

    def _read_on(self, arriving: _Arriving) -> None:
        if arriving in self._connections:
            arriving.read()

    def close(self) -> None:
        """See :meth:`Door.close`; idempotent."""
        super().close()
        if not self._edges.closed:
            self._loop.remove_reader(self._edges)
            self._edges.close()

    def grew(self, arriving: _Arriving, more: bytes) -> None:
        """These bytes of it have come."""
        self._bytes += len(more)
        if len(arriving.data) > LONGEST:
            self.refuse(arriving, f"its state is longer than {LONGEST} bytes")
        elif self._bytes > _ALTOGETHER:
            longest = max(self._connections, key=lambda each: len(each.data))
            self.refuse(longest, "too much is arriving, and its state is the longest")
        if arriving in self._connections and arriving.nesting.ends_with(more):
            self.look(arriving)

    def leave(self, connection: _Arriving) -> None:
        """It is over."""
        name, connection.name = connection.name, ""
        if name:
            self._containers.forget(name)  # whose close is not the last
        if connection in self._connections:
            self._bytes -= len(connection.data)
            if self._watched.pop(connection.sock.fileno(), None) is not None:
                self._edges.unregister(connection.sock)
            connection.take_out()  # else its peer would be told that it was not read
        super().leave(connection)

    def look(self, arriving: _Arriving) -> None:
        """It is complete, or its peer has said all."""
        if not arriving.started:  # a start that failed early
            self.leave(arriving)
            return
        try:
            state = parse(arriving.data)
            listener = take_listener(state, arriving.fds)
            said = state.state
            facts = Facts(
                door="oci",
                socket=self._path,
                uid=arriving.peer.uid,
                id=said.id,
                metadata=state.metadata or "",
                annotations=said.annotations or {},
                pid=said.pid,
                bundle=said.bundle,
            )
        except ProctorError as problem:
            self.refuse(arriving, str(problem))
            return
        arriving.fds = tuple(fd for fd in arriving.fds if fd != listener)
        try:
            # crun names no process of an exec, and has that process itself send this
            fresh = said.status != "running"
            if not state.pid:
                named = Named.by_pidfd(arriving.sender)
                self._containers.admit(
                    facts, listener, fresh=fresh, process=named, came_by=arriving.name
                )
            else:
                with Named.said(state.pid, arriving.sock, said.id) as named:
                    self._containers.admit(
                        facts, listener, fresh=fresh, process=named, came_by=arriving.name
                    )
        except (ProctorError, OSError) as problem:
            self.refuse(arriving, f"container {quoted(said.id)}: {problem}")
            return
        self.leave(arriving)
