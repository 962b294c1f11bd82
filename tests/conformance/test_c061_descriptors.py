"""C061-C074: putting descriptors into the target."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal

import pytest

from proctor.kernel import abi
from tests.support import bpf
from tests.support.constants import SLOWNESS
from tests.support.harness import Actor
from tests.support.kernel import (
    ADDFD,
    ADDFD_SEND,
    SETFD,
    Kernel,
    Raw,
    errno_of,
    ioctl_address,
    ioctl_number,
)
from tests.support.lab import Child, Lab
from tests.support.processes import descriptors
from tests.support.waiting import IN, OUT, events, wait_events

GETPPID = bpf.notify("getppid")


def lowest_free(actor: Actor) -> int:
    """The number that the actor's next descriptor gets."""
    used = descriptors(actor.pid)
    return next(number for number in range(1024) if number not in used)


def file_of(actor: Actor, fd: int) -> str:
    return descriptors(actor.pid)[fd]


def closes_on_exec(actor: Actor, fd: int) -> bool:
    return bool(actor.must("fcntl", fd, fcntl.F_GETFD, 0) & fcntl.FD_CLOEXEC)


def addfd_sized(listener: int, size: int, data: bytes, direction: int = 1) -> int:
    """ADDFD with a structure of this size; the descriptor, or minus the errno."""
    buffer = ctypes.create_string_buffer(data + bytes(9000), 9000 + len(data))
    request = ioctl_number(direction, 3, size)
    try:
        return ioctl_address(listener, request, ctypes.addressof(buffer))
    except OSError as error:
        return -(error.errno or 0)


def test_c061_the_structure_is_extensible(lab: Lab, raw: Raw) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    ident = raw.recv(listener).id
    data = abi.SECCOMP_NOTIF_ADDFD.pack(ident, 0, lab.memfd(), 0, 0)
    for size in range(24):
        assert addfd_sized(listener, size, data) == -errno.EINVAL
    for size in (24, 25, 32, 64, 4095):
        expected = lowest_free(victim)
        assert addfd_sized(listener, size, data) == expected
    for size in (4096, 8192):
        assert addfd_sized(listener, size, data) == -errno.EINVAL
    assert addfd_sized(listener, 32, data + b"\0\0\0\0\0\0\0\1") == -errno.E2BIG
    assert errno_of(ioctl_address, listener, ADDFD, 0) == errno.EFAULT
    for direction in (0, 2, 3):
        expected = lowest_free(victim)
        assert addfd_sized(listener, 24, data, direction) == expected
    raw.send(listener, ident)
    assert pending.result() == (0, 0)


