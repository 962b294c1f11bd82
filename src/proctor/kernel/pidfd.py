"""Pidfds: processes and threads that cannot be mistaken for others, on kernels that have them.

A pidfd is no pin of a number: the number is free for somebody else once its process was waited for.
What is done through the pidfd meets nobody else.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Callable
from typing import Final

from proctor.errors import Unsupported

#: Flag of pidfd_open(2): a pidfd of the thread itself (Linux 6.9); the same bit as O_EXCL.
PIDFD_THREAD: Final = 0o200

#: Also children whose exit signal is not SIGCHLD (wait(2)), as that of a target before its execve.
WALL: Final = 0x40000000


def open_pidfd(tid: int, tgid: Callable[[], int]) -> tuple[int, bool]:
    """(pidfd, whether it is the thread's own): of the thread if the kernel can, else of its process.

    :param tgid: asked only if it is needed.
    :raises OSError: ESRCH if there is no such thread.
    :raises Unsupported: a kernel without pidfds.
    """
    for number, flags in ((tid, PIDFD_THREAD), (tid, 0), (0, 0)):
        leader = number or tgid()
        try:
            return os.pidfd_open(leader, flags), flags == PIDFD_THREAD or leader == tid
        except OSError as error:
            # EINVAL: the flag is unknown.  EINVAL, and ENOENT on newer kernels: not a leader.
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                if error.errno == errno.ENOSYS:
                    break
                raise
    raise Unsupported("pidfd_open of the caller", "5.3", "its descriptors cannot be taken")


def take_descriptor(pidfd: int, fd: int) -> int:
    """A duplicate of descriptor ``fd`` of the process behind ``pidfd``: the asker's to close, CLOEXEC
    (pidfd_getfd(2), Linux 5.6; needs ptrace access).

    :raises OSError: EBADF if nothing is open there, EPERM without access, ESRCH if it is dead.
    """
    from proctor.kernel.raw import pidfd_getfd

    return pidfd_getfd(pidfd, fd)


def shares_descriptors(tid: int, tgid: int) -> bool:
    """Whether two threads have one descriptor table; False where it cannot be told (kcmp(2))."""
    from proctor.kernel.raw import kcmp_files

    try:
        return tid == tgid or kcmp_files(tid, tgid)
    except OSError:
        return False


def number_of(pidfd: int) -> int:
    """The process's number in our pid namespace, as long as it was not waited for; 0 if it has none there, -1 once it
    was (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
        return int(next(line for line in file if line.startswith(b"Pid:")).split()[1])


def has_ended(pidfd: int) -> bool:
    """Whether it is dead, waited for or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def send_signal(pidfd: int, number: int = 9) -> bool:
    """Signal the process or thread; False if it is dead."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def reap(pidfd: int) -> None:
    """Wait for a child to end, whatever its exit signal; it may have been waited for already."""
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | WALL)
    except ChildProcessError:
        pass  # SIGCHLD is ignored in this process, or somebody waits for any child
