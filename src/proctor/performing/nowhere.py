"""A root directory for callers whose own is gone: one of procfs, of a thread that has ended.

Sandboxes (Chromium's among them) take such a directory on purpose: it is what ``/proc/PID/fdinfo`` is
once its process is dead, and nothing can be reached from there, though what the program has open stays in
its reach.  A dead process's directory cannot be taken on (ESRCH: ``proc_pid_permission`` in fs/proc/base.c);
a dead thread's can, and has nothing in it either (ENOENT).
"""

from __future__ import annotations

import os
import threading
from typing import Final

from proctor.kernel.threads import quiet_thread
from proctor.performing.trouble import Trouble

_PLACE: Final = (
    getattr(os, "O_PATH", 0) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
)


def is_gone(directory: int) -> bool:
    """Whether this is a directory of procfs of a process that is dead.

    :param directory: an O_PATH descriptor."""
    try:
        os.close(os.open(b".", _PLACE, dir_fd=directory))
    except ProcessLookupError:
        return True
    except OSError:
        pass  # whoever takes it on is told why it cannot be
    return False


def nowhere() -> int:
    """A new O_PATH descriptor of a directory from which nothing can be reached, ever.

    :raises Trouble: there are no more threads for us.
    :raises OSError: out of descriptors."""
    over = threading.Event()
    try:
        thread = quiet_thread(over.wait, "proctor-nowhere")
    except RuntimeError as error:
        raise Trouble(str(error)) from None
    try:
        fd = os.open(f"/proc/self/task/{thread.native_id}", _PLACE)
    finally:
        over.set()
    thread.join()
    while _lives(fd):
        os.sched_yield()  # Python's thread has ended, the kernel's is just about to
    return fd


def _lives(fd: int) -> bool:
    try:
        os.stat(b"status", dir_fd=fd)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True