def test_c062_flags_and_numbers_that_make_no_sense(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    victim.begin("getppid")
    ident = kernel.recv(listener).id
    source = lab.memfd()
    before = descriptors(victim.pid)
    for flags, newfd, newfd_flags in [
        (0, 0, os.O_NONBLOCK),
        (0, 0, os.O_CLOEXEC | os.O_NONBLOCK),
        (4, 0, 0),
        (0xFF, 0, 0),
        (0, 5, 0),
        (ADDFD_SEND, 5, 0),
    ]:
        refused = errno_of(kernel.addfd, listener, ident, source, flags, newfd, newfd_flags)
        assert refused == errno.EINVAL
        # Before the source or the id is looked at.
        refused = errno_of(kernel.addfd, listener, ident + 1, 9999, flags, newfd, newfd_flags)
        assert refused == errno.EINVAL
    assert descriptors(victim.pid) == before


def test_c063_source_then_id_then_state(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    other = victim.thread()
    victim.begin("getppid")
    ident = kernel.recv(listener).id
    other.begin("getppid")
    wait_events(listener, IN)
    source = lab.memfd()
    assert errno_of(kernel.addfd, listener, ident, 9999) == errno.EBADF
    assert errno_of(kernel.addfd, listener, ident + 7, 9999) == errno.EBADF
    assert errno_of(kernel.addfd, listener, ident + 7, source) == errno.ENOENT
    assert errno_of(kernel.addfd, listener, ident + 1, source) == errno.EINPROGRESS


def test_c064_o_path_descriptors_cannot_be_given(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    victim.begin("getppid")
    ident = kernel.recv(listener).id
    path = lab.own(os.open("/", os.O_PATH | os.O_CLOEXEC))
    assert errno_of(kernel.addfd, listener, ident, path) == errno.EBADF
    opened = lab.own(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
    assert kernel.addfd(listener, ident, opened) >= 0


def test_c065_the_lowest_free_numbers(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    source = lab.memfd()
    first = lowest_free(victim)
    assert kernel.addfd(listener, ident, source) == first
    assert kernel.addfd(listener, ident, source, newfd_flags=os.O_CLOEXEC) == first + 1
    assert kernel.addfd(listener, ident, lab.pipe()[0]) == first + 2
    kernel.send(listener, ident, 77)
    assert pending.result() == (77, 0)
    assert file_of(victim, first) == file_of(victim, first + 1)
    assert file_of(victim, first).startswith("/memfd:test")
    assert file_of(victim, first + 2).startswith("pipe:")
    assert [closes_on_exec(victim, first + i) for i in range(3)] == [False, True, False]


def test_c066_chosen_numbers(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    read, write = lab.pipe()
    os.write(write, b"old")
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    assert kernel.addfd(listener, ident, read, SETFD, 42) == 42
    assert kernel.addfd(listener, ident, read, SETFD, 0) == 0
    new_read, new_write = lab.pipe()
    os.write(new_write, b"new")
    assert kernel.addfd(listener, ident, new_read, SETFD, 42) == 42
    for beyond in (10**6, 2**31, 2**32 - 1):
        assert errno_of(kernel.addfd, listener, ident, read, SETFD, beyond) == errno.EBADF
    kernel.send(listener, ident)
    assert pending.result() == (0, 0)
    buffer = victim.room(16)
    assert victim.call("read", 42, buffer, 16) == (3, 0)
    assert victim.peek(buffer, 3) == b"new"
    assert victim.call("read", 0, buffer, 16) == (3, 0)
    assert victim.peek(buffer, 3) == b"old"


def test_c067_add_and_answer_in_one_step(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    source = lab.memfd()
    for flags, newfd, expected in [
        (ADDFD_SEND, 0, lowest_free(victim)),
        (ADDFD_SEND | SETFD, 42, 42),
    ]:
        pending = victim.begin("getppid")
        ident = kernel.recv(listener).id
        assert kernel.addfd(listener, ident, source, flags, newfd) == expected
        assert pending.result() == (expected, 0)
        assert file_of(victim, expected).startswith("/memfd:test")
        assert errno_of(kernel.send, listener, ident) == errno.ENOENT
        assert not kernel.id_valid(listener, ident)
        assert events(listener) == 0


def test_c068_a_target_that_may_open_nothing_more(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    source = lab.memfd()
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (0, 0))
    for flags, newfd, expected in [
        (0, 0, errno.EMFILE),
        (ADDFD_SEND, 0, errno.EMFILE),
        (SETFD, 100, errno.EBADF),
        (SETFD | ADDFD_SEND, 100, errno.EBADF),
    ]:
        assert errno_of(kernel.addfd, listener, ident, source, flags, newfd) == expected
        assert kernel.id_valid(listener, ident)
        assert events(listener) == OUT
    kernel.send(listener, ident, 5)
    assert pending.result() == (5, 0)


def test_c069_a_dead_target(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    child = victim.fork()
    child.begin("getppid")
    ident = kernel.recv(listener).id
    os.kill(child.pid, signal.SIGKILL)
    victim.reap(child)
    source = lab.memfd()
    assert errno_of(kernel.addfd, listener, ident, source) == errno.ENOENT
    assert errno_of(kernel.addfd, listener, ident, source, ADDFD_SEND) == errno.ENOENT


def test_c070_added_then_cancelled_stays_in_the_target(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    victim.on_signal(signal.SIGUSR1, "count")
    pending = victim.begin("getppid")
    ident = kernel.recv(listener).id
    fd = kernel.addfd(listener, ident, lab.memfd())
    victim.signal(signal.SIGUSR1)
    assert pending.result() == (-1, errno.EINTR)
    assert errno_of(kernel.send, listener, ident, fd) == errno.ENOENT
    assert file_of(victim, fd).startswith("/memfd:test")


def test_c071_the_offset_is_shared(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    source = lab.memfd(b"0123456789")
    pending = victim.begin("getppid")
    fd = kernel.addfd(listener, kernel.recv(listener).id, source, ADDFD_SEND)
    assert pending.result() == (fd, 0)
    buffer = victim.room(16)
    assert victim.call("read", fd, buffer, 4) == (4, 0)
    assert os.lseek(source, 0, os.SEEK_CUR) == 4
    assert os.read(source, 2) == b"45"
    assert victim.call("lseek", fd, 0, os.SEEK_CUR) == (6, 0)


def test_c072_even_the_listener_can_be_given(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(GETPPID)
    pending = victim.begin("getppid")
    fd = kernel.addfd(listener, kernel.recv(listener).id, listener, ADDFD_SEND)
    assert pending.result() == (fd, 0)
    assert file_of(victim, fd) == "anon_inode:seccomp notify"


def test_c073_an_open_answered_with_synthetic_content(lab: Lab, kernel: Kernel) -> None:
    victim, listener = lab.listener(bpf.notify("openat"))
    path = victim.string(b"/etc/os-release")
    pending = victim.begin("openat", -100, path, os.O_RDONLY | os.O_CLOEXEC, 0)
    notification = kernel.recv(listener)
    assert notification.args[2] & os.O_CLOEXEC
    source = lab.memfd(b"NAME=synthetic\n")
    fd = kernel.addfd(listener, notification.id, source, ADDFD_SEND, newfd_flags=os.O_CLOEXEC)
    assert pending.result() == (fd, 0)
    buffer = victim.room(64)
    assert victim.call("read", fd, buffer, 64) == (15, 0)
    assert victim.peek(buffer, 15) == b"NAME=synthetic\n"
    victim.exec_finish(victim.exec())
    assert fd not in descriptors(victim.pid)


def hand_over_under_signals(
    kernel: Kernel, listener: int, source: int, count: int, hold_back: bool
) -> tuple[int, int]:
    """In a throw-away process: answer ``count`` calls by ADDFD|SEND while a timer of 0.3 ms fires.

    Returns how often the hand-over was interrupted, and how often it could not be retried since
    the call had been answered without it."""
    if hold_back:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    interrupted = lost = done = 0
    while done < count:
        try:
            ident = kernel.recv(listener).id
        except InterruptedError:
            continue
        while True:
            try:
                kernel.addfd(listener, ident, source, ADDFD_SEND)
            except InterruptedError:
                interrupted += 1
                continue
            except OSError as error:
                assert error.errno in (errno.ENOENT, errno.EINPROGRESS)
                lost += 1
            break
        done += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    return interrupted, lost


@pytest.mark.parametrize("hold_back", [False, True], ids=["signals", "signals-blocked"])
def test_c074_add_and_answer_under_signals(lab: Lab, kernel: Kernel, hold_back: bool) -> None:
    count = int(20000 / SLOWNESS)
    victim, listener = lab.listener(GETPPID)
    source = lab.memfd()

    def monitor(_: Child) -> tuple[int, int]:
        return hand_over_under_signals(kernel, listener, source, count, hold_back)

    child = lab.child(monitor)
    pending = victim.command("descriptors", count, bpf.number("getppid"), 0, 0, 0, 0, 0)
    good, zero, not_open, failed = pending.counts(20)
    interrupted, lost = child.result(20)
    assert (not_open, failed) == (0, 0)
    assert good + zero == count
    # An unfixed kernel answers 0 without a descriptor when it is interrupted; a fixed one lets the
    # retry do it.  Either way nothing goes wrong but those.
    assert zero == lost <= interrupted
    if hold_back or kernel.name == "core":
        assert (zero, interrupted) == (0, 0)
    elif lost:
        print(f"this kernel loses interrupted hand-overs: {lost} of {count}")
