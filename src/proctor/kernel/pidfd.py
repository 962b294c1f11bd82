"""Pidfds of threads, on kernels that have them and on those that do not."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from proctor.errors import Unsupported

#: Flag of pidfd_open(2): a pidfd of the thread itself (Linux 6.9); the same bit as O_EXCL.
PIDFD_THREAD: Final = 0o200


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


def shares_descriptors(tid: int, tgid: int) -> bool:
    """Whether two threads have one descriptor table; False where it cannot be told (kcmp(2))."""
    if tid == tgid:
        return True
    import ctypes

    from proctor.syscalls import architectures, tables

    libc = ctypes.CDLL(None, use_errno=True)
    kcmp_files = 2
    number = tables.number("kcmp", architectures.native())
    return int(libc.syscall(number, tid, tgid, kcmp_files, 0, 0)) == 0
