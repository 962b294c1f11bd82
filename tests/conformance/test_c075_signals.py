"""C075-C087: signals and stops while a call is notified."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct

import pytest

from tests.support import bpf
from tests.support.constants import NR, SLOWNESS
from tests.support.harness import Victim
from tests.support.kernel import (
    ADDFD_SEND,
    CONTINUE,
    NEW_LISTENER,
    WAIT_KILLABLE,
    Kernel,
    Raw,
    errno_of,
)
from tests.support.lab import Child, Lab, no_new_privs
from tests.support.processes import eventually, pidfd_getfd, state, status
from tests.support.waiting import HUP, IN, OUT, events

GETPPID = bpf.notify("getppid")
FILTER = 1


@pytest.fixture
def killable(lab: Lab) -> int:
    """NEW_LISTENER's companion flag, where the kernel has it."""
    if errno_of(Raw().seccomp, FILTER, NEW_LISTENER | WAIT_KILLABLE, None) == errno.EINVAL:
        pytest.skip("this kernel does not know WAIT_KILLABLE_RECV (Linux 5.19)")
    return WAIT_KILLABLE


def gone(kernel: Kernel, listener: int, ident: int, source: int) -> bool:
    """Whether all that can be asked of a notification says ENOENT."""
    return (
        errno_of(kernel.send, listener, ident, 1)
        == errno_of(kernel.addfd, listener, ident, source)
        == errno_of(kernel.addfd, listener, ident, source, ADDFD_SEND)
        == errno.ENOENT
    ) and not kernel.id_valid(listener, ident)


def stop(victim: Victim) -> None:
    os.kill(victim.pid, signal.SIGSTOP)
    victim.wait_state("T")


