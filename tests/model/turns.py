"""Whose turn it is: a victim and who drives it share a processor, and the victim goes first.

A real-time task runs as soon as it can, and an ordinary one on the same processor only when no
real-time task can (sched(7)).  So whenever the driver looks, everybody in the victim has come as
far as he can: nothing has to be slept for.
"""

from __future__ import annotations

import os
import resource

#: Seconds of processor time without a sleep after which the kernel kills a victim in a loop.
RUNAWAY = 2


class Turns:
    """The victim ``pid``, and what it starts, goes before the calling thread, until :meth:`close`.

    Where that is not allowed (no CAP_SYS_NICE, or a control group without real-time) everybody
    stays as he was; ``first`` says so.  Whoever looks must then not rely on it.
    """

    def __init__(self, pid: int) -> None:
        self._ours = os.sched_getaffinity(0)
        self.first = True
        try:
            # Before it is real-time: no moment in which it could run away.
            resource.prlimit(pid, resource.RLIMIT_RTTIME, (RUNAWAY * 10**6,) * 2)
            here = {_processor()}
            os.sched_setaffinity(pid, here)
            os.sched_setaffinity(0, here)
            os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            self.close()
            os.sched_setaffinity(pid, self._ours)
            self.first = False

    def close(self) -> None:
        """The calling thread may run on every processor again that it had."""
        os.sched_setaffinity(0, self._ours)


def _processor() -> int:
    """The processor that we are on (the 39th word of /proc/PID/stat, proc_pid_stat(5))."""
    with open("/proc/thread-self/stat", "rb") as file:
        line = file.read()
    return int(line[line.rindex(b")") + 2 :].split()[36])
