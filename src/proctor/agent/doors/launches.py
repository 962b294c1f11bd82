"""The door of our own launches: ``proctor run --agent SOCKET`` (:mod:`proctor.agent.launching`).

One SEQPACKET connection per command, and four datagrams of JSON: who it is, the program of the filter that
its policy needs, its listener, and that it is served.  The command waits in its first notified call
meanwhile.  With the program comes a socket that the command is to inherit, by which a ``proctor run`` in it registers
(:mod:`proctor.agent.delegating`).  A pipe comes with the listener, and is let go with it, so that whoever launched the command
knows when nobody uses its filter any more.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from proctor.agent.delegating import Way
from proctor.agent.doors.door import Connection, Door, listener_among, pipe_among
from proctor.agent.doors.oci import Pid
from proctor.agent.facts import Facts
from proctor.agent.owners import Named, is_trusted
from proctor.agent.sockets import Peer
from proctor.errors import ProctorError
from proctor.kernel import scm
from proctor.kernel.closing import closers
from proctor.kernel.pidfd import has_ended, number_of
from proctor.process.below import sees
from proctor.process.standing import standing
from proctor.syscalls import tables

if TYPE_CHECKING:
    from proctor.agent.agent import Agent

#: Most bytes of what is said to us.
_LONGEST: Final = 65536
#: Most characters of an id.
_LONGEST_ID: Final = 1024


class Hello(msgspec.Struct, forbid_unknown_fields=True):
    """Who is to be launched."""

    id: str
    metadata: str = ""
    annotations: dict[str, str] = {}
    #: Calls and groups about which those below may ask besides what the policy is about.
    delegate: list[str] = []


class Launched(msgspec.Struct, forbid_unknown_fields=True):
    """What comes with the listener and the pipe."""

    #: Of the command, as whoever launched it sees it.
    pid: Pid


class _Launch(Connection):
    """One on its way."""

    def __init__(self, door: LaunchDoor, sock: socket.socket, peer: Peer) -> None:
        super().__init__(door, sock, peer)
        self.door = door
        #: What it said, until that is answered.
        self.hello: Hello | None = None
        self.facts: Facts | None = None
        self.way: Way | None = None

    def read(self) -> None:
        message = self.receive(_LONGEST)
        if message is None:
            return
        fds = list(message.fds)
        try:
            if not message.data:
                self.door.leave(self)
            elif self.hello is not None:
                raise ProctorError("who says more before he is answered is not heard")
            elif self.facts is None:
                self.hello = msgspec.json.decode(message.data, type=Hello)
                self.door.wants(self)
            else:
                said = msgspec.json.decode(message.data, type=Launched)
                self.door.launched(self, self.facts, said.pid, fds)
        except (msgspec.MsgspecError, ProctorError, OSError) as problem:
            self.door.refuse(self, str(problem))
        finally:
            self.drop(fds)

    def say(self, word: dict[str, object], *fds: int) -> None:
        scm.send(self.sock, msgspec.json.encode(word), fds, socket.MSG_DONTWAIT)

    def close(self) -> None:
        super().close()
        if self.way is not None:
            closers.close([self.way.sock.detach()])


class LaunchDoor(Door[_Launch]):
    """Serves commands that are launched for it, by one socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        agent: Agent,
        refused: Callable[[str], object],
    ) -> None:
        super().__init__(loop, path, agent, refused)
        #: Who wants a filter, by user; whose turn it is comes first.
        self._wanting: dict[int, deque[_Launch]] = {}

    def connected(self, sock: socket.socket, peer: Peer, name: str = "") -> None:
        """Take a new connection, which is ours from now on."""
        launch = _Launch(self, sock, peer)
        if self.take(launch):
            self.read(launch)

    def wants(self, launch: _Launch) -> None:
        """Have it told under which filter it is to be launched, in its turn.  To make one takes milliseconds, in which the loop does
        nothing else: so one is made at a time, and of users each has a turn."""
        if not self._wanting:
            self._loop.call_soon(self._next)
        self._wanting.setdefault(launch.peer.uid, deque()).append(launch)

    def _next(self) -> None:
        uid = next(iter(self._wanting))
        waiting = self._wanting.pop(uid)
        launch = waiting.popleft()
        if waiting:
            self._wanting[uid] = waiting  # behind all others
        try:
            if launch in self._connections and launch.hello is not None:
                self._hello(launch, launch.hello)
        except (ProctorError, OSError) as problem:
            self.refuse(launch, str(problem))
        finally:
            launch.hello = None
            if self._wanting:
                self._loop.call_soon(self._next)

    def _hello(self, launch: _Launch, said: Hello) -> None:
        if not 0 < len(said.id) <= _LONGEST_ID:
            raise ProctorError(f"a name has 1 to {_LONGEST_ID} characters")
        launch.facts = Facts(
            door="run",
            socket=self._path,
            uid=launch.peer.uid,
            id=said.id,
            metadata=said.metadata,
            annotations=said.annotations,
        )
        filter = self._agent.filter(launch.facts, sorted(set(said.delegate)))
        program = base64.b64encode(filter.compile().code).decode()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            seen = frozenset(name for name in tables.all_names() if sees(filter, name))
            launch.way = Way(ours, seen, 1 + _filters(launch.sock))
            launch.say({"program": program}, theirs.fileno())

    def launched(self, launch: _Launch, facts: Facts, pid: int, fds: list[int]) -> None:
        """Serve it; what is taken of the descriptors is taken out of the list."""
        if len(fds) != 2:
            raise ProctorError(f"a listener and a pipe are to come, not {len(fds)} descriptors")
        listener = listener_among(fds, 0)
        alive = pipe_among(fds, 1)
        facts = msgspec.structs.replace(facts, pid=pid)
        with _process(launch, pid) as process:
            fds.clear()
            way, launch.way = launch.way, None
            self._agent.admit(facts, listener, fresh=True, process=process, alive=alive, way=way)
        launch.say({"served": True})
        self.leave(launch)

    def refuse(self, connection: _Launch, why: str) -> None:
        """It gets nothing, and is told why."""
        if connection not in self._connections:
            return
        try:
            connection.say({"error": why})
        except OSError:
            pass  # it does not listen
        super().refuse(connection, why)


@contextmanager
def _process(launch: _Launch, pid: int) -> Iterator[Named]:
    """The command, pinned; or, where he is trusted, who launched it: what a command may have done before anybody looks, he has
    not.

    :raises ProctorError, OSError: it is not there, or none of that user's."""
    uid = launch.peer.uid
    if is_trusted(uid):
        pidfd = scm.peer(launch.sock)
        try:
            yield Named.by_pidfd(pidfd)._replace(own=True)
        finally:
            os.close(pidfd)
        return
    with Named.said(pid, launch.sock, "") as named:
        if not named.pid:
            raise ProctorError(f"process {pid} is gone")
        yield named._replace(own=True)


def _filters(sock: socket.socket) -> int:
    """How many filters whoever connected has.

    :raises ProctorError: it is gone, or nobody that we see."""
    try:
        pidfd = scm.peer(sock)
    except OSError as problem:
        raise ProctorError(f"who connected cannot be looked at: {problem}") from None
    try:
        here = standing(number_of(pidfd))
        if here is None or has_ended(pidfd):
            raise ProctorError("who connected cannot be looked at")
        return here.filters
    finally:
        os.close(pidfd)