def test_c075_a_handler_without_restart(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    victim.on_signal(signal.SIGUSR1, "count")
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    victim.signal(signal.SIGUSR1)
    assert pending.result() == (-1, errno.EINTR)
    assert gone(kernel, listener, ident, lab.memfd())
    assert events(listener) == 0
    assert victim.signals(signal.SIGUSR1) == 1


def test_c076_a_handler_with_restart(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    victim.on_signal(signal.SIGUSR1, "count-restart")
    pending = victim.begin("getppid")
    first = kernel.recv(listener)
    victim.signal(signal.SIGUSR1)
    second = kernel.recv(listener)
    assert second.id == first.id + 1
    assert (second.pid, second.nr, second.args) == (first.pid, first.nr, first.args)
    assert gone(kernel, listener, first.id, lab.memfd())
    assert not pending.done()
    kernel.send(listener, second.id, 8)
    assert pending.result() == (8, 0)
    assert victim.signals(signal.SIGUSR1) == 1


def test_c077_interrupted_before_recv_leaves_an_enoent(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    other = victim.thread()
    victim.on_signal(signal.SIGUSR1, "report-restart")
    pending = victim.begin_blocked("getppid")
    victim.signal(signal.SIGUSR1)
    victim.wait_report((signal.SIGUSR1, victim.tid))
    victim.wait_blocked("getppid")
    assert events(listener) == IN
    ident = kernel.recv(listener).id
    assert events(listener) == OUT
    assert errno_of(kernel.recv, listener) == errno.ENOENT
    reader = lab.thread(lambda: kernel.recv(listener).pid).blocked(NR["ioctl"])
    kernel.send(listener, ident, 5)
    assert pending.result() == (5, 0)
    reader.blocked(NR["ioctl"])
    other.begin("getppid")
    assert reader.result() == other.tid


def test_c078_stopped_and_continued(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    first = kernel.recv(listener).id
    stop(victim)
    assert gone(kernel, listener, first, lab.memfd())
    assert events(listener) == 0
    os.kill(victim.pid, signal.SIGCONT)
    second = kernel.recv(listener).id
    assert second == first + 1
    kernel.send(listener, second, 3)
    assert pending.result() == (3, 0)


def test_c079_ignored_signals_do_nothing(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    victim.on_signal(signal.SIGUSR2, "ignore")
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    # SIGCHLD and SIGWINCH are at their default, which is to be ignored.
    for number in (signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGUSR2):
        victim.signal(number)
        assert kernel.id_valid(listener, ident)
    victim.wait_blocked("getppid")
    assert events(listener) == OUT
    kernel.send(listener, ident, 2)
    assert pending.result() == (2, 0)


def test_c080_queued_behind_a_held_one_is_still_interruptible(
    lab: Lab, kernel: Kernel, killable: int
) -> None:
    victim, listener = lab.listener(GETPPID, killable)
    other = victim.thread()
    victim.on_signal(signal.SIGUSR1, "count")
    held = victim.begin("getppid")
    ident = kernel.recv(listener).id
    queued = other.begin_blocked("getppid")
    assert events(listener) == IN | OUT
    other.signal(signal.SIGUSR1)
    assert queued.result() == (-1, errno.EINTR)
    assert events(listener) == OUT
    kernel.send(listener, ident, 4)
    assert held.result() == (4, 0)


def test_c081_wait_killable_defers_handlers(lab: Lab, kernel: Kernel, killable: int) -> None:
    victim, listener = lab.listener(GETPPID, killable)
    victim.on_signal(signal.SIGUSR1, "report")
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    assert state(victim.tid) == "S"
    victim.signal(signal.SIGUSR1)
    victim.wait_state("D")
    assert kernel.id_valid(listener, ident)
    assert not pending.done()
    assert victim.reports == []
    kernel.send(listener, ident, 6)
    assert pending.result() == (6, 0)
    # The handler's report was written before the call's result: it ran on the way out.
    assert victim.reports == [(signal.SIGUSR1, victim.tid)]


def test_c082_wait_killable_defers_the_stop(lab: Lab, kernel: Kernel, killable: int) -> None:
    victim, listener = lab.listener(GETPPID, killable)
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    os.kill(victim.pid, signal.SIGSTOP)
    victim.wait_state("D")
    assert kernel.id_valid(listener, ident)
    kernel.send(listener, ident, 6)
    victim.wait_state("T")
    assert not pending.done()
    os.kill(victim.pid, signal.SIGCONT)
    assert pending.result() == (6, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_c083_wait_killable_dies_of_fatal_signals(
    lab: Lab, kernel: Kernel, killable: int, number: int
) -> None:
    victim, listener = lab.listener(GETPPID, killable)
    victim.begin("getppid")
    ident = kernel.recv(listener).id
    os.kill(victim.pid, number)
    assert victim.exit_signal() == number
    assert errno_of(kernel.send, listener, ident, 1) == errno.ENOENT
    assert events(listener) == HUP

    # Not fatal to a Python program, which handles SIGINT: it waits for the answer.
    def python_program(us: Child) -> list[object]:
        happened: list[object] = []
        signal.signal(signal.SIGINT, lambda number, _: happened.append(number))
        no_new_privs()
        us.tell(kernel.install(GETPPID, NEW_LISTENER | WAIT_KILLABLE))
        happened.append(os.getppid())
        return happened

    child = lab.child(python_program)
    listener = lab.own(pidfd_getfd(child.pid, child.hear()))
    ident = kernel.recv(listener).id
    os.kill(child.pid, signal.SIGINT)
    eventually("the program waits uninterruptibly", lambda: state(child.pid) == "D")
    assert kernel.id_valid(listener, ident)
    kernel.send(listener, ident, 4711)
    assert sorted(child.result(), key=str) == sorted([4711, signal.SIGINT], key=str)


@pytest.mark.parametrize("flags", [0, WAIT_KILLABLE], ids=["default", "wait-killable"])
def test_c084_a_sibling_ends_the_process(
    lab: Lab, kernel: Kernel, killable: int, flags: int
) -> None:
    victim, listener = lab.listener(GETPPID, flags)
    thread = victim.thread()
    thread.begin("getppid")
    ident = kernel.recv(listener).id
    victim.begin("exit_group", 3)
    assert os.waitstatus_to_exitcode(victim.wait()) == 3
    assert gone(kernel, listener, ident, lab.memfd())


def test_c085_a_cancellation_wakes_nobody(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    victim.on_signal(signal.SIGUSR1, "count")
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    edges = lab.epoll()
    edges.register(listener, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    assert edges.poll(0) == [(listener, select.EPOLLOUT)]
    call = NR.get("poll", NR["ppoll"])  # whichever libc has to take
    waiting = lab.thread(poller.poll).blocked(call)

    def switches() -> int:
        return int(status(waiting.tid)["voluntary_ctxt_switches"])

    before = switches()
    victim.signal(signal.SIGUSR1)
    assert pending.result() == (-1, errno.EINTR)
    assert not kernel.id_valid(listener, ident)
    assert events(listener) == 0
    assert edges.poll(0) == []
    # Not even woken to look again.
    waiting.blocked(call)
    assert switches() == before
    victim.begin("getppid")
    assert waiting.result() == [(listener, select.POLLIN)]


def test_c086_a_stopped_sleep_comes_back_as_restart_syscall(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(bpf.notify("nanosleep", "restart_syscall"))
    duration = victim.place(struct.pack("=qq", 3600, 0))
    pending = victim.begin("nanosleep", duration, 0)
    notification = kernel.recv(listener)
    assert notification.nr == NR["nanosleep"]
    kernel.send(listener, notification.id, flags=CONTINUE)
    eventually("the answer is taken", lambda: events(listener) == 0)
    victim.wait_blocked("nanosleep")
    stop(victim)
    os.kill(victim.pid, signal.SIGCONT)
    notification = kernel.recv(listener)
    assert notification.nr == NR["restart_syscall"]
    kernel.send(listener, notification.id, 12)
    assert pending.result() == (12, 0)


def test_c087_fast_answers_under_a_timer_notify_no_call_twice(
    lab: Lab, kernel: Kernel, killable: int
) -> None:
    count = 20000
    victim, listener = lab.listener(GETPPID, killable)
    source = lab.memfd()
    victim.on_signal(signal.SIGALRM, "count-restart")
    every = int(1000 * SLOWNESS)  # us, so that calls come to their end between
    victim.must("setitimer", 0, victim.place(struct.pack("=qqqq", 0, every, 0, every)), 0)
    pending = victim.command("descriptors", count, bpf.number("getppid"), 0, 0, 0, 0, 0)
    seen: list[int] = []
    while len(seen) < count:
        try:
            notification = kernel.recv(listener)
        except FileNotFoundError:
            continue  # interrupted before it was received; it comes again
        try:
            kernel.addfd(listener, notification.id, source, ADDFD_SEND)
        except FileNotFoundError:
            # Received and yet gone: nothing may do that under WAIT_KILLABLE_RECV.
            pytest.fail(f"call {notification.args[5]} was cancelled after it was received")
        seen.append(notification.args[5])
    assert pending.counts(20) == (count, 0, 0, 0)
    assert seen == list(range(count)), "a call was notified twice"
    assert victim.signals(signal.SIGALRM) > 0
