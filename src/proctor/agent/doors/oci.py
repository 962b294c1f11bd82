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

import os
import socket
from contextlib import nullcontext, suppress
from typing import Annotated, Final

import msgspec

from proctor.agent.doors.door import Connection, Door, listener_among
from proctor.agent.doors.nesting import Nesting
from proctor.agent.doors.text import Text, memory_for
from proctor.agent.facts import Facts
from proctor.agent.keeping import box, look_into
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


class _Came(msgspec.Struct):
    """What is in a box behind a text's memory."""

    #: Of each descriptor that came, why it is no listener, and not there; "": it is.
    whys: list[str]
    #: Whether the last is a pidfd of who sent them.
    sender: bool


_decoder = msgspec.json.Decoder(ContainerProcessState)


def parse(data: bytes) -> ContainerProcessState:
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
    """A state on its way.

    What comes is taken out of the connection only where the next monitor finds it: text in memory, and that with descriptors
    and who sent them in a box.

    :param name: as what the connection is kept."""

    def __init__(self, door: OciDoor, sock: socket.socket, peer: Peer, name: str) -> None:
        super().__init__(door, sock, peer)
        self.door = door
        self.name = name
        #: None: nothing has come.
        self.text: Text | None = None
        #: Listeners; in the place of what else came with the first bytes, why that is none.
        self.fds: tuple[int | str, ...] = ()
        #: A pidfd of who sent the first bytes; -1 if that is not known.
        self.sender = -1
        #: Bytes that were looked at and are in the connection still.
        self.unread = 0
        #: Whether it is complete.
        self.nesting = Nesting()

    @property
    def length(self) -> int:
        """Bytes that have come."""
        return 0 if self.text is None else self.text.length

    def read(self) -> None:
        message = self.receive(_PIECE, socket.MSG_PEEK)
        if message is None:
            return
        if message.lost:
            self.door.refuse(self, "descriptors were sent that could not be received")
        elif not message.data and not message.fds:
            self._dropped(message)
            self.door.look(self, None if self.text is None else bytes(self.text))
        elif self.text is None:
            self._begin(message)
        else:
            self._dropped(message)  # only what comes with the first bytes is named
            self._take(len(message.data))

    def _begin(self, message: scm.Message) -> None:
        self.sender = message.sender
        self.fds = tuple(map(self._listener, message.fds))
        if not self.door.count(self, len(self.fds) + 2):  # the text, and what has it for the keeper
            return
        if Nesting().ends_with(message.data):
            # All of it is in its connection, where the next monitor finds it.  Who sent it may be gone at any moment (crun's
            # exec), and is looked at before anything else is done.
            self.unread = len(message.data)
            self.door.look(self, message.data)
            return
        fds = [fd for fd in self.fds if not isinstance(fd, str)]
        whys = [fd if isinstance(fd, str) else "" for fd in self.fds]
        memory = memory_for(LONGEST + _PIECE)
        try:
            self.text = Text(memory)
            said = msgspec.json.encode(_Came(whys, self.sender >= 0))
            boxed = box(said, [memory, *fds, *([self.sender] if self.sender >= 0 else [])])
        except OSError as problem:
            self.door.refuse(self, f"what it sends cannot be kept: {problem.strerror}")
            return
        finally:
            os.close(memory)
        self.door.keep(self, boxed)
        self._take(len(message.data))

    def _take(self, size: int) -> None:
        assert self.text is not None
        try:
            more = self.text.receive(self.sock, size, self._dropped)
        except OSError as problem:
            self.door.refuse(self, f"connection lost: {problem.strerror}")
            return
        self.door.grew(self, more)

    def go_on(self, boxed: int) -> None:
        """Go on with what an earlier monitor had of it; the box stays the giver's."""
        try:
            message = look_into(boxed)
            memory, *fds = message.fds
            came = msgspec.json.decode(message.data, type=_Came)
        except (OSError, ValueError, msgspec.MsgspecError) as problem:
            self.door.refuse(self, f"what has come of it is not there any more: {problem}")
            return
        self.sender = fds.pop() if came.sender else -1
        self.fds = tuple(why or fds.pop(0) for why in came.whys)
        self.text = Text(memory)
        os.close(memory)
        if self.door.count(self, len(self.fds) + 2):
            self.door.grew(self, bytes(self.text))

    def _listener(self, fd: int) -> int | str:
        """A listener; or why it is none.  What else came is closed at once: while it is open here, whoever serves it
        can hold up every process that we start, whose exec closes it there."""
        try:
            return listener_among((fd,), 0)
        except ProctorError as problem:
            self.drop([fd])
            return str(problem)

    def _dropped(self, message: scm.Message) -> None:
        self.drop(message.fds, message.sender)

    def close(self) -> None:
        if self.unread:  # else its peer would be told that it was not read
            with suppress(OSError):
                self._dropped(
                    scm.receive(self.sock, self.unread, socket.MSG_DONTWAIT, self._dropped)
                )
        super().close()
        self.drop([fd for fd in self.fds if not isinstance(fd, str)], self.sender)
        self.fds, self.sender = (), -1
        if self.text is not None:
            self.text.close()


class OciDoor(Door[_Arriving]):
    """Reads container process states from the connections of one socket."""

    #: Bytes of all that are arriving.
    _bytes = 0

    def connected(self, sock: socket.socket, peer: Peer, name: str = "", boxed: int = -1) -> None:
        """Take a new connection, or one of an earlier monitor's, which is ours from now on.

        :param name: as what it is kept.
        :param boxed: what has come of it to an earlier monitor, and stays the giver's; -1: nothing."""
        arriving = _Arriving(self, sock, peer, name)
        if self.take(arriving):
            self.read(arriving)
            if boxed >= 0:
                arriving.go_on(boxed)

    def keep(self, arriving: _Arriving, boxed: int) -> None:
        """Have kept what comes of it."""
        if arriving.name:
            self._agent.keep_arriving(arriving.name, boxed)
        os.close(boxed)

    def grew(self, arriving: _Arriving, more: bytes) -> None:
        """These bytes of it have come."""
        self._bytes += len(more)
        if arriving.length > LONGEST:
            self.refuse(arriving, f"its state is longer than {LONGEST} bytes")
        elif self._bytes > _ALTOGETHER:
            longest = max(self._connections, key=lambda each: each.length)
            self.refuse(longest, "too much is arriving, and its state is the longest")
        if arriving in self._connections and arriving.nesting.ends_with(more):
            self.look(arriving, bytes(arriving.text) if arriving.text is not None else None)

    def leave(self, connection: _Arriving) -> None:
        """It is over."""
        name, connection.name = connection.name, ""
        if name:
            self._agent.forget(name)  # whose close is not the last
        if connection in self._connections:
            self._bytes -= connection.length
        super().leave(connection)

    def look(self, arriving: _Arriving, text: bytes | None) -> None:
        """It is complete, or its peer has said all.

        :param text: None: nothing."""
        if text is None:  # a start that failed early
            self.leave(arriving)
            return
        try:
            state = parse(text)
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
            with (
                Named.said(state.pid, arriving.sock, said.id)
                if state.pid
                else nullcontext(Named.by_pidfd(arriving.sender))
            ) as named:
                self._agent.admit(
                    facts,
                    listener,
                    fresh=said.status != "running",
                    process=named,
                    came_by=arriving.name,
                )
        except (ProctorError, OSError) as problem:
            self.refuse(arriving, f"container {quoted(said.id)}: {problem}")
            return
        self.leave(arriving)
