"""write, writev: before they happen, what is written to is replaced by a log.

A program's standard output is a descriptor that its parent chose long ago.  Here it is exchanged while the
program runs (SECCOMP_IOCTL_NOTIF_ADDFD with SETFD), in the very call that writes next: that goes to the
log already, and nothing is lost or torn.  It stays for as long as the log does: a log that was renamed,
removed or has its size is left for a new one, again in the next call that writes.

Only what was inherited from the monitor is replaced (the same file that it has there), and logs of
before: what a program redirected itself (a pipe, a file) is left alone.  The kernel makes the call.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from proctor.call.verdict import let_run_unsafe
from proctor.performing.given import Given
from proctor.performing.trouble import Trouble

if TYPE_CHECKING:
    from proctor.performing.task import Task, Work


class Options(Given):
    """See docs/families/streams.md.

    :param file: path of the log, as the monitor sees it; made if it is not there, appended to if it is.
    :param size: bytes after which it is left for a new one; 0: never.
    :param keep: how many older ones are kept then, as ``FILE.1`` (the latest), ``FILE.2``...
    :param instead: of which descriptor of the monitor's the caller's is a copy, if it is not the one of the
        same number.
    """

    file: str = ""
    size: int = 0
    keep: int = 1
    instead: int = -1

    def check(self) -> None:
        if not isinstance(self.file, str) or self.file[:1] != "/":
            raise ValueError(f"file is the path of a log, from the root, not {self.file!r}")
        for name, least in (("size", 0), ("keep", 0), ("instead", -1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} is a number from {least}, not {value!r}")


def perform(task: Task) -> Work:
    """See that the caller writes to the log, and let it."""
    options = task.options(Options)
    if not options.file:
        raise Trouble("no log is given: perform = { file = ... }")
    number = task.call.registers[0] & 0xFFFFFFFF
    yield from ()
    try:
        seen = os.stat(f"fd/{number}", dir_fd=task.standing.proc)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    else:  # of what is not open the kernel says EBADF
        inherited = number if options.instead < 0 else options.instead
        log = task.host.logs.due(options, (seen.st_dev, seen.st_ino), inherited)
        if log is not None:
            try:
                task.call.place(log, number)
            finally:
                os.close(log)
    return let_run_unsafe("where it writes was seen to; what it writes is its own")
