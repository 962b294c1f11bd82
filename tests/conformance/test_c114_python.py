"""C114-C118: what Python makes of it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import threading

import pytest

from proctor.kernel import abi
from tests.support import bpf
from tests.support.constants import NR
from tests.support.kernel import (
    ADDFD,
    NEW_LISTENER,
    RECV,
    SET_FLAGS,
    Kernel,
    Raw,
    errno_of,
    ioctl_address,
    unpack,
)
from tests.support.lab import Child, Lab, no_new_privs
from tests.support.processes import blocked_in, eventually, pidfd_getfd, status
from tests.support.waiting import OUT, events, wait_events

GETPPID = bpf.notify("getppid")


def test_c114_ioctl_is_not_retried_after_a_signal(lab: Lab) -> None:
    _, listener = lab.listener(GETPPID)
    reader = lab.thread(lambda: fcntl.ioctl(listener, RECV, bytearray(80))).blocked(NR["ioctl"])
    reader.interrupt()
    with pytest.raises(InterruptedError) as caught:
        reader.result()
    assert caught.value.errno == errno.EINTR


def test_c115_a_blocked_recv_lets_other_threads_run(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    # That this very thread sees the reader asleep in the kernel is the proof: it runs Python.
    reader = lab.thread(lambda: kernel.recv(listener).pid).blocked(NR["ioctl"])
    assert not reader.done()
    victim.begin("getppid")
    assert reader.result() == victim.tid


def test_c116_what_ioctl_returns(lab: Lab) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    buffer = bytearray(80)
    assert fcntl.ioctl(listener, RECV, buffer) == 0
    ident = unpack(buffer).id
    addfd = abi.SECCOMP_NOTIF_ADDFD.pack(ident, abi.SECCOMP_ADDFD_FLAG_SETFD, lab.memfd(), 42, 0)
    assert fcntl.ioctl(listener, ADDFD, bytearray(addfd)) == 42
    assert fcntl.ioctl(listener, ADDFD, addfd) == addfd, "the number is lost"
    Raw().send(listener, ident, 1)
    assert pending.result() == (1, 0)


def test_c117_an_int_argument_goes_by_value(lab: Lab) -> None:
    _, listener = lab.listener(GETPPID)
    if errno_of(ioctl_address, listener, SET_FLAGS, 1) == errno.EINVAL:
        pytest.skip("this kernel does not know SET_FLAGS (Linux 6.6)")
    assert fcntl.ioctl(listener, SET_FLAGS, 1) == 0
    assert errno_of(fcntl.ioctl, listener, SET_FLAGS, 2) == errno.EINVAL
    assert fcntl.ioctl(listener, SET_FLAGS, 0) == 0


def test_c118_one_interpreter_cannot_supervise_itself(lab: Lab, kernel: Kernel) -> None:
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("this Python has no global interpreter lock to wait for")

    def supervises_itself(us: Child) -> int:
        installed: list[int] = []
        may_receive = threading.Event()

        def answer() -> None:
            may_receive.wait()
            us.tell(threading.get_native_id())
            notification = kernel.recv(installed[0])
            kernel.send(installed[0], notification.id, 1)

        threading.Thread(target=answer, daemon=True).start()
        no_new_privs()
        installed.append(kernel.install(GETPPID, NEW_LISTENER))
        us.tell(installed[0])
        may_receive.set()
        us.wait_for_parent()
        return os.getppid()

    child = lab.child(supervises_itself)
    listener = lab.own(pidfd_getfd(child.pid, child.hear()))
    answerer = child.hear()
    eventually("the answerer waits for a call", lambda: blocked_in(answerer, NR["ioctl"]))
    child.go_on()
    eventually("the caller waits for its answer", lambda: blocked_in(child.pid, NR["getppid"]))
    # The answerer has received the call and cannot go on: os.getppid keeps the interpreter.
    assert wait_events(listener, OUT) == OUT
    before = int(status(answerer)["voluntary_ctxt_switches"])
    eventually(
        "the answerer asks for the interpreter again and again",
        lambda: int(status(answerer)["voluntary_ctxt_switches"]) >= before + 10,
    )
    assert events(listener) == OUT
    assert blocked_in(child.pid, NR["getppid"])
    os.kill(child.pid, signal.SIGKILL)
