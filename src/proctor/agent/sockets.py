"""UNIX sockets of the agent: made without a moment in which others may connect, and peers let in by
their user id."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from proctor.errors import ProctorError
from proctor.words import quoted

#: Most bytes of a path (sun_path with its final NUL, unix(7)).
_LONGEST: Final = 107
#: Seconds without accepting once descriptors ran out.
_PAUSE: Final = 0.5
#: Connections that are accepted before others have their turn.
_AT_ONCE: Final = 64

_PEERCRED: Final = struct.Struct("=iII")


class Peer(NamedTuple):
    """Who connected, as the kernel knows it (SO_PEERCRED): whoever called connect(2), which may have
    ended since, or have given the connection to another process."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """The peer of a connection."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
    return Peer(*_PEERCRED.unpack(data))


def listen(
    path: str,
    kind: int = socket.SOCK_STREAM,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
) -> socket.socket:
    """A listening socket at ``path``, non-blocking; what a dead process left there is replaced.

    :param kind: ``SOCK_STREAM`` or ``SOCK_SEQPACKET``.
    :param mode: who may connect: write permission is asked for (unix(7)).
    :param owner: uid and gid of the socket, -1 for unchanged.
    :raises ProctorError: the path is too long, or somebody listens there, or it is no socket.
    :raises OSError: bind(2)'s.
    """
    if len(os.fsencode(path)) > _LONGEST:
        raise ProctorError(
            f"socket {quoted(path)}: a path of a socket has at most {_LONGEST} bytes (unix(7))"
        )
    made = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _clear(path, kind)
        before = os.umask(0o777 & ~mode)
        try:
            made.bind(path)
        finally:
            os.umask(before)
        if owner is not None:
            os.chown(path, *owner, follow_symlinks=False)
        made.listen(socket.SOMAXCONN)
    except BaseException:
        made.close()
        raise
    return made


def _clear(path: str, kind: int) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ProctorError(f"socket {quoted(path)}: something is there that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # its process is gone
            return
        except OSError as problem:
            if problem.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
    raise ProctorError(f"socket {quoted(path)}: somebody listens there already")


class Acceptor:
    """Lets peers in, from the event loop.

    :param sock: listening and non-blocking; closed by :meth:`close`.
    :param uids: users that may connect; others are closed at once.
    :param connected: given each connection, non-blocking, and its peer; it owns it from then on.
    :param refused: told of others, in a sentence.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        uids: Collection[int],
        connected: Callable[[socket.socket, Peer], object],
        refused: Callable[[str], object],
    ) -> None:
        self._loop = loop
        self.sock = sock
        self.uids = frozenset(uids)
        self._connected = connected
        self._refused = refused
        self._pause: asyncio.TimerHandle | None = None
        loop.add_reader(sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                if problem.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    # whoever connects waits meanwhile; to be asked again at once would help nobody
                    self._refused(f"no descriptors left for connections: {problem.strerror}")
                    self._loop.remove_reader(self.sock)
                    self._pause = self._loop.call_later(_PAUSE, self._resume)
                    return
                continue  # it went before it was accepted: accept(2)
            connection.setblocking(False)
            peer = peer_of(connection)
            if peer.uid in self.uids:
                self._connected(connection, peer)
            else:
                connection.close()
                self._refused(f"user {peer.uid} may not connect here (process {peer.pid})")

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self.sock, self._accept)

    def close(self) -> None:
        """Take no more connections, and give the socket up; idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock)
            self.sock.close()
