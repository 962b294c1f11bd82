"""A root directory for callers whose own is gone: one of procfs, of a process that has ended.

Sandboxes (Chromium's among them) take such a directory on purpose: it is what ``/proc/PID/fdinfo`` is
once its process is dead, and nothing can be reached from there, though what the program has open stays in
its reach.  Nobody can take on a dead process's directory, since the kernel says ESRCH to whoever asks for any
right there (``proc_pid_permission`` and ``proc_fdinfo_permission`` of fs/proc/): so an executor takes on that of a process
of ours, which lives for that long.
"""

from __future__ import annotations

import os
from typing import Final

from proctor.performing.executing.mother import Mother

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


def is_fdinfo(directory: int) -> bool:
    """Whether it is, of those directories, the one that writing to is not refused before (EPERM, as the process's
    own is immutable)."""
    return os.readlink(f"/proc/self/fd/{directory}").rpartition("/")[2].startswith("fdinfo")


class Nowhere:
    """A process of which nothing is wanted but its directory, and its end: :meth:`end` it.

    :param inside: the name of a directory there; an empty one for the process's own.
    :raises Trouble: it cannot be started.
    :raises OSError: out of descriptors.
    """

    def __init__(self, inside: str) -> None:
        self._process = Mother()
        self._process.start()
        try:
            self._fd = os.open(f"/proc/{self._process.pid}/{inside}", _PLACE)
        except BaseException:
            self._process.close()
            raise

    def directory(self) -> int:
        """A new O_PATH descriptor of its directory, from which nothing can be reached after its end."""
        return os.dup(self._fd)

    def end(self) -> None:
        """End it, and wait for that.  Idempotent."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        self._process.close()
        while not is_gone(fd):
            os.sched_yield()  # somebody else in this process is about to reap it
        os.close(fd)
