"""Work in a child of the performer, which has next to nothing and does not live on.

Two kinds of work are done apart: walking where magic links are followed on the caller's word, and
opening what is on procfs or is a device under other rules.  The first may end in the walker's own
``/proc``, the second may open its own ``mem``: neither is worth anything when the child is gone,
which it is before anybody sees the result.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from proctor.emulate import raw, scarce, wire
from proctor.emulate.become import Trouble

NO_CGROUP: Final = "the caller's cgroup cannot be joined, so its rules for devices would not hold"


def apart(
    work: Callable[[], int | None],
    keep: tuple[int, ...] = (),
    join: bool = False,
    cgroups: list[int] | None = None,
) -> int:
    """Do ``work`` in a child with no descriptors but ``keep``; it is gone before this returns.

    :param join: be a member of the caller's cgroups there.
    :returns: the descriptor that ``work`` returned, or -1.
    """
    if join and cgroups is None:
        raise Trouble(NO_CGROUP)
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        child = os.fork()
    except OSError as error:  # not the caller's errors
        raise Trouble(f"a performer cannot have a child: {scarce.why(error)}") from None
    if child == 0:
        try:
            raw.die_with_parent(parent)
            if join and not join_cgroups(cgroups):
                wire.send(theirs, wire.REPLY.pack(wire.TROUBLE, 0))
                os._exit(0)
            _close_all_but({theirs.fileno(), *keep})
            fd = work()
            wire.send(theirs, wire.REPLY.pack(wire.DONE, 0), () if fd is None else [fd])
        except OSError as error:
            wire.send(theirs, wire.REPLY.pack(wire.DONE, error.errno or errno.EIO))
        finally:
            os._exit(0)
    theirs.close()
    try:
        packet = wire.receive(ours)
    finally:
        ours.close()
        os.waitpid(child, 0)
    if not packet.data:
        raise Trouble("a performer's child died")
    if packet.cut:
        raise Trouble(f"a performer is out of descriptors; {scarce.open_files()}")
    if packet.data[0] == wire.TROUBLE:
        raise Trouble(NO_CGROUP)
    number = wire.REPLY.unpack_from(packet.data)[1]
    if number:
        raise raw.error(number)
    return packet.fds[0] if packet.fds else -1


def join_cgroups(cgroups: list[int] | None) -> bool:
    """Become a member of the groups whose ``cgroup.procs`` these are."""
    try:
        for group in cgroups or ():
            os.write(group, b"0")
    except OSError:
        return False
    return True


def _close_all_but(keep: set[int]) -> None:
    low = 0
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 20)
