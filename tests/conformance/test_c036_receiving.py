"""C036-C049: receiving a notification."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import struct
from pathlib import Path

import pytest

from proctor.kernel import abi
from tests.support import bpf
from tests.support.constants import AUDIT_ARCH, CLONE_NEWPID, CLONE_NEWUSER, NR, SYSCALL
from tests.support.harness import Actor
from tests.support.kernel import (
    RECV,
    SEND,
    Kernel,
    Raw,
    errno_of,
    ioctl_address,
    ioctl_number,
    unpack,
)
from tests.support.lab import WAKE, Lab
from tests.support.processes import blocked_in, eventually, libc_syscall, status
from tests.support.waiting import HUP, IN, OUT, events, wait_events

GETPPID = bpf.notify("getppid")
PRIVATE_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
LISTENER = 50  # its number in victims that are used as readers


def new_pid_namespace(actor: Actor) -> Actor:
    """A child of ``actor`` that is number 1 of its own pid namespace."""
    if os.geteuid() == 0:
        actor.must("unshare", CLONE_NEWPID)
    else:
        result = actor.call("unshare", CLONE_NEWUSER | CLONE_NEWPID)
        if result.value < 0:
            pytest.skip(f"no user namespace for us: {os.strerror(result.errno)}")
    return actor.fork()


@pytest.mark.parametrize("offset", [0, 8, 12, 16, 79])
def test_c036_the_buffer_must_be_zero(lab: Lab, raw: Raw, offset: int) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    wait_events(listener, IN)
    buffer = bytearray(80)
    buffer[offset] = 1
    assert errno_of(fcntl.ioctl, listener, RECV, buffer) == errno.EINVAL
    assert events(listener) == IN
    raw.send(listener, raw.recv(listener).id, 5)
    assert pending.result() == (5, 0)


def test_c037_a_buffer_that_cannot_be_written(lab: Lab, raw: Raw) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    wait_events(listener, IN)
    assert errno_of(fcntl.ioctl, listener, RECV, 0) == errno.EFAULT
    assert events(listener) == IN
    page = libc_syscall(NR["mmap"], 0, mmap.PAGESIZE, mmap.PROT_READ, PRIVATE_ANONYMOUS, -1, 0)
    try:
        assert errno_of(ioctl_address, listener, RECV, page) == errno.EFAULT
    finally:
        libc_syscall(NR["munmap"], page, mmap.PAGESIZE)
    # It had been received for a moment; now it waits again, with the same id.
    assert events(listener) == IN
    raw.send(listener, raw.recv(listener).id, 5)
    assert pending.result() == (5, 0)


def test_c038_recv_blocks_whatever_o_nonblock_says(lab: Lab, kernel: Kernel) -> None:
    _, listener = lab.listener(GETPPID)
    os.set_blocking(listener, False)
    reader = lab.thread(lambda: kernel.recv(listener)).blocked(NR["ioctl"])
    reader.interrupt()
    with pytest.raises(InterruptedError):
        reader.result()


def test_c039_blocked_signals_do_not_interrupt_recv(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)

    def receive() -> object:
        signal.pthread_sigmask(signal.SIG_BLOCK, {WAKE})
        try:
            return kernel.recv(listener).pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {WAKE})

    reader = lab.thread(receive).blocked(NR["ioctl"])
    reader.interrupt()
    pending_mask = int(status(reader.tid)["SigPnd"], 16)
    assert pending_mask == 1 << WAKE - 1
    reader.blocked(NR["ioctl"])
    victim.begin("getppid")
    assert reader.result() == victim.tid


def test_c040_the_fields(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    args = tuple(0xFEDCBA9800000000 + 0x11111111 * i for i in range(1, 7))
    victim.begin("getppid", *args)
    notification = kernel.recv(listener)
    assert notification.pid == victim.tid == victim.pid
    assert notification.flags == 0
    assert notification.nr == NR["getppid"]
    assert notification.arch == AUDIT_ARCH
    assert notification.args == args
    kernel.send(listener, notification.id)
    assert victim.peek(notification.ip - len(SYSCALL), len(SYSCALL)) == SYSCALL


def test_c041_pid_is_the_thread(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    thread = victim.thread()
    thread.begin("getppid")
    notification = kernel.recv(listener)
    assert notification.pid == thread.tid != thread.pid
    assert status(notification.pid)["Tgid"] == str(victim.pid)
    assert Path(f"/proc/{notification.pid}/mem").exists()
    assert str(notification.pid) not in os.listdir("/proc")


def test_c042_ids_go_up_by_one_first_come_first_served(lab: Lab, kernel: Kernel) -> None:
    firsts = []
    for _ in range(2):
        victim, listener = lab.listener(GETPPID)
        threads = [victim.thread() for _ in range(4)]
        pending = [thread.begin_blocked("getppid") for thread in threads]
        received = [kernel.recv(listener) for _ in threads]
        assert [n.pid for n in received] == [thread.tid for thread in threads]
        first = received[0].id
        assert [n.id for n in received] == [(first + i) % 2**64 for i in range(4)]
        # Answered the other way round.
        for i in (3, 2, 1, 0):
            kernel.send(listener, received[i].id, 100 + i)
            assert pending[i].result() == (100 + i, 0)
        firsts.append(first)
    assert abs(firsts[0] - firsts[1]) > 4, "both listeners begin at the same id"


def test_c043_two_readers_one_notification(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    other = victim.thread()
    readers = [lab.thread(lambda: kernel.recv(listener).pid).blocked(NR["ioctl"]) for _ in range(2)]
    victim.begin("getppid")
    eventually("one reader returns", lambda: any(reader.done() for reader in readers))
    (winner,) = (reader for reader in readers if reader.done())
    (loser,) = (reader for reader in readers if reader is not winner)
    assert winner.result() == victim.tid
    loser.blocked(NR["ioctl"])
    assert events(listener) == OUT
    other.begin("getppid")
    assert loser.result() == other.tid


def test_c044_killed_between_poll_and_recv(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    child = victim.fork()
    child.begin("getppid")
    wait_events(listener, IN)
    os.kill(child.pid, signal.SIGKILL)
    victim.reap(child)
    assert events(listener) == 0
    assert errno_of(kernel.recv, listener) == errno.ENOENT
    reader = lab.thread(lambda: kernel.recv(listener).pid).blocked(NR["ioctl"])
    victim.begin("getppid")
    assert reader.result() == victim.tid


def test_c045_nobody_left_to_notify(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    reader = lab.thread(lambda: errno_of(kernel.recv, listener)).blocked(NR["ioctl"])
    victim.kill()
    assert wait_events(listener, 0) == HUP
    again = lab.thread(lambda: errno_of(kernel.recv, listener))
    if (
        eventually(
            "a new RECV returns or blocks",
            lambda: again.done() or blocked_in(again.tid, NR["ioctl"]),
        )
        and not again.done()
    ):
        pytest.skip("RECV on a dead filter sleeps for ever on this kernel (fixed in Linux 6.11)")
    assert again.result() == errno.ENOENT
    assert reader.result() == errno.ENOENT


def test_c046_pids_across_pid_namespaces(lab: Lab, raw: Raw) -> None:
    # The reader in a namespace beside the target's sees nobody, and can answer all the same.
    victim, listener = lab.listener(GETPPID)
    reader = new_pid_namespace(lab.victim({listener: LISTENER}))
    pending = victim.begin("getppid")
    buffer = reader.place(bytes(80))
    assert reader.call("ioctl", LISTENER, RECV, buffer) == (0, 0)
    notification = unpack(reader.peek(buffer, 80))
    assert notification.pid == 0
    assert notification.nr == NR["getppid"]
    ident = reader.place(struct.pack("=Q", notification.id))
    assert reader.call("ioctl", LISTENER, abi.SECCOMP_IOCTL_NOTIF_ID_VALID, ident) == (0, 0)
    answer = reader.place(abi.SECCOMP_NOTIF_RESP.pack(notification.id, 17, 0, 0))
    assert reader.call("ioctl", LISTENER, SEND, answer) == (0, 0)
    assert pending.result() == (17, 0)
    # A target in a namespace below ours has the number that we know it by.
    target = new_pid_namespace(victim)
    assert target.call("getpid") == (1, 0)
    pending = target.begin("getppid")
    notification = raw.recv(listener)
    assert notification.pid == target.pid
    raw.send(listener, notification.id, 18)
    assert pending.result() == (18, 0)


def test_c047_the_data_of_the_verdict_is_nowhere(lab: Lab, raw: Raw) -> None:
    seen = []
    for data in (0, 0xBEEF):
        victim, listener = lab.listener(bpf.table({"getppid": bpf.NOTIFY | data}))
        pending = victim.begin("getppid", 1, 2, 3, 4, 5, 6)
        notification = raw.recv(listener)
        assert notification.pid == victim.tid
        raw.send(listener, notification.id)
        assert pending.result() == (0, 0)
        seen.append(notification._replace(id=0, pid=0))
    assert seen[0] == seen[1]


def test_c048_exec_and_children_keep_filter_and_listener(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    victim.exec_finish(victim.exec())
    child = victim.fork()
    grandchild = child.fork()
    child.exec_finish(child.exec())
    for value, actor in enumerate((victim, child, grandchild, grandchild.thread())):
        pending = actor.begin("getppid")
        notification = kernel.recv(listener)
        assert notification.pid == actor.tid
        kernel.send(listener, notification.id, value)
        assert pending.result() == (value, 0)


def test_c049_structure_sizes_are_part_of_the_number(lab: Lab, raw: Raw) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    wait_events(listener, IN)
    larger = ioctl_number(3, 0, 88)
    assert errno_of(fcntl.ioctl, listener, larger, bytearray(88)) == errno.EINVAL
    notification = raw.recv(listener)
    answer = bytearray(abi.SECCOMP_NOTIF_RESP.pack(notification.id, 1, 0, 0) + bytes(8))
    assert errno_of(fcntl.ioctl, listener, ioctl_number(3, 1, 32), answer) == errno.EINVAL
    raw.send(listener, notification.id, 3)
    assert pending.result() == (3, 0)
