"""connect: made on the caller's own socket.

That socket is pinned by pidfd_getfd(2), once, and the kernel makes the call on the pin, with the address
that was read, once: in the caller's identity, so that socket files are found and judged as they are for
it.  So a rule about addresses is no race.

With options the socket can reach another network (``network``), and another address (``to``).  A socket
is of the network that it was made in, so it is replaced by one of the other (:mod:`..sockets`), which is
connected first: without waiting, so that it can be given to the caller in the middle of that, where the
caller does not wait or a signal interrupts it.  What the kernel refuses there is the answer, and the
caller keeps its old socket.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from proctor.performing.networks.routes import Route

if TYPE_CHECKING:
    from proctor.call.call import Call
    from proctor.performing.performers import Performers
    from proctor.performing.short_ways.short import Ordinary
    from proctor.performing.task import Task, Work

#: See :func:`proctor.performing.registry.load`.
WAYS: Final = ("proctor.performing.networks.connecting",)


class Options(Route):
    """See docs/families/connect.md."""


class Unread(Options):
    """Of a policy's, for an address that none of its rules can read: the kernel says what is wrong with it."""

    plain = False


def perform(task: Task) -> Work:
    """Connect the caller's socket."""
    from proctor.performing.networks import connecting, sockets
    from proctor.performing.paths import pins

    number, route = pins.signed(task.call.registers[0]), task.options(Options)
    fd = sockets.take(task, number)
    if isinstance(route, Unread):
        return (yield from connecting.unread(task, fd, number))
    return (yield from connecting.perform(task, route, fd, number))


def short_way(
    performers: Performers, name: str, listener: object, begins: Callable[[Call], object] | None
) -> Ordinary:
    """What supervisors ask first."""
    from proctor.performing.networks.connecting import ConnectWay

    return ConnectWay(performers, sys.modules[__name__], begins).way(listener)
