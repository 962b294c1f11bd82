"""unshare, clone, clone3: how many user namespaces a container may make.

What is asked for stands in registers, so the kernel makes the call: with the caller's rights, and nothing lent.  Only
clone3 has its flags in memory; it is ENOSYS, after which C libraries use clone.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from proctor.call.verdict import deny, let_run_unsafe
from proctor.performing.given import Given

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work

_KERNELS: Final = "its flags stand in a register, and nothing is lent"

_NEWUSER: Final = 0x10000000
#: Where clone has its flags: second on s390 (CONFIG_CLONE_BACKWARDS2), first elsewhere.
_SECOND: Final = ("s390", "s390x")


class Options(Given):
    """See docs/families/userns.md.

    :param most: how many user namespaces a container may make, in all.
    """

    most: int = 0

    def check(self) -> None:
        if type(self.most) is not int or self.most < 0:
            raise ValueError(f"most is a number from 0, not {self.most!r}")


def perform(task: Task) -> Work:
    """Count, and let it."""
    yield from ()
    call = task.call
    if call.name == "clone3":
        return deny(errno.ENOSYS, "its flags are in memory; clone has them in a register")
    flags = call.registers[1 if call.name == "clone" and call.abi in _SECOND else 0]
    if not flags & _NEWUSER:
        return let_run_unsafe(_KERNELS)
    most = task.options(Options).most
    if task.host.counted(call, "user namespaces", most) >= most:
        return deny(
            errno.ENOSPC, f"{most} user namespaces were made"
        )  # as user.max_user_namespaces
    return let_run_unsafe(_KERNELS)
