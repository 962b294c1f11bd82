"""Letting peers in by their user id."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from proctor.agent import dropping
from proctor.agent.sockets import Peer, peer_of
from proctor.kernel import scm

if TYPE_CHECKING:
    from proctor.agent.kept import Keeps

#: Seconds without accepting once descriptors ran out.
_PAUSE: Final = 0.5
#: Connections that are accepted before others have their turn.
_AT_ONCE: Final = 64


class Acceptor:
    """Lets peers in, from the event loop.

    :param sock: listening and non-blocking; closed by :meth:`close`.
    :param uids: users that may connect; others are closed at once.
    :param connected: given each connection, non-blocking, its peer, and as what it is kept ("": it is not); it owns it from
        then on.
    :param refused: told of others, in a sentence.
    :param senders: whether messages are to say who sent them (:func:`proctor.kernel.scm.ask_for_senders`).
    :param keeps: has connections kept; None: they are lost with us.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        uids: Collection[int],
        connected: Callable[[socket.socket, Peer, str], object],
        refused: Callable[[str], object],
        *,
        senders: bool = False,
        keeps: Keeps | None = None,
    ) -> None:
        self._loop = loop
        self.sock = sock
        self.uids = frozenset(uids)
        self._connected = connected
        self._refused = refused
        self._keeps = keeps
        self._pause: asyncio.TimerHandle | None = None
        if senders:
            scm.ask_for_senders(sock)  # connections have it from here
        loop.add_reader(sock, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            name = ""
            try:
                if self._keeps is None:
                    connection, _ = self.sock.accept()
                else:
                    connection, name = self._keeps.accept(self.sock)
            except BlockingIOError:
                if self._keeps is not None and self._keeps.is_owed:
                    self._stop_for_now()
                return
            except OSError as problem:
                if problem.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                    # whoever connects waits meanwhile; to be asked again at once would help nobody
                    self._refused(f"no descriptors left for connections: {problem.strerror}")
                    self._stop_for_now()
                    return
                continue  # it went before it was accepted: accept(2)
            connection.setblocking(False)
            peer = peer_of(connection)
            if peer.uid not in self.uids:
                self._refused(f"user {peer.uid} may not connect here (process {peer.pid})")
            elif dropping.is_late(peer.uid):
                self._refused(
                    f"what user {peer.uid} sent cannot be closed: whoever serves it waits"
                )
            else:
                self._connected(connection, peer, name)
                continue
            if self._keeps is not None and name:
                self._keeps.forget(name)  # whose close is not the last
            dropping.turning_away.close(peer.uid, connection)

    def _stop_for_now(self) -> None:
        self._loop.remove_reader(self.sock)
        self._pause = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self.sock, self._accept)
        self._accept()

    def close(self) -> None:
        """Take no more connections, and give the socket up; idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock)
            self.sock.close()
