"""One question of LXC's (struct seccomp_notify_proxy_msg), its answer, and what the next monitor has to know of both:
see :mod:`proctor.agent.doors.lxc`."""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from proctor.errors import ProctorError
from proctor.kernel import abi, raw
from proctor.kernel.notification import Notification
from proctor.records import NamedTuple

if TYPE_CHECKING:
    import socket

    from proctor.agent.owners import Claimed
    from proctor.kernel.listener import Listener
    from proctor.kernel.notification import NotificationLike

#: ``struct seccomp_notify_proxy_msg``: reserved, pid of LXC's monitor and of the container's init, sizes
#: of the kernel's structures, length of the cookie.
_HEAD: Final = struct.Struct("=QiiHHH2xQ")
_NOTIF_AT: Final = _HEAD.size
_RESP_AT: Final = _NOTIF_AT + abi.SECCOMP_NOTIF.size
#: Bytes of an answer, and of a question without its cookie.
_ID: Final = struct.Struct("=Q")
SIZE: Final = _RESP_AT + abi.SECCOMP_NOTIF_RESP.size
#: Where an answer is in :class:`Begun`.
_ANSWER_AT: Final = _ID.size
#: Most bytes of a cookie.
LONGEST_COOKIE: Final = 4096
#: Seconds within which a call is decided, and after which nothing is answered any more.
DEADLINE: Final = 20.0
_TOO_LATE: Final = 27.0


class Question(NamedTuple):
    """One datagram of LXC's."""

    notification: Notification
    monitor: int
    init: int
    cookie: str
    #: All but the cookie, as it came.
    data: bytes


def parse(data: bytes) -> Question:
    """
    :raises ProctorError: it is no question, in a sentence."""
    if len(data) < SIZE:
        raise ProctorError(f"a question of LXC has {SIZE} bytes and more, not {len(data)}")
    reserved, monitor, init, *sizes, cookie = _HEAD.unpack_from(data)
    if reserved:
        raise ProctorError(
            "the reserved field is not 0: LXC speaks a newer protocol than this agent"
        )
    if tuple(sizes) != abi.NOTIF_SIZES:
        raise ProctorError(f"structures have {sizes} bytes there, and {abi.NOTIF_SIZES} here")
    if cookie != len(data) - SIZE:
        raise ProctorError(f"a cookie of {cookie} bytes, and {len(data) - SIZE} are there")
    id, pid, flags, nr, arch, ip, a, b, c, d, e, f = abi.SECCOMP_NOTIF.unpack_from(data, _NOTIF_AT)
    made = Notification(id, pid, nr, arch, (a, b, c, d, e, f), ip, flags)
    text = data[SIZE:].decode("utf-8", "backslashreplace")
    return Question(made, monitor, init, text, data[:SIZE])


class Asking(Protocol):
    """The connection of a question.

    :ivar found: the next question may be one that an earlier monitor had."""

    found: bool

    def answer(self, data: bytearray | None) -> bool:
        """Answer the question and take it out; from any thread.  Whether that could be done.

        :param data: None hangs up: it is too late."""
        ...


class Asked:
    """What is being asked.

    :ivar claimed: the thread that is said to be calling, where it is a user's word that it is."""

    __slots__ = ("answered", "claimed", "id", "question", "since")

    def __init__(self, question: Question, claimed: Claimed | None = None) -> None:
        self.question = question
        self.id = question.notification.id
        self.claimed = claimed
        self.since = time.monotonic()
        self.answered = False

    def __del__(self) -> None:
        if self.claimed is not None:
            self.claimed.close()


