"""Processes that have ended but for what the kernel does not end."""

from __future__ import annotations

import os
from typing import Final

from proctor.kernel.thread import stat_of

#: include/linux/sched.h
_PF_EXITING: Final = 0x4
_KILLED: Final = 1 << 8  # SIGKILL, in a set of signals


def lingers(pid: int) -> int | None:
    """The exit status of a child, as subprocess has it, whose threads are all dead, or being killed while they wait in the
    kernel for what no signal ends: a FUSE server that withholds the answer to a flush (fuse_flush() of fs/fuse/file.c).  None of
    any other.  It is that for good only where it is so for a while: any dying thread may wait for a moment.
    """
    try:
        if not all(_is_over(f"{pid}/task/{tid}") for tid in os.listdir(f"/proc/{pid}/task")):
            return None
        return os.waitstatus_to_exitcode(int(stat_of(f"{pid}/task/{pid}")[49]))  # proc_pid_stat(5)
    except (OSError, ValueError):
        return None


def _is_over(thread: str) -> bool:
    state, *fields = stat_of(thread)
    if state in (b"Z", b"X"):
        return True
    if state != b"D" or int(fields[5]) & _PF_EXITING:
        return state == b"D"
    with open(f"/proc/{thread}/status", "rb") as file:
        pending = [int(line.split()[1], 16) for line in file if line.startswith(b"SigPnd:")]
    return bool(pending[0] & _KILLED)
