"""Descriptors that come and go over UNIX sockets (SCM_RIGHTS, unix(7)), and who sent them."""

from __future__ import annotations

import _socket as socket  # its wrapper takes two milliseconds to load
import errno
import os
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Final

from proctor.records import NamedTuple

#: Most descriptors of one message (SCM_MAX_FD, include/net/scm.h).
MOST: Final = 253

#: include/uapi/asm-generic/socket.h and include/linux/socket.h; Linux 6.5.
_SO_PASSPIDFD, _SO_PEERPIDFD, _SCM_PIDFD = 76, 77, 0x04
_ROOM: Final = socket.CMSG_SPACE(4 * MOST) + socket.CMSG_SPACE(4)


class Message(NamedTuple):
    """What :func:`receive` received."""

    #: Empty at the end of a stream.
    data: bytes
    #: Descriptors of ours now, all CLOEXEC, to be closed by whoever received.
    fds: tuple[int, ...] = ()
    #: Descriptors were sent and could not be had: our table is full, or we may not have them.
    #: Those that could be had are closed again.
    lost: bool = False
    #: A pidfd of the process that sent it, after :func:`ask_for_senders`; ours to be closed, too, and -1 if it is
    #: not known.
    sender: int = -1

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.fds:
            os.close(fd)
        if self.sender >= 0:
            os.close(self.sender)


def receive(
    sock: socket.socket,
    size: int = 65536,
    flags: int = 0,
    drop: Callable[[Message], object] = Message.close,
    into: memoryview | None = None,
) -> Message:
    """Receive one message of at most ``size`` bytes, with all descriptors that came along.

    ``socket.recv_fds`` leaves them inheritable.

    :param drop: closes the descriptors of a message that did not come whole.
    :param into: where the kernel writes it, of that size at most; None: memory of ours.

    :raises OSError: EMSGSIZE for a datagram that is longer, whose descriptors are closed; else
        recvmsg(2)'s.
    """
    flags |= socket.MSG_CMSG_CLOEXEC
    if into is None:
        data, ancillary, marks, _ = sock.recvmsg(size, _ROOM, flags)
    else:
        came, ancillary, marks, _ = sock.recvmsg_into([into], _ROOM, flags)
        data = bytes(into[:came])
    fds = array("i")
    sender = -1
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        elif (level, kind) == (socket.SOL_SOCKET, _SCM_PIDFD):
            sender = max(
                int.from_bytes(content, sys.byteorder, signed=True), -1
            )  # an errno in its place
    message = Message(data, tuple(fds), sender=sender)
    if marks & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        drop(message)
        if marks & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, f"a message is longer than {size} bytes")
        return Message(data, lost=True)
    return message


def ask_for_senders(sock: socket.socket) -> None:
    """Have :func:`receive` say who sent a message, as the kernel knows it (SO_PASSPIDFD, Linux 6.5): also of what was
    sent to a connection before it is accepted, if a listening socket is asked.  Older kernels do not say it."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSPIDFD, 1)
    except OSError as problem:
        if problem.errno != errno.ENOPROTOOPT:
            raise


def peer(sock: socket.socket) -> int:
    """A pidfd of who made the other end: called connect(2), or socketpair(2); the caller's (SO_PEERPIDFD, Linux 6.5;
    by its number where the kernel has none).

    :raises OSError: it is gone."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as problem:
        if problem.errno != errno.ENOPROTOOPT:
            raise
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return os.pidfd_open(int.from_bytes(data[:4], sys.byteorder, signed=True))


def send(
    sock: socket.socket, data: bytes | bytearray, fds: Sequence[int] = (), flags: int = 0
) -> None:
    """Send one message with copies of descriptors, which stay ours as well.

    :param flags: sendmsg(2)'s.  Whether a socket blocks may be changed by whoever else has it; with
        MSG_DONTWAIT it does not.

    :raises OSError: EPIPE without a signal, if nobody receives; else sendmsg(2)'s.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sock.sendmsg([data], rights, socket.MSG_NOSIGNAL | flags)
