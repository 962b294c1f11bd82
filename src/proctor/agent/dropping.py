"""Closing what users sent: who is not trusted has it closed by others, and who has too much that cannot be closed is not let
in."""

from __future__ import annotations

import functools
import os
import socket
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from proctor.agent.owners import is_trusted
from proctor.errors import ProctorError
from proctor.kernel import scm
from proctor.kernel.closing import Closers
from proctor.kernel.threads import quiet_thread

if TYPE_CHECKING:
    from proctor.performing.executing.mother import Mother

#: Most descriptors of one user that are being closed before no more is taken from him; each may have a thread.
MOST: Final = 256

#: By user.
dropped: Final = Closers()


def drop(uid: int, fds: Iterable[int]) -> None:
    """Close what that user sent."""
    if not is_trusted(uid):
        dropped.close(fds, uid)
        return
    for fd in fds:
        os.close(fd)


def is_late(uid: int) -> bool:
    """Whether that user has too much that is not closed."""
    return dropped.left(uid) >= MOST


class TurningAway:
    """Hangs up on whoever is not let in, without waiting for what he sent.

    What lingers does so for no process that ends (inet_release() of net/ipv4/af_inet.c), and a file that was never received
    is not flushed: so connections go to a process that does nothing but end, on a thread for which nobody waits.
    """

    def __init__(self) -> None:
        self._mother: Mother | None = None
        self._lock = threading.Lock()
        self._connections: list[int] = []
        self._busy = False

    def start(self) -> None:
        """Have ready what bears those processes, before there is anything that could hold it up."""
        from proctor.performing.executing.mother import (
            Mother,  # who needs none need not wait for it
        )

        self._mother = Mother()
        try:
            self._mother.start()
        except ProctorError:
            pass  # it is tried again

    def close(self, uid: int, connection: socket.socket) -> None:
        """Hang up on that user's, which is ours."""
        if is_trusted(uid):
            connection.close()
            return
        with self._lock:
            self._connections.append(connection.detach())
            start, self._busy = not self._busy, True
        if start:
            try:
                quiet_thread(self._run, "proctor-turning-away")
            except RuntimeError:  # no threads: with the next one
                self._busy = False

    def _run(self) -> None:
        while True:
            with self._lock:
                some = self._connections[: scm.MOST]
                del self._connections[: len(some)]
                self._busy = bool(some)
                if not some:
                    return
            try:
                if self._mother is None:
                    self.start()
                assert self._mother is not None
                self._mother.bear(functools.partial(_give, some)).close()
            except (ProctorError, OSError):
                pass
            for each in some:  # unless they were given away
                os.close(each)


def _give(fds: list[int], ours: socket.socket) -> None:
    """Send descriptors, and keep none of them, to a process that ends by the message before."""
    scm.send(ours, b"")
    scm.send(ours, b"", fds)
    while fds:
        os.close(fds.pop())


#: Of this process.
turning_away: Final = TurningAway()
