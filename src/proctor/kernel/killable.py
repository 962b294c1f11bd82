"""Whether callers wait for their answers whatever signals come, but a deadly one (WAIT_KILLABLE_RECV, Linux 5.19).

A listener does not tell, nor does whoever sends one.  So one of its callers is watched as it waits.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Final

from proctor.kernel import _core, abi
from proctor.kernel.thread import stat_fields

#: No table of descriptors is so large.
_NO_NUMBER: Final = 0xFFFFFFFF
_LOOKS: Final = 50
#: Seconds between two looks at one that does not wait yet.
_PAUSE: Final = 1e-4
#: So often in succession: who wants a lock of the kernel's for a moment looks alike.
_SURE: Final = 3


def waits_killably(listener: int, id: int, tid: int) -> bool | None:
    """Of the caller of a notification that is received and unanswered; all of one listener are alike.  None if that
    could not be seen, or it is gone.

    It is woken, so that it waits anew and as it does from now on (``should_sleep_killable`` of kernel/seccomp.c), by a
    descriptor for a number that cannot be: it refuses that itself (EBADF, ``replace_fd`` of fs/file.c).

    :param tid: its thread, as we see it; 0 if we do not."""
    try:
        stat = os.open(f"/proc/{tid}/stat", os.O_RDONLY | os.O_CLOEXEC) if tid else -1
    except OSError:
        return None
    try:
        return _seen(listener, id, stat) if stat >= 0 and _woken(listener, id) else None
    except OSError:
        return None  # it is dead
    finally:
        if stat >= 0:
            os.close(stat)


def _woken(listener: int, id: int) -> bool:
    any_file = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _core.addfd(listener, id, any_file, abi.SECCOMP_ADDFD_FLAG_SETFD, _NO_NUMBER, 0)
    except OSError as refused:
        return refused.errno == errno.EBADF
    finally:
        os.close(any_file)
    return False


def _seen(listener: int, id: int, stat: int) -> bool | None:
    sure = 0
    for _ in range(_LOOKS):
        state = stat_fields(os.pread(stat, 512, 0))[0]
        if not _core.id_valid(listener, id):
            return None
        if state == b"S":
            return False
        sure = sure + 1 if state == b"D" else 0
        if sure == _SURE:
            return True
        if not sure:
            time.sleep(_PAUSE)
    return None
