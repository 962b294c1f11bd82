"""socketcall(2) and ipc(2): one number that stands for many calls.

Programs of i386, s390, 64-bit PowerPC and others may make ``socket`` as ``socketcall(1, ...)``, with
the arguments in memory where no filter can see them.  A rule on ``socket`` without conditions
therefore also covers ``socketcall`` with that first argument, as libseccomp does; a rule with
conditions cannot.

    >>> member("connect", "i386")
    Member(through='socketcall', number=3, mask=4294967295)
    >>> member("connect", "x86_64") is None
    True

Sources: include/uapi/linux/net.h, include/uapi/linux/ipc.h.
"""

from __future__ import annotations

from typing import Final

from proctor.records import NamedTuple
from proctor.syscalls.tables import numbers

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


#: Multiplexed calls that do what another name does: send(2) is sendto(2) without an address.
_SAME: Final[dict[str, tuple[str, ...]]] = {"sendto": ("send",), "recvfrom": ("recv",)}


class Member(NamedTuple):
    """``through(first, ...)`` is the call where ``first & mask == number``."""

    through: str
    number: int
    mask: int


def member(call: str | int, arch: str) -> Member | None:
    """How ``call`` is made through another one on ``arch``; None if it is not."""
    through, number = MEMBERS.get(str(call), ("", 0))
    return Member(through, number, MASKS[through]) if through in numbers(arch) else None


def callable_on(call: str, arch: str) -> bool:
    """Whether ``arch`` has it, by a number of its own or within socketcall or ipc."""
    return call in numbers(arch) or member(call, arch) is not None


def members(call: str, arch: str) -> tuple[Member, ...]:
    """Every way in which what ``call`` does is done through another call on ``arch``."""
    found = (member(name, arch) for name in (call, *_SAME.get(call, ())))
    return tuple(each for each in found if each is not None)


#: Those that have no number of their own where others have: the same with arguments that are zero.
_LONGER: Final = {"accept": "accept4", "send": "sendto"}


def meant(through: str, number: int) -> str:
    """What a multiplexed call stands for; empty if it stands for none."""
    return next((name for name, which in MEMBERS.items() if which == (through, number)), "")


def directly(call: str, arch: str) -> str | None:
    """The name under which ``arch`` does what ``call`` does by a number of its own; None if it has none.

    >>> directly("connect", "i386"), directly("accept", "i386"), directly("recv", "i386")
    ('connect', 'accept4', None)
    """
    known = numbers(arch)
    return next((name for name in (call, _LONGER.get(call, "")) if name in known), None)
