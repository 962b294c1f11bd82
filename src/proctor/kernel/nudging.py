"""Having a thread look at its signals when its call returns.

ERESTARTSYS means something only to a thread that has such a look before it (TIF_SIGPENDING): to all others
the kernel gives it back as a number.  For a signal of its process's a thread need not be the one that the
kernel woke (``complete_signal`` of kernel/signal.c), and which one that was nobody can see.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from proctor.kernel import _core
from proctor.kernel.threads import quiet_thread

_PTRACE_SEIZE: Final = 0x4206  # include/uapi/linux/ptrace.h
_PTRACE_INTERRUPT: Final = 0x4207
#: Seconds in which a thread that has nothing more to do has ended, and one that traces has begun.
_END: Final = 1.0
#: By threads that are nudged: who is at that, and waits.
_NUDGING: Final[dict[int, threading.Thread]] = {}


def nudge(tid: int) -> bool:
    """Have a thread that waits in the kernel, and is not woken by that, look at its signals before it is back
    in its program: whatever waits there for it or its process is taken then, and a call that returned
    ERESTARTSYS is interrupted or made anew.  False if that cannot be: another one traces it, or we may not
    (ptrace(2), PTRACE_MODE_ATTACH_REALCREDS; Yama); or it takes long: who begins to trace waits while another thread
    of that process executes a program (``cred_guard_mutex``), whose file may be a FUSE server's that does not answer.

    It is traced (PTRACE_SEIZE, Linux 3.4) and asked to stop (PTRACE_INTERRUPT), which sets the mark; and
    let go at once, as tracers that end let go of what has not stopped yet (``exit_ptrace``).  So it never
    stops.  That is why the tracer is a thread of its own.
    """
    done = []

    def trace() -> None:
        try:
            _core.syscall(_core.SYS_ptrace, _PTRACE_SEIZE, tid, 0, 0)
            _core.syscall(_core.SYS_ptrace, _PTRACE_INTERRUPT, tid, 0, 0)
        except OSError:
            return  # it is somebody else's, or gone
        done.append(True)

    for each, before in list(_NUDGING.items()):
        if not before.is_alive():
            _NUDGING.pop(each, None)
        elif each == tid:
            return False
    try:
        thread = _NUDGING[tid] = quiet_thread(trace, "proctor-nudge")
    except RuntimeError:
        return False  # no threads for us
    thread.join(_END)
    if thread.is_alive():
        return False
    _NUDGING.pop(tid, None)
    until = time.monotonic() + _END
    while done and _is_traced(tid):  # Python's end of a thread comes before the kernel's
        if time.monotonic() > until:
            return False
        time.sleep(0)
    return bool(done)


def _is_traced(tid: int) -> bool:
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            return b"\nTracerPid:\t0\n" not in file.read()
    except OSError:
        return False
