"""Descriptors that come and go over UNIX sockets (SCM_RIGHTS, unix(7)), and who sent them."""

from __future__ import annotations

import errno
import os
import socket
import struct
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

#: Most descriptors of one message (SCM_MAX_FD, include/net/scm.h).
MOST: Final = 253

#: struct ucred: process, user and group.
_CREDENTIALS: Final = struct.Struct("=iII")
_ROOM: Final = socket.CMSG_SPACE(4 * MOST) + socket.CMSG_SPACE(_CREDENTIALS.size)


class Message(NamedTuple):
    """What :func:`receive` received."""

    #: Empty at the end of a stream.
    data: bytes
    #: Descriptors of ours now, all CLOEXEC, to be closed by whoever received.
    fds: tuple[int, ...] = ()
    #: Descriptors were sent and could not be had: our table is full, or we may not have them.
    #: Those that could be had are closed again.
    lost: bool = False
    #: The process that sent it, as our pid namespace has it, where SO_PASSCRED asks for it (SCM_CREDENTIALS); 0 if
    #: it is not known.
    sender: int = 0

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.fds:
            os.close(fd)


def receive(sock: socket.socket, size: int = 65536, flags: int = 0) -> Message:
    """Receive one message of at most ``size`` bytes, with all descriptors that came along.

    ``socket.recv_fds`` leaves them inheritable.

    :raises OSError: EMSGSIZE for a datagram that is longer, whose descriptors are closed; else
        recvmsg(2)'s.
    """
    data, ancillary, marks, _ = sock.recvmsg(size, _ROOM, socket.MSG_CMSG_CLOEXEC | flags)
    fds = array("i")
    sender = 0
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            sender = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
    message = Message(data, tuple(fds), sender=sender)
    if marks & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
        message.close()
        if marks & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, f"a message is longer than {size} bytes")
        return Message(data, lost=True, sender=sender)
    return message


def send(sock: socket.socket, data: bytes | bytearray, fds: Sequence[int] = ()) -> None:
    """Send one message with copies of descriptors, which stay ours as well.

    :raises OSError: EPIPE without a signal, if nobody receives; else sendmsg(2)'s.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
