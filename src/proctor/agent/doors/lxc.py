"""The door of LXC: ``lxc.seccomp.notify.proxy`` (lxc.container.conf(5); src/lxc/seccomp.c).

LXC receives notifications itself and asks, over one SEQPACKET connection of each container's monitor, one
at a time: a datagram with the notification, a cookie, and descriptors of the caller's ``/proc/PID``, its
memory and the listener (since LXC 5.0, without which we do not serve).  The answer is the same datagram
without its cookie.

* LXC waits 30 seconds, then answers ENOSYS and takes what comes later for the answer to its next question.
  So every call has a deadline below that, and who would answer later hangs up instead.
* The first is received by the agent's event loop, which finds out whose it is; the others by the thread that decides them,
  as if they were a listener's own.
* A question is looked at and left in the socket until its answer is there: should this monitor die, the
  next one, which is given the socket, finds it.  Which was being performed then is written down (:class:`Begun`), and
  not performed again; nor is one answered again that was answered and not yet taken out.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from proctor.agent.doors.door import Connection, Door, listener_among
from proctor.agent.doors.lxc_question import (
    LONGEST_COOKIE,
    SIZE,
    Asked,
    Begun,
    Proxied,
    Question,
    parse,
)
from proctor.agent.facts import Facts
from proctor.agent.owners import Claimed, Named, is_trusted, owner_userns
from proctor.agent.sockets import Peer, groups_of
from proctor.errors import ProctorError
from proctor.kernel import scm
from proctor.kernel.listener import Listener
from proctor.kernel.threads import quiet_thread

if TYPE_CHECKING:
    from proctor.agent.agent import Agent
    from proctor.agent.held import Held, KeptConnection
    from proctor.agent.keeping import Item
    from proctor.kernel.notification import Notification
    from proctor.supervisor.elsewhere import Elsewhere


#: Most threads of one user that look what his monitors are called.
_LOOKING: Final = 64
#: No flag of an enumeration, which takes microseconds to be combined with others.
_PEEK: Final = int(socket.MSG_PEEK)


class _Connection(Connection):
    """Of one monitor of LXC's: one of its containers.

    :param begun: what an earlier monitor wrote down.
    :ivar found: the next question may be one that an earlier monitor had."""

    def __init__(
        self, door: LxcDoor, sock: socket.socket, peer: Peer, begun: Begun, *, found: bool = False
    ) -> None:
        super().__init__(door, sock, peer)
        self._door = door
        self.begun = begun
        self.found = found
        self.held: Held | None = None
        #: Of the container; "" where nobody has looked yet.
        self.id = ""
        self.name = ""
        #: The listener of which is asked, and where its calls are decided.
        self._listens: tuple[Proxied, Elsewhere] | None = None
        #: Guards that; and nothing is sent to a socket that was closed, and its number is somebody else's.
        self._lock = threading.Lock()

    def read(self) -> None:
        if self.held is None and not self._door.knows(self):
            return
        message = self.receive(SIZE + LONGEST_COOKIE, _PEEK)
        if message is None:
            return
        fds = list(message.fds)
        try:
            if not message.data:
                self._door.leave(self)
                return
            question = parse(message.data)
            if self.found and self.begun.answered(question.notification):
                self._take_out()
                return
            self._door.ask(self, self.asked(question, fds), fds)
        except (ProctorError, OSError) as problem:
            self._door.refuse(self, str(problem))
        except Exception as problem:  # a fault of ours: LXC, which waits for an answer, is to go on
            self._door.refuse(self, f"{type(problem).__name__}: {problem}")
        finally:
            self.drop(fds)

    def asked(self, question: Question, fds: Sequence[int]) -> Asked:
        """It, with whom it says to call.

        :raises ProctorError: it is not of whoever connected."""
        if len(fds) != 3:
            raise ProctorError("it brings no listener: LXC 5.0 or newer is needed")
        peer = self.peer
        if question.monitor != peer.pid:
            raise ProctorError(f"process {peer.pid} asks in the name of {question.monitor}")
        if is_trusted(peer.uid):
            return Asked(question)
        # The kernel told him who calls, and he tells us: nobody could say whether that is so.
        return Asked(question, Claimed(question.notification.pid, peer, groups_of(self.sock)))

    def asks(self, asked: Asked, fds: list[int]) -> Elsewhere:
        """It is the question now; where its listener's are decided, which is among what came.

        :raises ProctorError, OSError: that is none, or nobody asks here any more.
        :raises RuntimeError: nothing is decided any more."""
        with self._lock:
            if self.held is None or self.sock.fileno() < 0:
                raise ProctorError("nobody asks here any more")
            if self._listens is None or not self._listens[0].brings(fds[2]):
                listener_among(fds, 2)
                self._leave_listener()
                port = Proxied(self, Listener(fds.pop()))
                self._listens = port, self._door.decides(self.held, port, self.begun)
                self.begun.asked = weakref.ref(port)
            port, elsewhere = self._listens
            port.asks(asked)
            return elsewhere

    def _leave_listener(self) -> None:
        """It is closed once no call needs it."""
        if self._listens is not None:
            self._listens[1].close()
            self._listens = None

    def _further(self) -> tuple[Notification, Elsewhere] | None:
        """A further question, on the thread that decides it.  What is none is left to the loop, which says why."""
        fds: list[int] = []
        try:
            with self._lock:
                if self.held is None or self.sock.fileno() < 0:
                    return None
                self._door.goes_on(self.sock, None)
                message = scm.receive(self.sock, SIZE + LONGEST_COOKIE, _PEEK, self._lost)
            fds.extend(message.fds)
            question = parse(message.data)
            return question.notification, self.asks(self.asked(question, fds), fds)
        except Exception:  # whatever it is
            self._door.read_again(self)
            return None
        finally:
            self.drop(fds)

    def answer(self, data: bytearray | None) -> bool:
        """Answer the question and take it out; from any thread.  Whether that could be done.

        :param data: None hangs up: it is too late."""
        with self._lock:
            if self.sock.fileno() < 0:
                return False
            try:
                if data is None:
                    self.sock.shutdown(socket.SHUT_RDWR)
                else:
                    self.begun.answer(self.sock, data)
            except OSError:
                data = None
            self._take_out()
            if self.held is None or not self._door.goes_on(self.sock, self._further):
                self._door.read_again(self)
        return data is not None

    def _take_out(self) -> None:
        """The question was answered.  What came along is ours to close: what is not received the kernel closes for us, and we
        would wait for that."""
        self.found = False
        try:
            if is_trusted(self.peer.uid):
                self.sock.recv(SIZE + LONGEST_COOKIE)
            else:
                self.drop(scm.receive(self.sock, SIZE + LONGEST_COOKIE, drop=self._lost).fds)
        except OSError:
            pass

    def _lost(self, message: scm.Message) -> None:
        self.drop(message.fds)

    def close(self) -> None:
        with self._lock:
            if self.sock.fileno() >= 0:
                self._door.goes_on(self.sock, None)
            self._leave_listener()
            super().close()


class LxcDoor(Door[_Connection]):
    """Answers LXC's monitors by one socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        agent: Agent,
        refused: Callable[[str], object],
    ) -> None:
        super().__init__(loop, path, agent, refused)
        #: By user: threads that look what a monitor is called.
        self._looking: Counter[int] = Counter()

    def connected(self, sock: socket.socket, peer: Peer, name: str = "") -> None:
        """Take a new connection, which is ours from now on.

        :param name: as what it is kept until more is known of it."""
        connection = _Connection(self, sock, peer, Begun())
        connection.name = name
        if not self._counted(connection):
            return
        try:  # numbers of threads come as LXC's monitor sees them
            ours, theirs = (os.readlink(f"/proc/{who}/ns/pid") for who in ("self", peer.pid))
        except OSError as problem:
            self.refuse(connection, f"its monitor cannot be looked at: {problem.strerror}")
            return
        if ours != theirs:
            self.refuse(connection, "its monitor is in another pid namespace than this agent")
            return
        connection.name = self._agent.keep_connection(sock, None, connection.begun.fd, came_by=name)
        if name:
            self._agent.forget(name)
        self.read(connection)

    def restored(self, sock: socket.socket, peer: Peer, item: Item, known: KeptConnection) -> None:
        """Take a connection of an earlier monitor's."""
        connection = _Connection(self, sock, peer, Begun(item.fds[2]), found=True)
        connection.name = item.name
        if known.facts is not None:
            connection.held = self._agent.connect(
                known.facts, lambda: known.owner_userns, known.since
            )
        if self._counted(connection):
            self.read(connection)

    def knows(self, connection: _Connection) -> bool:
        """Whether it is known what a connection's container is called.  If not, it is looked for, and read then.  A process has that in
        its memory, and can have whoever reads it wait for ever: by a mapping of a file that its FUSE server does not let go of,
        the lock of all its memory is held meanwhile.  So for who is not trusted nobody waits but a thread."""
        pid, uid = connection.peer.pid, connection.peer.uid
        if not connection.id and is_trusted(uid):
            connection.id = _name_of(pid)
        if connection.id:
            return True

        def known(id: str) -> None:
            self._looking[uid] -= 1
            connection.id = id
            if connection in self._connections:
                self.read(connection)

        def look() -> None:
            id = _name_of(pid)
            try:
                self._loop.call_soon_threadsafe(known, id)
            except RuntimeError:
                pass  # the loop is closed

        if self._looking[uid] >= _LOOKING:
            self.refuse(connection, "what this user's monitors are called does not come to light")
            return False
        self._loop.remove_reader(connection.sock)
        try:
            quiet_thread(look, "proctor-named")
            self._looking[uid] += 1
        except RuntimeError:
            self.refuse(connection, "there are no more threads")
        return False

    def _counted(self, connection: _Connection) -> bool:
        """See :meth:`Door.take`: what is written down is in a descriptor as well, and the keeper has that, too."""
        return self.take(connection) and self.count(connection, 1)

    def ask(self, connection: _Connection, asked: Asked, fds: list[int]) -> None:
        """Have a question decided.

        :raises ProctorError: its container's process is not its user's, or what came is no listener.
        """
        peer, question = connection.peer, asked.question
        if connection.held is None:
            facts = Facts(
                door="lxc",
                socket=self._path,
                uid=peer.uid,
                id=connection.id,
                cookie=question.cookie,
                pid=question.init,
            )
            with Named.said(question.init, connection.sock, facts.id) as init:
                connection.held = self._agent.connect(
                    facts, lambda: owner_userns(init, peer.uid), time.time()
                )
            connection.name = self._agent.keep_connection(
                connection.sock, connection.held, connection.begun.fd, name=connection.name
            )
        self._loop.remove_reader(connection.sock)  # it is left there until its answer is
        elsewhere = connection.asks(asked, fds)
        found = connection.found and connection.begun.begun(question.notification)
        elsewhere.submit(question.notification, begun=found)

    def decides(self, held: Held, port: Proxied, begun: Begun) -> Elsewhere:
        """What decides the calls of a container of which a monitor asks."""
        return self._agent.supervisor.elsewhere(port, held.container, begun)

    def goes_on(
        self,
        sock: socket.socket,
        receive: Callable[[], tuple[Notification, Elsewhere] | None] | None,
    ) -> bool:
        """Whether whoever decides receives the next question by himself (None: no more); from any thread."""
        try:
            if receive is None:
                self._agent.supervisor.unwatch(sock.fileno())
            else:
                self._agent.supervisor.receive_from(sock.fileno(), receive)
            return True
        except (OSError, RuntimeError, ValueError):  # the loop does
            return False

    def read_again(self, connection: _Connection) -> None:
        """The loop reads what comes next; from any thread."""

        def go_on() -> None:
            if connection in self._connections:
                self.read(connection)

        try:
            self._loop.call_soon_threadsafe(go_on)
        except RuntimeError:
            pass  # the loop is closed

    def leave(self, connection: _Connection) -> None:
        """LXC's monitor has ended, or it connects anew; or it gets nothing: LXC answers ENOSYS."""
        name, connection.name = connection.name, ""
        if name:
            self._agent.forget(name)
        super().leave(connection)
        if connection.held is not None:
            self._agent.disconnect(connection.held)


def _name_of(monitor: int) -> str:
    """The container's name, as its monitor shows it (``[lxc monitor] PATH NAME``); it can show what it
    likes."""
    try:
        with open(f"/proc/{monitor}/cmdline", "rb") as file:
            words = file.read(4096).rstrip(b"\0").decode("utf-8", "backslashreplace").split()
    except OSError:
        words = []
    if words[:2] == ["[lxc", "monitor]"] and len(words) > 2:
        return words[-1]
    return f"monitor {monitor}"
