"""Runs a command where calls, flags and commands that came after some release of Linux fail as that kernel has them fail:
``python -m tests.performing.older 6.1 python -m pytest tests/performing/families/test_names.py``.  As root.

It is a filter, so it sees registers alone, and what supervised programs call fails before anybody is notified: for callers
whose calls are made up (:mod:`tests.performing.support.callers`).
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Final

from proctor.filter import actions
from proctor.filter.conditions import Condition
from proctor.filter.rules import Filter, Rule
from proctor.kernel import seccomp


def _no(number: int, *names: str, **registers: int) -> Rule:
    """Calls fail where each of these registers has one of these bits, or all are 0 if none is named."""
    conditions = [
        Condition(int(at[1:]), "!=", 0, mask) if mask else Condition(int(at[1:]), "==", 0)
        for at, mask in registers.items()
    ]
    return Rule(names, actions.errno(number), conditions)


def _exactly(number: int, name: str, at: int, value: int) -> Rule:
    return Rule((name,), actions.errno(number), (Condition(at, "==", value, 0xFFFFFFFF),))


#: By the release that had it first.
SINCE: Final = {
    (6, 17): (_no(errno.ENOSYS, "file_getattr", "file_setattr"),),
    (6, 13): (
        _no(errno.ENOSYS, "setxattrat", "getxattrat", "listxattrat", "removexattrat"),
        *(_exactly(errno.ENOTTY, "ioctl", 1, 0xC000FF0B | size << 16) for size in (0x40, 0x48, 0x50, 0x58)),  # PIDFD_GET_INFO
    ),
    (6, 11): (
        _no(errno.EFAULT, "statx", a1=0, a2=0x1000), _no(errno.EFAULT, "newfstatat", a1=0, a3=0x1000),
        *(_exactly(errno.ENOTTY, "ioctl", 1, each) for each in (0x8004B706, 0xC0686611)),  # NS_GET_PID_FROM_PIDNS, PROCMAP_QUERY
    ),
    (6, 10): (_no(errno.ENOENT, "linkat", a4=0x1000),),  # of who has no right on the host
    (6, 9): (_no(errno.EINVAL, "pidfd_open", a1=0x80),),  # PIDFD_THREAD
    (6, 8): (_no(errno.ENOSYS, "statmount", "listmount"),),
    (6, 6): (_no(errno.ENOSYS, "fchmodat2"), _exactly(errno.EOPNOTSUPP, "fsconfig", 1, 8)),
    (6, 5): (
        _no(errno.EINVAL, "move_mount", a4=0x200),
        *(_exactly(errno.ENOPROTOOPT, name, 2, each) for name in ("setsockopt", "getsockopt") for each in (76, 77)),
    ),
    (6, 3): (_no(errno.EINVAL, "memfd_create", a1=0x18),),
    (5, 15): (_exactly(errno.ENOTTY, "ioctl", 1, 0x80081280),),  # BLKGETDISKSEQ
    (5, 14): (_no(errno.ENOSYS, "quotactl_fd"),),
    (5, 12): (_no(errno.ENOSYS, "mount_setattr"),),
    (5, 11): (_no(errno.EINVAL, "close_range", a2=4),),
}  # fmt: skip


def become(release: tuple[int, ...]) -> None:
    """This process and all that come of it."""
    rules = [rule for since, each in SINCE.items() if since > release for rule in each]
    code = Filter(rules, actions.ALLOW, foreign=actions.ALLOW).compile().code
    seccomp.load(code, 0)


if __name__ == "__main__":
    become(tuple(map(int, sys.argv[1].split("."))))
    os.execvp(sys.argv[2], sys.argv[2:])
