"""Threads that a caller means by its numbers."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING, Final

from proctor.performing.trouble import Said

if TYPE_CHECKING:
    from proctor.performing.task import Task

_NS_GET_PID_FROM_PIDNS: Final = 0x8004B706  # since Linux 6.11


def thread(task: Task, number: int) -> tuple[int, int]:
    """(a thread as we number it, a pidfd of it) for the caller's number.

    :raises Said: there is none (ESRCH)."""
    from proctor.kernel.pidfd import open_pidfd

    tid = _translated(task, number)
    try:
        pidfd, _ = open_pidfd(tid, lambda: _leader(tid))
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            raise
        raise Said(errno.ESRCH) from None
    task.hold(pidfd)
    if _translated(task, number) != tid or dead(pidfd):
        raise Said(errno.ESRCH)
    return tid, pidfd


def _leader(tid: int) -> int:
    with open(f"/proc/{tid}/status", "rb") as file:  # a name may have what ends a line of a text
        return next(int(line.split()[1]) for line in file if line.startswith(b"Tgid:"))


def _translated(task: Task, number: int) -> int:
    import fcntl  # policies are looked over where it is not

    if not number:
        return task.call.tid
    if number < 0:
        raise Said(errno.ESRCH)
    namespace = task.caller.namespace_fd("pid")
    if os.fstat(namespace).st_ino == task.own.who.namespace("pid"):
        return number
    try:
        found: int = fcntl.ioctl(namespace, _NS_GET_PID_FROM_PIDNS, number)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise Said(errno.ESRCH) from None
        found = _searched(os.fstat(namespace).st_ino, number)
    if found <= 0:
        raise Said(errno.ESRCH)
    return found


def _searched(namespace: int, number: int) -> int:
    """The same on older kernels; 0 if there is none."""
    for each in os.listdir("/proc"):
        if not each.isdigit():
            continue
        try:
            if os.stat(f"/proc/{each}/ns/pid").st_ino != namespace:
                continue
            for tid in os.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{tid}/status", "rb") as file:
                    line = next(line for line in file if line.startswith(b"NSpid:"))
                if int(line.split()[-1]) == number:
                    return int(tid)
        except OSError:
            continue  # it is gone
    return 0


def dead(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