class Proxied:
    """A listener of which LXC's monitor asks, one question after the other: a
    :class:`~proctor.supervisor.ports.ListenerPort`.

    :param listener: ours from now on."""

    def __init__(self, connection: Asking, listener: Listener) -> None:
        self._connection = connection
        self._listener = listener
        #: The last question; what earlier ones want of it comes to nothing: they were answered.
        self._asked: Asked | None = None

    def asks(self, asked: Asked) -> None:
        """That is the next question, and the one before was answered."""
        self._asked = asked

    def brings(self, fd: int) -> bool:
        """Whether a descriptor is the same listener."""
        try:
            return raw.kcmp_file(os.getpid(), fd, self._listener.fileno())
        except (OSError, ValueError):  # a kernel without kcmp(2); it is closed
            return False

    def fileno(self) -> int:
        """As :class:`~proctor.supervisor.ports.ListenerPort`, also below."""
        return self._listener.fileno()

    def recv(self, into: memoryview | None = None, slot: int = -1) -> Notification | None:
        """It was received."""
        return None

    def id_valid(self, id: int) -> bool:
        """Asked of the kernel; and a thread that was said to be calling must not have become another."""
        asked = self._asked
        if asked is None or asked.id != id:
            return False
        return self._listener.id_valid(id) and (asked.claimed is None or asked.claimed.lives())

    def addfd(
        self,
        id: int,
        srcfd: int,
        *,
        at: int | None = None,
        cloexec: bool = False,
        send: bool = False,
    ) -> int | None:
        """Through the listener; LXC, which answers in any case, then finds it answered."""
        number = self._listener.addfd(id, srcfd, at=at, cloexec=cloexec, send=send)
        if send and number is not None:
            self.send(id, number, 0, 0)
        return number

    def send(self, id: int, value: int, error: int, flags: int) -> bool:
        """Through LXC, once: another answer would be that to its next question."""
        asked = self._asked
        if asked is None or asked.id != id or asked.answered:
            return False
        asked.answered = True
        there = self._listener.id_valid(id)
        answer = bytearray(asked.question.data)
        abi.SECCOMP_NOTIF_RESP.pack_into(answer, _RESP_AT, id, value, error, flags)
        late = time.monotonic() - asked.since > _TOO_LATE
        # nobody knows how long LXC had waited for the monitor before us, and whether it still does
        late = late or (self._connection.found and not there)
        return self._connection.answer(None if late else answer) and there

    def close(self) -> None:
        """Idempotent."""
        self._listener.close()


class Begun:
    """What the next monitor is to know of a connection, in a memfd: the id of the question that is being performed, and
    behind it the last answer.  That is sent from there by sendfile(2), which moves the file's place beyond it: the place
    is the keeper's, too, and a monitor that is killed has done both or neither.

    :param fd: ours from now on; -1: a new one."""

    def __init__(self, fd: int = -1) -> None:
        self.fd = os.memfd_create("proctor-begun", os.MFD_CLOEXEC) if fd < 0 else fd
        #: Who asks.
        self.asked: Callable[[], Proxied | None] = lambda: None

    def performs(self, notification: NotificationLike) -> None:
        """As :class:`proctor.supervisor.jobs.Begun`, also below."""
        os.pwrite(self.fd, _ID.pack(notification.id), 0)

    def begun(self, notification: NotificationLike) -> bool:
        """Ids are as good as unique: each filter's begin at random (kernel/seccomp.c)."""
        return os.pread(self.fd, _ID.size, 0) == _ID.pack(notification.id)

    def left(self, notification: NotificationLike) -> None:
        """Nothing was done."""
        os.truncate(self.fd, 0)

    def clear(self, notification: NotificationLike) -> None:
        """It was answered, and is not asked again.  LXC waits for an answer to who is gone, too, and asks no more until
        then."""
        asked = self.asked()
        if asked is not None:
            asked.send(notification.id, 0, -errno.ENOSYS, 0)

    def answer(self, sock: socket.socket, data: bytearray) -> None:
        """Send an answer.

        :raises OSError: sendfile(2)'s."""
        os.lseek(self.fd, _ANSWER_AT, os.SEEK_SET)  # first: what is written then is not sent
        os.pwrite(self.fd, data, _ANSWER_AT)
        os.sendfile(sock.fileno(), self.fd, None, len(data))

    def answered(self, notification: NotificationLike) -> bool:
        """Whether its answer was sent."""
        if os.lseek(self.fd, 0, os.SEEK_CUR) != _ANSWER_AT + SIZE:
            return False
        return os.pread(self.fd, _ID.size, _ANSWER_AT + _RESP_AT) == _ID.pack(notification.id)

    def __del__(self) -> None:
        os.close(self.fd)
