"""kcmp(2): whether two descriptors are one open file, or two tasks share a table.

Sources: ``kernel/kcmp.c`` 6.12; kcmp(2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proctor.model.kernel.linux import EBADF, EINVAL, EPERM, ESRCH
from proctor.model.kernel.pidfds import may_look

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import Task

KCMP_FILE: Final = 0
KCMP_FILES: Final = 2


def kcmp(
    kernel: Kernel, task: Task, pid1: int, pid2: int, kind: int, first: int, second: int
) -> int:
    """0 for the same, 1 or 2 for an order that stays the same as long as the machine runs.

    Only KCMP_FILE and KCMP_FILES are modelled; the other kinds are EINVAL here.

    Source: ``kernel/kcmp.c`` 6.12 ``SYSCALL_DEFINE5(kcmp)``, ``kcmp_ptr``.
    """
    tasks = task.process.namespace.tasks
    one, other = tasks.get(pid1), tasks.get(pid2)
    if one is None or other is None:
        return -ESRCH
    if not may_look(task, one) or not may_look(task, other):
        return -EPERM
    if kind == KCMP_FILES:
        return _compare(kernel, one.files, other.files)
    if kind != KCMP_FILE:
        return -EINVAL
    left, right = one.files.get(first, path_too=True), other.files.get(second, path_too=True)
    if left is None or right is None:
        return -EBADF
    return _compare(kernel, left, right)


def _compare(kernel: Kernel, left: object, right: object) -> int:
    """The kernel compares scrambled addresses; here whoever was compared first is the smaller.

    Source: ``kernel/kcmp.c`` 6.12 ``kptr_obfuscate``, ``kcmp_ptr``.
    """
    if left is right:
        return 0
    order = kernel.compared
    for one in (left, right):
        if not any(known is one for known in order):
            order.append(one)
    at = [next(n for n, known in enumerate(order) if known is one) for one in (left, right)]
    return 1 if at[0] < at[1] else 2
