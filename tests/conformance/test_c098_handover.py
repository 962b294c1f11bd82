"""C098-C102: getting the listener from the one who installs to the one who watches."""

from __future__ import annotations

import array
import errno
import fcntl
import mmap
import os
import socket
import struct

import pytest

from tests.support import bpf
from tests.support.constants import CLONE_FILES, NR
from tests.support.harness import Actor, Pending, Victim
from tests.support.kernel import CONTINUE, NEW_LISTENER, Kernel, Raw, errno_of
from tests.support.lab import Child, Lab, become_nobody
from tests.support.processes import descriptors, eventually
from tests.support.waiting import HUP, events, wait_events

GETPPID = bpf.notify("getppid")
SOCKET = 60  # its number in the victim
MSG_CMSG_CLOEXEC = socket.MSG_CMSG_CLOEXEC


def is_cloexec(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)


def receive(sock: socket.socket, flags: int) -> int:
    """One descriptor by recvmsg(2)."""
    _, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(4), flags)
    ((level, kind, data),) = ancillary
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    return array.array("i", data)[0]


def test_c098_by_scm_rights(lab: Lab, kernel: Kernel) -> None:
    ours, its = socket.socketpair()
    with ours:
        with its:
            victim = lab.victim({its.fileno(): SOCKET})
        number = victim.install(GETPPID, NEW_LISTENER).value
        for _ in range(3):
            assert victim.send_fd(SOCKET, number).result() == (1, 0)
        # socket.recv_fds makes inheritable descriptors; what it does with the flag depends on the
        # Python (3.11 never passes it on), so nobody may rely on it.
        _, (plain,), _, _ = socket.recv_fds(ours, 1, 1)
        lab.own(plain)
        assert not is_cloexec(plain)
        listener = lab.own(receive(ours, MSG_CMSG_CLOEXEC))
        assert is_cloexec(listener)
        assert not is_cloexec(lab.own(receive(ours, 0)))
    victim.must("close", number)
    pending = victim.begin("getppid")
    kernel.send(listener, kernel.recv(listener).id, 3)
    assert pending.result() == (3, 0)


def test_c099_by_pidfd_getfd(lab: Lab, kernel: Kernel) -> None:
    victim = lab.victim()
    number = victim.install(GETPPID, NEW_LISTENER).value
    listener = lab.own(kernel.pidfd_getfd(victim.pidfd, number))
    assert is_cloexec(listener)
    assert errno_of(kernel.pidfd_getfd, victim.pidfd, 198) == errno.EBADF
    victim.must("close", number)
    pending = victim.begin("getppid")
    kernel.send(listener, kernel.recv(listener).id, 3)
    assert pending.result() == (3, 0)
    if os.geteuid() != 0:
        return

    # It takes the right to ptrace: nobody may not take from root.
    def as_nobody(_: Child) -> int:
        become_nobody()
        return errno_of(kernel.pidfd_getfd, victim.pidfd, 0)

    assert lab.child(as_nobody).result() == errno.EPERM


def test_c100_a_notified_sendmsg_cannot_hand_over(lab: Lab, raw: Raw) -> None:
    ours, its = socket.socketpair()
    with ours:
        with its:
            victim = lab.victim({its.fileno(): SOCKET})
        number = victim.install(bpf.notify("sendmsg"), NEW_LISTENER).value
        pending = victim.send_fd(SOCKET, number)
        victim.wait_blocked("sendmsg")
        with pytest.raises(BlockingIOError):
            ours.recv(1, socket.MSG_DONTWAIT)
        # It waits for an answer that only the listener it is about to send could give.
        listener = lab.own(victim.take(number))
        notification = raw.recv(listener)
        assert (notification.nr, notification.pid) == (NR["sendmsg"], victim.pid)
        assert not pending.done()
        raw.send(listener, notification.id, flags=CONTINUE)
        assert pending.result() == (1, 0)
        arrived = lab.own(receive(ours, 0))
        assert descriptors(os.getpid())[arrived] == "anon_inode:seccomp notify"


def shared_word(actor: Actor) -> int:
    """The address of a word that the actor shares with the children it will have."""
    shared_anonymous = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    read_write = mmap.PROT_READ | mmap.PROT_WRITE
    address = actor.must("mmap", 0, mmap.PAGESIZE, read_write, shared_anonymous, -1, 0)
    actor.poke(address, struct.pack("=q", -1000))
    return address


def hand_over_silently(lab: Lab, program: bytes) -> tuple[Victim, Actor, int, Pending]:
    """A helper and a target that share descriptors and one word.

    The target installs, stores the listener's number and execs, without a call in between; the
    helper, under no filter, sees the number and has the descriptor.  Returns the helper, the target,
    the listener (ours), and the exec as a pending command."""
    helper = lab.victim()
    word = shared_word(helper)
    target = helper.fork(CLONE_FILES)
    target.no_new_privs()
    fprog = target.fprog(program)
    pending = target.command("install-and-exec", NEW_LISTENER, fprog, word)

    def stored() -> int | None:
        (value,) = struct.unpack("=q", helper.peek(word, 8))
        return value if value != -1000 else None

    number = eventually("the listener's number is in shared memory", stored)
    assert number > 0
    listener = lab.own(helper.take(number))
    helper.must("close", number)
    return helper, target, listener, pending


def test_c101_shared_descriptors_and_one_word(lab: Lab, kernel: Kernel) -> None:
    program = bpf.notify("sendmsg", "close", "execve")
    _, target, listener, pending = hand_over_silently(lab, program)
    notification = kernel.recv(listener)
    assert (notification.nr, notification.pid) == (NR["execve"], target.pid)
    kernel.send(listener, notification.id, flags=CONTINUE)
    target.exec_finish(pending)
    # The helper's own close went unnoticed; the target's are all seen.
    for fd in (198, 199):
        closing = target.begin("close", fd)
        notification = kernel.recv(listener)
        assert (notification.nr, notification.args[0]) == (NR["close"], fd)
        kernel.send(listener, notification.id, 0)
        assert closing.result() == (0, 0)
    assert events(listener) == 0


def test_c102_after_exec_the_target_has_no_copy(lab: Lab, kernel: Kernel) -> None:
    helper, target, listener, pending = hand_over_silently(lab, bpf.notify("getppid"))
    target.exec_finish(pending)
    listeners = [what for what in descriptors(target.pid).values() if "seccomp" in what]
    assert listeners == []
    assert events(listener) == 0
    call = target.begin("getppid")
    kernel.send(listener, kernel.recv(listener).id, 5)
    assert call.result() == (5, 0)
    target.begin("exit_group", 0)
    target.wait_gone()
    helper.reap(target)
    assert wait_events(listener, 0) == HUP
