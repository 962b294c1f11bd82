"""Does ADDFD|SEND survive a signal on this kernel?  Tried out, since no number tells.

Before the 2026 fix an interrupted ADDFD|SEND has already marked the call as answered when it is
taken back: the call returns 0 and no descriptor arrives (C074).  The probe answers a few thousand
calls of a throw-away target by ADDFD|SEND under a fast signal timer and counts the lies.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING

from proctor.kernel import _core, abi
from proctor.kernel.launch import launch as start

if TYPE_CHECKING:
    from proctor.kernel.probe import Support

_CALLS = 4000
_NAME = "ADDFD with SEND survives a signal"
_MEANING = "none: proctor holds signals back while it hands descriptors over"

# The target makes a call that exists nowhere (number 4242) and counts answers other than 100.
_TARGET = """
import ctypes
call = ctypes.CDLL(None).syscall
print(sum(call(4242) != 100 for _ in range({n})))
"""


def _notify_4242() -> bytes:
    one = abi.SOCK_FILTER.pack
    return (
        one(0x20, 0, 0, 0)  # ld [nr]
        + one(0x15, 0, 1, 4242)  # jeq #4242, next, skip one
        + one(0x06, 0, 0, abi.SECCOMP_RET_USER_NOTIF)
        + one(0x06, 0, 0, abi.SECCOMP_RET_ALLOW)
    )


def addfd_send_survives_signals() -> Support:
    """Yes, no, or unknown when no signal hit the window (or we are not on the main thread)."""
    from proctor.kernel.probe import Support

    if threading.current_thread() is not threading.main_thread():
        return Support(_NAME, None, "only the main thread can find out", "", _MEANING)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        launch = start(
            [sys.executable.encode(), b"-I", b"-S", b"-c", _TARGET.format(n=_CALLS).encode()],
            candidates=[os.fsencode(sys.executable)],
            program=_notify_4242(),
            filter_flags=abi.SECCOMP_FILTER_FLAG_NEW_LISTENER,
            fds=((0, 0), (writer, 1), (2, 2)),
        )
    except OSError as problem:
        os.close(reader)
        os.close(writer)
        return Support(_NAME, None, f"{problem.filename}: {problem.strerror}", "", _MEANING)
    os.close(writer)
    hits = 0
    try:
        hits = _answer(launch.listener)
        with open(reader, "rb", closefd=False) as file:
            wrong = int(file.read() or b"-1")
    finally:
        for fd in (reader, launch.listener, launch.status_fd):
            os.close(fd)
        signal.pidfd_send_signal(launch.pidfd, signal.SIGKILL)
        try:
            os.waitid(os.P_PIDFD, launch.pidfd, os.WEXITED)
        except ChildProcessError:
            pass
        os.close(launch.pidfd)
    if wrong > 0:
        return Support(_NAME, False, f"{wrong} of {_CALLS} calls got 0 instead", "", _MEANING)
    if wrong == 0 and hits:
        return Support(_NAME, True, f"{hits} interrupted and retried", "")
    return Support(_NAME, None, "no signal hit the window", "", _MEANING)


def _answer(listener: int) -> int:
    """Answer until the target is gone, under a 0.3 ms timer; how many ADDFDs were interrupted."""
    import fcntl

    hits = 0
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        while True:
            events = poll.poll(5000)
            if not events or not events[0][1] & select.POLLIN:
                return hits
            try:
                notification = _core.recv(listener)
            except OSError:
                continue  # interrupted, or the target went away
            request = abi.SECCOMP_NOTIF_ADDFD.pack(
                notification.id,
                abi.SECCOMP_ADDFD_FLAG_SEND | abi.SECCOMP_ADDFD_FLAG_SETFD,
                2,
                100,
                0,
            )
            while True:
                try:
                    fcntl.ioctl(listener, abi.SECCOMP_IOCTL_NOTIF_ADDFD, bytearray(request))
                except OSError as problem:
                    if problem.errno == errno.EINTR:
                        hits += 1
                        continue
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
