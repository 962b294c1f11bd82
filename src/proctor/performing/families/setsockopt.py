"""setsockopt of the options that need a right: set on the caller's own socket, with that right lent.

A socket of the caller's own network has them by the rights that the caller has there.  One of another
network (:mod:`.connect`, :mod:`.bind`, :mod:`.socket`) is owned by somebody else, and the kernel asks for
CAP_NET_ADMIN or CAP_NET_RAW over *that* (``sk_setsockopt`` in net/core/sock.c, ``do_ip_setsockopt`` in
net/ipv4/ip_sockglue.c, ``tcp_set_congestion_control`` in net/ipv4/tcp_cong.c).  All other options need none, and
are the kernel's.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import answer, deny, let_run_unsafe
from proctor.errors import MemoryUnreadable
from proctor.performing.executing.single import NUMBER, SENT, Hole, Shape
from proctor.performing.given import Given
from proctor.performing.paths import pins
from proctor.performing.trouble import Powerless

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work

_NET_ADMIN, _NET_RAW = 12, 13
_SOCKET, _IP, _TCP, _IPV6 = 1, 0, 6, 41
#: (level, option): the capability.  Numbers are the generic ones of include/uapi/asm-generic/socket.h; the
#: socket's own level is 0xffff on MIPS, SPARC and PA-RISC, whose options are left to the kernel.
RIGHTS: Final = {
    (_SOCKET, 1): _NET_ADMIN,  # SO_DEBUG
    (_SOCKET, 12): _NET_ADMIN,  # SO_PRIORITY, above 6
    (_SOCKET, 25): _NET_RAW,  # SO_BINDTODEVICE, a second time
    (_SOCKET, 32): _NET_ADMIN,  # SO_SNDBUFFORCE
    (_SOCKET, 33): _NET_ADMIN,  # SO_RCVBUFFORCE
    (_SOCKET, 36): _NET_ADMIN,  # SO_MARK
    (_SOCKET, 46): _NET_ADMIN,  # SO_BUSY_POLL, longer
    (_SOCKET, 61): _NET_ADMIN,  # SO_TXTIME
    (_SOCKET, 69): _NET_ADMIN,  # SO_PREFER_BUSY_POLL
    (_IP, 19): _NET_RAW,  # IP_TRANSPARENT
    (_IPV6, 75): _NET_RAW,  # IPV6_TRANSPARENT
    (_TCP, 13): _NET_ADMIN,  # TCP_CONGESTION, of an algorithm that not everybody may have
}
#: How much of their value the kernel reads, where it is no int: a name, flags.
_LONGER: Final = {(_SOCKET, 25): 15, (_SOCKET, 61): 8, (_TCP, 13): 15}
_MOST: Final = 64  # none of them is longer than the name of a device or an algorithm
_SETTING: Final = Shape("setsockopt", SENT, NUMBER, NUMBER, Hole(_MOST), NUMBER)
#: With a value that cannot be read, which is the kernel's to say in its time.
_NOWHERE: Final = Shape("setsockopt", SENT, NUMBER, NUMBER, 1, NUMBER)
_KERNELS: Final = "the kernel decides about this option, by the caller's own rights"


class Options(Given):
    """See docs/families/bind.md.

    :param privileged: whether they are set for callers without the capability, too.
    """

    privileged: bool = False

    def check(self) -> None:
        if not isinstance(self.privileged, bool):
            raise ValueError(f"privileged is true or false, not {self.privileged!r}")


def perform(task: Task) -> Work:
    """Set the option for the caller."""
    from proctor.performing.identities.lender import with_right
    from proctor.performing.networks import sockets

    registers = task.call.words
    level, option, length = (pins.signed(registers[at]) for at in (1, 2, 4))
    right = RIGHTS.get((level, option))
    if right is None or not 0 <= length <= _MOST:
        yield from ()
        return let_run_unsafe(_KERNELS)
    fd = sockets.take(task, pins.signed(registers[0]))
    data: bytes | None = b""
    try:  # as much as the kernel looks at
        read = min(length, _LONGER.get((level, option), 4))
        data = task.call.copied(registers[3], read).ljust(length, b"\0") if length else b""
    except MemoryUnreadable:
        data = None
    values = (level, option, length) if data is None else (level, option, data, length)
    failed = yield from (_NOWHERE if data is None else _SETTING)().ask(
        task.session, *values, fds=(fd,)
    )
    if data is None or failed not in (errno.EPERM, errno.EACCES):
        return deny(failed) if failed else answer(0)
    if not task.options(Options).privileged and not (
        task.who.effective >> right & 1 and task.owned()
    ):
        return deny(failed)
    try:
        failed = yield from with_right(task, right, "setsockopt", fd, level, option, data, length)
    except Powerless:
        return deny(failed, "it needs a right over the host's network, which the monitor has not")
    return deny(failed) if failed else answer(0)
