"""What the monitor and its performers say to each other, over SOCK_SEQPACKET.

Two kinds of sockets.  On the *control* socket the monitor tells the parent of all performers
(:mod:`proctor.emulate._performer`) to make one: one packet, a marshalled dict, with descriptors; the
first of them is the new performer's own socket.  Performers never write there.

On a *performer's* socket packets have fixed layouts, since what comes from there is not trusted more
than the caller it acts for::

    monitor → performer   Request header, NStgid/NSpid text, path   [the directory the path starts at]
    performer → monitor   Reply header, text                        [a descriptor]
    monitor → performer   ALLOW or REFUSE                           after Reply ASK
"""

from __future__ import annotations

import os
import socket
import struct
from array import array
from typing import Final, NamedTuple

#: op, options, umask, length of the pid text, flags, mode, resolve (open) or device (mknod).
REQUEST: Final = struct.Struct("=BBHHxxQQQ")
#: kind, errno.
REPLY: Final = struct.Struct("=Bxxxi")

OP_OPEN: Final = 1
OP_MKNOD: Final = 2
#: Open again what the passed descriptor is, with other flags; no path.
OP_REOPEN: Final = 3

#: A directory descriptor comes with the request.
HAS_DIR: Final = 1
#: The directory descriptor of the caller does not exist: let the kernel say what it says then.
BAD_DIR: Final = 2
#: Ask before anything is opened or made.
ASK_FIRST: Final = 4
#: Devices are opened and made by a member of the caller's cgroups.
OTHER_CGROUP: Final = 8

ALLOW: Final = b"\1"
REFUSE: Final = b"\0"

#: The performer is ready; its pidfd comes along.
READY: Final = 1
#: The call ended with this errno; 0 is success.
DONE: Final = 2
#: The call opened the descriptor that comes along.
OPENED: Final = 3
#: The text is the path of what was pinned: may it be used?
ASK: Final = 4
#: The caller may make a node here but for CAP_MKNOD over the host: the directory comes along;
#: errno carries ON_NODEV.
NEEDS_RIGHT: Final = 5
#: /dev/tty: the terminal is the caller's, which the monitor can find.
CONTROLLING_TTY: Final = 6
#: The performer could not do its work; the text says why.
TROUBLE: Final = 7
#: As DONE 0, but what was made does not work there (a file system of a user namespace).
USELESS: Final = 8
#: The monitor itself has no right to make device nodes.
POWERLESS: Final = 9

#: The directory's mount has nodev.
ON_NODEV: Final = 1

#: Longest request or reply: a path of PATH_MAX and the pid texts.
LONG: Final = 1 << 14
#: Longest packet on the control socket: NGROUPS_MAX groups are more than that, and refused in words.
LONGEST: Final = 1 << 17

_INTS: Final = socket.CMSG_SPACE(4 * 16)
_RIGHTS: Final = (socket.SOL_SOCKET, socket.SCM_RIGHTS)


class Packet(NamedTuple):
    """One packet and the descriptors that came with it (ours now, CLOEXEC)."""

    data: bytes
    fds: tuple[int, ...]
    #: Descriptors were lost on the way: the receiver has no numbers left for them.
    cut: bool = False

    def drop(self) -> None:
        """Close the descriptors, which nobody wants."""
        for fd in self.fds:
            os.close(fd)


def send(sock: socket.socket, data: bytes, fds: tuple[int, ...] | list[int] = ()) -> None:
    """Send one packet; the descriptors stay ours too."""
    if fds:
        sock.sendmsg([data], [(*_RIGHTS, array("i", fds))], socket.MSG_NOSIGNAL)
    else:
        sock.send(data, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, size: int = LONG, flags: int = 0) -> Packet:
    """Receive one packet; empty data is the end.  ``socket.recv_fds`` would lose CLOEXEC."""
    data, ancillary, marks, _ = sock.recvmsg(size, _INTS, socket.MSG_CMSG_CLOEXEC | flags)
    if not ancillary and not marks & socket.MSG_CTRUNC:
        return Packet(data, ())
    fds = array("i")
    for level, kind, content in ancillary:
        if (level, kind) == _RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % 4])
    return Packet(data, tuple(fds), bool(marks & socket.MSG_CTRUNC))
