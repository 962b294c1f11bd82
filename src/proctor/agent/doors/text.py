"""A text that comes in pieces, where the next monitor finds it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from proctor.kernel import scm

if TYPE_CHECKING:
    import socket


def memory_for(most: int) -> int:
    """A memfd for a text of so many bytes, of which nothing has come; the caller's."""
    fd = os.memfd_create("proctor-text", os.MFD_CLOEXEC)
    os.truncate(fd, most + 1)
    return fd


class Text:
    """What has come of a text in which no byte is 0.

    The kernel writes into its memory as it takes bytes out of a connection, in one system call: each byte is in one of the
    two, whenever a monitor dies.  Behind the last there are zeros.

    :param fd: its memory (:func:`memory_for`); stays the giver's.
    """

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, 0)
        #: Bytes that have come.
        self.length = max(self._memory.find(b"\0"), 0)

    def receive(
        self, sock: socket.socket, size: int, drop: Callable[[scm.Message], object]
    ) -> bytes:
        """Receive so many further bytes at most: which they are.

        :param drop: closes what comes along.
        :raises OSError: recvmsg(2)'s."""
        end = self.length + size
        self._memory[self.length : end] = bytes(size)  # and no page has to be found meanwhile
        with memoryview(self._memory)[self.length : end] as room:
            message = scm.receive(sock, drop=drop, into=room)
        if not message.lost:
            drop(message)
        self.length += len(message.data)
        return message.data

    def __bytes__(self) -> bytes:
        return self._memory[: self.length]

    def close(self) -> None:
        """Let go of it.  Idempotent."""
        self._memory.close()
