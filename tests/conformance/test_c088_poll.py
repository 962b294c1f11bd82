"""C088-C097: poll bits, and how long a listener lives."""

from __future__ import annotations

import errno
import os
import select
import signal
import struct

from tests.support import bpf
from tests.support.harness import Actor
from tests.support.kernel import NEW_LISTENER, RECV, Kernel, errno_of, unpack
from tests.support.lab import Lab
from tests.support.processes import eventually, state
from tests.support.waiting import HUP, IN, OUT, events, wait_events

GETPPID = bpf.notify("getppid")
LISTENER = 50  # its number in victims that are used as monitors


def poll_in(actor: Actor, fd: int) -> int:
    """What poll(2) shows to a victim."""
    pollfd = actor.place(struct.pack("=ihh", fd, IN | OUT, 0))
    actor.must("ppoll", pollfd, 1, actor.place(bytes(16)), 0)
    revents: int = struct.unpack("=ihH", actor.peek(pollfd, 8))[2]
    return revents


def test_c088_poll_bits(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    other = victim.thread()
    assert events(listener) == 0
    first = victim.begin("getppid")
    wait_events(listener, IN)
    assert events(listener) == select.POLLIN | select.POLLRDNORM
    ident = kernel.recv(listener).id
    assert events(listener) == select.POLLOUT | select.POLLWRNORM
    second = other.begin_blocked("getppid")
    assert events(listener) == IN | OUT
    kernel.send(listener, ident, 1)
    assert first.result() == (1, 0)
    assert events(listener) == IN
    ident = kernel.recv(listener).id
    kernel.send(listener, ident, 2)
    assert second.result() == (2, 0)
    assert events(listener) == 0


def test_c089_hup_comes_with_the_last_users_end(lab: Lab) -> None:
    victim, listener = lab.listener(GETPPID)
    child = victim.fork()
    grandchild = child.fork()
    thread = victim.thread()
    thread.exit_thread()
    victim.kill()
    assert events(listener) == 0, "a child and a grandchild still use the filter"
    os.kill(child.pid, signal.SIGKILL)
    child.wait_gone()
    assert events(listener) == 0, "a grandchild still uses the filter"
    assert grandchild.call("dup", 0).errno == 0
    os.kill(grandchild.pid, signal.SIGKILL)
    grandchild.wait_gone()
    # Its orphans are ours to reap, so that we decide how long they stay zombies.
    eventually("the last user is a zombie of ours", lambda: state(grandchild.pid) == "Z")
    assert events(listener) == (HUP if early_hup(lab) else 0)
    os.waitpid(child.pid, 0)
    os.waitpid(grandchild.pid, 0)
    assert wait_events(listener, 0) == HUP


def early_hup(lab: Lab) -> bool:
    """Whether this kernel lets filters go when a task exits (Linux 6.11), not when it is reaped."""
    victim, listener = lab.listener(GETPPID)
    victim.kill(reap=False)
    return events(listener) == HUP


def test_c090_hup_stays(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    victim.begin("getppid")
    ident = kernel.recv(listener).id
    victim.kill()
    assert wait_events(listener, 0) == HUP
    for _ in range(3):
        assert select.select([listener], [listener], [listener], 0) == ([listener], [], [])
        assert errno_of(kernel.send, listener, ident, 1) == errno.ENOENT
        assert not kernel.id_valid(listener, ident)
        assert events(listener) == HUP


def test_c091_a_monitor_under_its_own_filter_sees_no_hup(lab: Lab) -> None:
    monitor = lab.victim()
    number = monitor.install(GETPPID, NEW_LISTENER).value
    target = monitor.fork()
    target.must("close", number)
    target.begin("getppid")
    listener = lab.own(monitor.take(number))
    wait_events(listener, IN)
    assert poll_in(monitor, number) == IN
    os.kill(target.pid, signal.SIGKILL)
    monitor.reap(target)
    # Everybody it watched is gone; it is a user of the filter itself.
    assert poll_in(monitor, number) == 0
    assert events(listener) == 0
    monitor.kill()
    assert wait_events(listener, 0) == HUP


def test_c092_edge_triggered_epoll(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    other = victim.thread()
    epoll = lab.epoll()
    epoll.register(listener, select.EPOLLIN | select.EPOLLET)
    assert epoll.poll(0) == []
    victim.begin("getppid")
    assert epoll.poll(10) == [(listener, select.EPOLLIN)]
    assert epoll.poll(0) == []
    other.begin("getppid")
    assert epoll.poll(10) == [(listener, select.EPOLLIN)]
    assert epoll.poll(0) == []
    assert kernel.recv(listener).pid == victim.tid
    assert kernel.recv(listener).pid == other.tid
    assert epoll.poll(0) == []


def test_c093_closing_the_last_copy_answers_enosys(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    other = victim.thread()
    received = victim.begin("getppid")
    kernel.recv(listener)
    waiting = other.begin_blocked("getppid")
    lab.close_fd(listener)
    assert received.result() == (-1, errno.ENOSYS)
    assert waiting.result() == (-1, errno.ENOSYS)
    assert victim.call("getppid") == (-1, errno.ENOSYS)
    assert victim.fork().call("getppid") == (-1, errno.ENOSYS)


def test_c094_a_copy_in_the_target_makes_it_wait_for_itself(lab: Lab, kernel: Kernel) -> None:
    victim = lab.victim()
    number = victim.install(GETPPID, NEW_LISTENER).value
    listener = lab.own(victim.take(number))
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    lab.close_fd(listener)
    victim.wait_blocked("getppid")
    assert not pending.done()
    # Only it holds the listener, and it sleeps: the notification is there, for nobody to answer.
    listener = victim.take(number)
    assert kernel.id_valid(listener, ident)
    assert events(listener) == OUT
    os.close(listener)
    victim.wait_blocked("getppid")
    assert not pending.done()
    victim.kill()


def test_c095_duplicates_are_the_same_listener(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    copy = lab.own(os.dup(listener))
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    lab.close_fd(listener)
    assert kernel.id_valid(copy, ident)
    kernel.send(copy, ident, 9)
    assert pending.result() == (9, 0)


def test_c096_a_monitor_that_dies_leaves_enosys(lab: Lab) -> None:
    victim, listener = lab.listener(GETPPID)
    monitor = lab.victim({listener: LISTENER})
    lab.close_fd(listener)
    pending = victim.begin("getppid")
    buffer = monitor.place(bytes(80))
    assert monitor.call("ioctl", LISTENER, RECV, buffer) == (0, 0)
    assert unpack(monitor.peek(buffer, 80)).pid == victim.pid
    assert not pending.done()
    monitor.kill()
    assert pending.result() == (-1, errno.ENOSYS)
    assert victim.call("getppid") == (-1, errno.ENOSYS)


def test_c097_a_monitor_that_notifies_itself_sleeps(lab: Lab) -> None:
    monitor = lab.victim()
    number = monitor.install(GETPPID, NEW_LISTENER).value
    monitor.on_signal(signal.SIGALRM, "count")
    often = monitor.place(struct.pack("=qqqq", 0, 20000, 0, 20000))
    monitor.must("setitimer", 0, often, 0)
    pending = monitor.begin("getppid")
    assert pending.result() == (-1, errno.EINTR)
    assert monitor.signals(signal.SIGALRM) >= 1
    # It had been notified, to itself: a RECV finds what the interruption left.
    buffer = monitor.place(bytes(80))
    assert monitor.call("ioctl", number, RECV, buffer) == (-1, errno.ENOENT)
