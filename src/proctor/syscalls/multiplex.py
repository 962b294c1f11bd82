"""socketcall(2) and ipc(2): one number that stands for many calls.

i386, s390x and ppc64le programs may make ``socket`` as ``socketcall(1, ...)``, with the arguments
in memory where no filter can see them.  A rule on ``socket`` without conditions therefore also
covers ``socketcall`` with that first argument, as libseccomp does; a rule with conditions cannot.
Sources: include/uapi/linux/net.h, include/uapi/linux/ipc.h.
"""

from __future__ import annotations

from typing import Final

from proctor.filter.conditions import Test

#: Architectures whose kernels have the two calls, of those with tables.
ARCHES: Final = frozenset({"i386", "s390x", "ppc64le"})

#: The kernel looks at the low 16 bits of ipc's first argument (a version is above them) and
#: takes socketcall's as an int.
MASKS: Final = {"socketcall": 0xFFFFFFFF, "ipc": 0xFFFF}

#: Call to (the call that multiplexes it, its first argument there).
MEMBERS: Final[dict[str, tuple[str, int]]] = {
    "socket": ("socketcall", 1),
    "bind": ("socketcall", 2),
    "connect": ("socketcall", 3),
    "listen": ("socketcall", 4),
    "accept": ("socketcall", 5),
    "getsockname": ("socketcall", 6),
    "getpeername": ("socketcall", 7),
    "socketpair": ("socketcall", 8),
    "send": ("socketcall", 9),
    "recv": ("socketcall", 10),
    "sendto": ("socketcall", 11),
    "recvfrom": ("socketcall", 12),
    "shutdown": ("socketcall", 13),
    "setsockopt": ("socketcall", 14),
    "getsockopt": ("socketcall", 15),
    "sendmsg": ("socketcall", 16),
    "recvmsg": ("socketcall", 17),
    "accept4": ("socketcall", 18),
    "recvmmsg": ("socketcall", 19),
    "sendmmsg": ("socketcall", 20),
    "semop": ("ipc", 1),
    "semget": ("ipc", 2),
    "semctl": ("ipc", 3),
    "semtimedop": ("ipc", 4),
    "msgsnd": ("ipc", 11),
    "msgrcv": ("ipc", 12),
    "msgget": ("ipc", 13),
    "msgctl": ("ipc", 14),
    "shmat": ("ipc", 21),
    "shmdt": ("ipc", 22),
    "shmget": ("ipc", 23),
    "shmctl": ("ipc", 24),
}


def member(call: str) -> tuple[str, Test]:
    """The multiplexing call for one of :data:`MEMBERS`, and the test that picks it out."""
    through, value = MEMBERS[call]
    return through, Test(0, False, value, MASKS[through], False)
