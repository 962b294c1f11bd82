"""Does ADDFD|SEND survive a signal on this kernel?  Tried out, since no number tells.

Without a fix (Linux 6.12.117 has it, 6.18.44 has not) an interrupted ADDFD|SEND has already marked the
call as answered when it is taken back: the call returns 0 and no descriptor arrives (C074).  The probe
answers up to a few thousand calls of a throw-away target by ADDFD|SEND under a fast signal timer, for
no longer than a slow (or emulated) machine's user waits, and the target counts the lies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import sys
import threading
import time

from proctor.kernel import _core, abi
from proctor.kernel import pidfd as pidfds
from proctor.kernel.plan import plan
from proctor.kernel.start import start
from proctor.kernel.support import Support

_CALLS = 4000
#: Seconds after which it is enough, however few calls that were.
_LONG_ENOUGH = 2.0
_NAME = "ADDFD with SEND survives a signal"
_MEANING = "nothing changes, since proctor holds signals back while it hands over"
_NUMBER, _STOP = 100, 101

# The target makes a call that exists nowhere (number 4242) and counts the answers that are wrong.
_TARGET = """
import ctypes
call, wrong = ctypes.CDLL(None).syscall, 0
for _ in range({calls}):
    answer = call(4242)
    if answer == {stop}:
        break
    wrong += answer != {number}
print(wrong)
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
    if threading.current_thread() is not threading.main_thread():
        return Support(_NAME, None, "only the main thread can find out", "", _MEANING)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    text = _TARGET.format(calls=_CALLS, number=_NUMBER, stop=_STOP)
    try:
        started = start(
            plan(
                [sys.executable, "-I", "-S", "-c", text],
                program=_notify_4242(),
                wait_killable=False,
                fds=((0, 0), (writer, 1), (2, 2)),
            )
        )
    except OSError as problem:
        os.close(reader)
        os.close(writer)
        return Support(_NAME, None, f"{problem.filename}: {problem.strerror}", "", _MEANING)
    os.close(writer)
    wrong = -1
    try:
        hits = _answer(started.listener, started.pidfd)
        if hits is not None:
            with open(reader, "rb", closefd=False) as file:
                wrong = int(file.read() or b"-1")
    finally:
        for fd in (reader, started.listener, started.status_fd):
            os.close(fd)
        pidfds.send_signal(started.pidfd)
        pidfds.reap(started.pidfd)
        os.close(started.pidfd)
    if hits is None:
        return Support(_NAME, None, "there is no ADDFD with SEND to try", "", _MEANING)
    if wrong > 0:
        return Support(_NAME, False, f"{wrong} calls got 0 instead", "", _MEANING)
    if wrong == 0 and hits:
        return Support(_NAME, True, f"{hits} interrupted and retried", "")
    return Support(_NAME, None, "no signal hit the window", "", _MEANING)


def _answer(listener: int, pidfd: int) -> int | None:
    """Answer until the target is gone, under a 0.3 ms timer; how many ADDFDs were interrupted, or
    None if the kernel knows none that answer."""
    give_up = time.monotonic() + _LONG_ENOUGH

    def tick(*_: object) -> None:
        # On a slow machine nothing else may get its turn: so this is where time is looked at.
        if time.monotonic() > give_up:
            signal.setitimer(signal.ITIMER_REAL, 0)

    hits = 0
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(pidfd, select.POLLIN)  # before Linux 6.11 a listener outlives its last user
    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        while True:
            events = dict(poll.poll())
            if not events.get(listener, 0) & select.POLLIN:
                if pidfd in events:
                    return hits
                continue  # POLLERR: a signal came while poll(2) waited for the filter's lock
            try:
                id = _core.recv(listener).id
            except OSError:
                continue  # interrupted, or the target went away
            if time.monotonic() > give_up:
                _core.send(listener, id, _STOP, 0, 0)
                continue
            problem = errno.EINTR
            while problem == errno.EINTR:
                problem = _hand_over(listener, id)
                hits += problem == errno.EINTR
            if problem == errno.EINVAL:
                return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _hand_over(listener: int, id: int) -> int:
    """ADDFD|SEND of a copy of 2 at the number the target expects; the errno, or 0."""
    flags = abi.SECCOMP_ADDFD_FLAG_SEND | abi.SECCOMP_ADDFD_FLAG_SETFD
    request = bytearray(abi.SECCOMP_NOTIF_ADDFD.pack(id, flags, 2, _NUMBER, 0))
    try:
        fcntl.ioctl(listener, abi.SECCOMP_IOCTL_NOTIF_ADDFD, request)
    except OSError as problem:
        return problem.errno or errno.EIO
    return 0
