"""pidfd_open(2) and pidfd_getfd(2): a task held by a descriptor, and a file taken out of its table.

Sources: ``kernel/pid.c`` 5.3 (pidfd_open), 5.6 (pidfd_getfd), 6.9 (PIDFD_THREAD), 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proctor.model.kernel.files import File
from proctor.model.kernel.linux import (
    EBADF,
    EINVAL,
    ENOENT,
    ENOSYS,
    EPERM,
    ESRCH,
    O_NONBLOCK,
    PIDFD_THREAD,
    POLLIN,
    POLLRDNORM,
)
from proctor.model.kernel.tasks import DEAD
from proctor.model.kernel.waits import WaitQueue

if TYPE_CHECKING:
    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.tasks import Task


class Pidfd:
    """What a pidfd is: readable once its task is gone.

    It holds a number, not a task: who takes a leader's number over by execve(2) is then meant.
    """

    __slots__ = ("_task", "leader", "thread")

    def __init__(self, task: Task, thread: bool) -> None:
        self._task = task
        self.leader = task is task.process.leader
        self.thread = thread

    @property
    def task(self) -> Task | None:
        """Whom it means now; None if the number went with an execve(2) of its thread."""
        leader = self._task.process.leader
        if self.leader:
            return leader
        return None if self._task is leader else self._task

    def poll(self) -> int:
        """IN once the process (with PIDFD_THREAD: the thread) ended."""
        task = self.task
        over = task is None or (task.exiting if self.thread else task.process.code is not None)
        return POLLIN | POLLRDNORM if over else 0

    def queue(self) -> WaitQueue | None:
        """Waiting for it is not modelled."""
        return None

    def release(self) -> None:
        """Nothing to do."""


def open_pidfd(kernel: Kernel, task: Task, pid: int, flags: int) -> int:
    """pidfd_open(2); ENOSYS before 5.3.

    A number of a thread that leads no process is refused without PIDFD_THREAD: EINVAL, or ENOENT
    since 6.16.
    """
    if "pidfd_open" not in kernel.features:
        return -ENOSYS
    known = O_NONBLOCK | (PIDFD_THREAD if "pidfd_thread" in kernel.features else 0)
    if flags & ~known or pid <= 0:
        return -EINVAL
    target = task.process.namespace.tasks.get(pid)
    if target is None:
        return -ESRCH
    thread = bool(flags & PIDFD_THREAD)
    if not thread and target is not target.process.leader:
        return -ENOENT if "pidfd_open_enoent" in kernel.features else -EINVAL
    file = File("pidfd", inside=Pidfd(target, thread))
    return task.files.receive(file, task.process.nofile, True)


def may_look(task: Task, target: Task) -> bool:
    """``ptrace_may_access``, as far as it is modelled: always within a process; CAP_SYS_ADMIN
    stands for CAP_SYS_PTRACE; otherwise the same user and a dumpable target."""
    if task.process is target.process or task.cap_sys_admin:
        return True
    return task.uid == target.uid and not target.cap_sys_admin and target.process.dumpable


def getfd(kernel: Kernel, task: Task, pidfd: int, number: int) -> int:
    """pidfd_getfd(2): close-on-exec, also of O_PATH files (C099).

    ENOSYS before 5.6.  Refused in this order: reaped (ESRCH), not to be looked at (EPERM), ended (ESRCH), not open.
    """
    if "pidfd_getfd" not in kernel.features:
        return -ENOSYS
    file = task.files.get(pidfd)
    inside = file.inside if file is not None else None
    if not isinstance(inside, Pidfd):
        return -EBADF
    target = inside.task
    if target is None or target.state == DEAD:
        return -ESRCH
    if not may_look(task, target):
        return -EPERM
    wanted = None if target.exiting else target.files.get(number, path_too=True)
    if wanted is None:
        return -ESRCH if target.exiting else -EBADF
    return task.files.receive(wanted, task.process.nofile, True)
