"""What ran out when a performer could not be had: the monitor's own limits, in words.

Without these words an errno of ours would pass for one of the caller's, whose limits are others.
"""

from __future__ import annotations

import errno
import os
from typing import Final

_PROCESSES: Final = "more than RLIMIT_NPROC, its cgroup's pids.max or the machine allow"

#: Errors that say nothing about the caller, though they come from a look at it.
OURS: Final = frozenset(
    (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.ETOOMANYREFS)
)


def open_files() -> str:
    """The monitor's limit of descriptors, as the subject of a sentence."""
    import resource  # not everywhere where these words are imported

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = f", which can be raised to {hard}" if hard > soft else ""
    return f"the monitor's limit of open files (RLIMIT_NOFILE, ulimit -n) is {soft}{more}"


def why(error: OSError) -> str:
    """An error of ours, with the limit behind it where it is one."""
    text = f"{os.strerror(error.errno) if error.errno else error} (errno {error.errno})"
    if error.errno == errno.EMFILE:
        return f"the monitor is out of descriptors: {text}; {open_files()}"
    if error.errno == errno.ENFILE:
        return f"the machine is out of open files: {text}; fs.file-max sets the limit"
    if error.errno == errno.ETOOMANYREFS:
        return (
            f"too many descriptors of the monitor's user are being passed: {text}; {open_files()}"
        )
    if error.errno == errno.EAGAIN:
        return f"the monitor can have no more processes: {text}; that would be {_PROCESSES}"
    if error.errno in (errno.ENOMEM, errno.ENOBUFS):
        return f"the monitor is out of memory: {text}; its cgroup's memory.max, or the machine's"
    if error.errno == errno.EFBIG:
        return f"the monitor's limit of file sizes (RLIMIT_FSIZE, ulimit -f) holds for memory as well: {text}"
    return text


def lost() -> str:
    """A packet came without its descriptors (MSG_CTRUNC): there was no number left for them."""
    return f"the monitor is out of descriptors: it could not receive one; {open_files()}"


def pass_on(error: OSError) -> None:
    """Raise it again if it is about us: what could not be looked at for that reason is not known to
    be missing, and to remember it as missing would last longer than the want.

    :raises OSError: the error itself.
    """
    if error.errno in OURS:
        raise error
